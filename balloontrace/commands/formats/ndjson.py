# SPDX-License-Identifier: GPL-2.0-or-later
"""A JSON object a line, for what reads events one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balloontrace.commands.formats import Format, Pieces

if TYPE_CHECKING:
    from balloontrace.analysis.make_report import Examined


def _export(examined: Examined) -> Pieces:
    from balloontrace.export.event_rows import described_events
    from balloontrace.render.export.ndjson import render_ndjson

    return render_ndjson(described_events(examined))


FORMAT = Format(
    "ndjson", ".ndjson", export=_export, export_help="a JSON object a line, metadata first, losses last"
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""A time line that ui.perfetto.dev and chrome://tracing open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balloontrace.commands.formats import Format, Pieces

if TYPE_CHECKING:
    from balloontrace.analysis.make_report import Examined


def _export(examined: Examined) -> Pieces:
    from balloontrace.export.make_time_line import build_timeline
    from balloontrace.render.export.perfetto import render_perfetto

    return render_perfetto(build_timeline(examined))


FORMAT = Format(
    "perfetto", ".json", export=_export, export_help="a time line for ui.perfetto.dev and chrome://tracing"
)

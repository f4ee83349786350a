# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as JSON: the fields of `results.py` under their own names, only ever added to; null: unknown."""

from __future__ import annotations

import dataclasses
import json

from balloontrace.results import Report


def render_json(report: Report) -> str:
    """One object, indented, with a line end."""
    fields = dataclasses.asdict(report)
    for shown, loss in zip(fields["losses"], report.losses, strict=True):
        shown["events_lost"] = loss.events_lost
    return json.dumps(fields, indent=1, allow_nan=False) + "\n"

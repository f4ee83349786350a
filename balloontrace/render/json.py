# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as JSON: the fields of `results.py` and `comparison.py` under their own names; null: unknown.

Fields are only ever added to.
"""

from __future__ import annotations

import dataclasses
import json

from balloontrace.comparison import Comparison
from balloontrace.results import Report


def render_json(report: Report) -> str:
    """One object, indented, with a line end."""
    fields = dataclasses.asdict(report)
    for shown, loss in zip(fields["losses"], report.losses, strict=True):
        shown["events_lost"] = loss.events_lost
    return json.dumps(fields, indent=1, allow_nan=False) + "\n"


def render_comparison_json(comparison: Comparison) -> str:
    """One object, indented, with a line end."""
    return json.dumps(dataclasses.asdict(comparison), indent=1, allow_nan=False) + "\n"

# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as JSON: the fields of `report.py` and `comparison.py` under their own names; null: unknown.

Fields are only ever added to.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from balloontrace.results.comparison import Comparison
from balloontrace.results.fleet_answer import Answer
from balloontrace.results.measurement import Measurement
from balloontrace.results.recorder import Loss
from balloontrace.results.report import Report

# Nothing else has this indentation: text has no line ends in JSON.
_NO_OPERATIONS = '\n "operations": []'


def render_json(report: Report) -> str:
    """One object, indented, with a line end.

    Operations one by one: tens of thousands of them would take several times as much as objects.
    """
    others = report_fields(dataclasses.replace(report, operations=()))
    text = json.dumps(others, indent=1, allow_nan=False) + "\n"
    if not report.operations:
        return text
    shown = (
        json.dumps(dataclasses.asdict(operation), indent=1, allow_nan=False).replace("\n", "\n  ")
        for operation in report.operations
    )
    before, after = text.split(_NO_OPERATIONS, 1)
    return "".join([before, _NO_OPERATIONS[:-1], "\n  ", ",\n  ".join(shown), "\n ]", after])


def report_fields(report: Report) -> dict[str, Any]:
    """The report as objects and lists."""
    fields = dataclasses.asdict(report)
    _add_events_lost(fields["losses"], report.losses)
    if report.host is not None:
        _add_events_lost(fields["host"]["losses"], report.host.losses)
    return fields


def _add_events_lost(shown: list[dict[str, Any]], losses: Sequence[Loss]) -> None:
    """What each loss sums up to, which is no field of it."""
    for fields, loss in zip(shown, losses, strict=True):
        fields["events_lost"] = loss.events_lost


def render_comparison_json(comparison: Comparison) -> str:
    """One object, indented, with a line end."""
    return json.dumps(dataclasses.asdict(comparison), indent=1, allow_nan=False) + "\n"


def render_measurement_json(measurement: Measurement) -> str:
    """One object, indented, with a line end."""
    return json.dumps(dataclasses.asdict(measurement), indent=1, allow_nan=False) + "\n"


def render_answer_json(answer: Answer) -> str:
    """One object, indented, with a line end; each row is an object of its cells by column."""
    names = [column.name for column in answer.columns]
    fields = {
        **{name: getattr(answer, name) for name in ("question", "title", "dataset", "engine", "recordings")},
        "columns": [{"name": column.name, "unit": column.unit or None} for column in answer.columns],
        "rows": [dict(zip(names, row, strict=True)) for row in answer.rows],
        "notes": answer.notes,
    }
    return json.dumps(fields, indent=1, allow_nan=False) + "\n"

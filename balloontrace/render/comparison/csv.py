# SPDX-License-Identifier: GPL-2.0-or-later
"""A comparison as one CSV table: units in the header or in `unit`, empty = not measured.

`level` says what a row is: `time` and `count` are the rows of the tables, `part_of` marking one that is part
of another; `replicate` is one value of one operation, or `started_ns`, when it began. Of what is neither
inflate nor deflate, `kind` is report, hint, oom or statistics, and a replicate is a recording; `difference`,
`left_out`, `note` and `warning` carry a sentence in `note`, and `method` says how the numbers were found.
Ratios are after to before. The numbers are those of the JSON, to the last digit; `pandas.read_csv` loads it
without options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from balloontrace.render.csv_rows import render_rows
from balloontrace.results.comparison import Comparison, Group, Replicate, Row, Run, RunGroup, Side

_STATISTICS = ("ratio", "ratio_low", "ratio_high", "p_value", "p_adjusted", "verdict")
_SPREAD = ("n", "median", "minimum", "maximum")

COLUMNS = (
    "level",
    "kind",
    "pages",
    "side",
    "recording",
    "operation",
    "name",
    "label",
    "part_of",
    "unit",
    *(f"{name}_{side}" for side in ("before", "after") for name in _SPREAD),
    *_STATISTICS,
    "value",
    "note",
    "host_recording",
)

_Cells = dict[str, object]


def render_comparison_csv(comparison: Comparison) -> str:
    """The whole table, header first."""
    rows = ([row.get(name) for name in COLUMNS] for row in _rows(comparison))
    return render_rows(COLUMNS, rows, header=True)


def _rows(comparison: Comparison) -> Iterator[_Cells]:
    for warning in comparison.warnings:
        yield {"level": "warning", "note": warning}
    for difference in comparison.differences:
        note = f"{'expected: ' if difference.expected else ''}{difference.text}"
        yield {"level": "difference", "name": difference.name, "note": note}
    for name, side in (("before", comparison.before), ("after", comparison.after)):
        yield from _side(name, side)
    for each in comparison.left_out:
        for operation, kind in zip(each.operations, each.kinds, strict=True):
            yield {
                "level": "left_out",
                "kind": kind,
                "side": each.side,
                "recording": each.recording,
                "operation": operation,
                "note": each.reason,
            }
    for group in comparison.groups:
        same: _Cells = {"kind": group.kind, "pages": group.pages}
        yield from ({**same, **row} for row in _group(group))
    for runs in comparison.run_groups:
        yield from ({"kind": runs.what, **row} for row in _group(runs))
    for field in fields(comparison.method):
        yield {"level": "method", "name": field.name, "note": getattr(comparison.method, field.name)}


def _side(name: str, side: Side) -> Iterator[_Cells]:
    """What the recordings of a side lost and cost."""
    for field, unit in (
        ("operations", ""),
        ("events_lost", ""),
        ("events_seen", ""),
        ("bpf_time_ns", "ns"),
        ("cpu_ns", "ns"),
    ):
        yield {"level": "side", "side": name, "name": field, "unit": unit, "value": getattr(side, field)}


def _group(group: Group | RunGroup) -> Iterator[_Cells]:
    for note in group.notes:
        yield {"level": "note", "note": note}
    for level, rows in (("time", group.times), ("count", group.counts)):
        yield from ({"level": level, **_row(row)} for row in rows)
    units = {row.name: row.unit for row in (*group.times, *group.counts)}
    for side, replicates in (("before", group.before), ("after", group.after)):
        for replicate in replicates:
            yield from ({"level": "replicate", "side": side, **cells} for cells in _values(replicate, units))


def _row(row: Row) -> _Cells:
    return {
        **{name: getattr(row, name) for name in ("name", "label", "part_of", "unit", *_STATISTICS)},
        **{f"{name}_before": getattr(row.before, name) for name in _SPREAD},
        **{f"{name}_after": getattr(row.after, name) for name in _SPREAD},
    }


def _values(replicate: Replicate | Run, units: dict[str, str]) -> Iterator[_Cells]:
    started = {} if isinstance(replicate, Run) else {"started_ns": replicate.started_ns}
    for name, value in {**started, **replicate.values}.items():
        yield {
            "recording": replicate.recording,
            "host_recording": replicate.host_recording,
            "operation": None if isinstance(replicate, Run) else replicate.operation,
            "name": name,
            "unit": units.get(name, "ns"),
            "value": value,
        }

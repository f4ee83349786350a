# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of made-up flows, compared with what the flow did."""

from __future__ import annotations

import synthetic
from flows import Expected, Flow

from balloontrace.analysis.make_report import analyse
from balloontrace.results.operation import Operation, StageRow
from balloontrace.results.report import Report


def report_of(*flows: Flow, ended: bool = True, **changes: object) -> Report:
    return analyse(synthetic.recording(*flows, ended=ended, changes=changes))


def stage(rows: tuple[StageRow, ...], name: str) -> StageRow:
    return next(row for row in rows if row.stage == name)


def total_ns(operation: Operation, name: str) -> int:
    return sum(row.total_ns or 0 for row in operation.stages if row.stage == name)


def assert_is(operation: Operation, expected: Expected) -> None:
    """The operation is what the flow did, to the nanosecond."""
    assert operation.device == f"virtio{expected.device}"
    assert operation.kind == expected.kind
    assert operation.started_ns == expected.start_ns
    assert operation.wall_ns == expected.wall_ns
    assert operation.pages == expected.pages
    assert operation.sends == expected.sends
    assert operation.short_work_items == expected.short
    names = (
        "a",
        "a.extend",
        "b.build",
        "b+c+d",
        "other.config",
        "other.work_item",
        "other.requeue",
        "other.interrupt",
        "other.rest",
    )
    assert {name: total_ns(operation, name) for name in names} == {
        "a": expected.a_ns,
        "a.extend": expected.extend_ns,
        "b.build": expected.build_ns,
        "b+c+d": expected.bcd_ns,
        "other.config": expected.config_ns,
        "other.work_item": expected.outside_body_ns,
        "other.requeue": expected.requeue_ns,
        "other.interrupt": expected.interrupt_ns,
        "other.rest": 0,
    }


def assert_adds_up(report: Report) -> None:
    tables = [(each.stages, each.wall_ns) for each in report.operations]
    tables += [(each.stages, each.wall_ns) for each in report.totals]
    for rows, wall_ns in tables:
        tops = [row.total_ns or 0 for row in rows if row.part_of is None]
        parts = [row.total_ns or 0 for row in rows if row.part_of == "other"]
        assert sum(tops) == wall_ns
        assert sum(parts) == stage(rows, "other").total_ns

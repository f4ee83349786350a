# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as one CSV table: units in the header, integers in ns, empty = not measured.

`level` says what a row is: `operation` and `total` sum up, `stage` and `total_stage` are the rows of their
stage tables (`part_of` marks a row that is part of another), `warning` carries in `note` what is damaged,
lost or missing. `pandas.read_csv` loads it without options.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from balloontrace.results import Operation, Report, StageRow, Total

COLUMNS = (
    "level",
    "operation",
    "device",
    "kind",
    "outcome",
    "started_ns",
    "wall_ns",
    "target_pages",
    "pages",
    "rate_bytes_per_s",
    "sends",
    "work_items",
    "short_work_items",
    "short_ns",
    "stage",
    "name",
    "where",
    "part_of",
    "count",
    "total_ns",
    "share_ratio",
    "p50_ns",
    "p90_ns",
    "p99_ns",
    "max_ns",
    "note",
)

Row = dict[str, object]


def render_csv(report: Report) -> str:
    """The whole table, header first."""
    return render_rows(COLUMNS, ([row.get(name) for name in COLUMNS] for row in _rows(report)), header=True)


def render_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], *, header: bool) -> str:
    """Rows as CSV; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _rows(report: Report) -> Iterator[Row]:
    for warning in report.warnings:
        yield {"level": "warning", "note": warning}
    for operation in report.operations:
        yield _operation(operation)
        same: Row = {"operation": operation.number, "device": operation.device, "kind": operation.kind}
        for stage in operation.stages:
            yield {"level": "stage", **same, **_stage(stage)}
    for total in report.totals:
        yield _total(total)
        for stage in total.stages:
            yield {"level": "total_stage", "kind": total.kind, **_stage(stage)}


def _operation(operation: Operation) -> Row:
    return {
        "level": "operation",
        "operation": operation.number,
        "device": operation.device,
        "kind": operation.kind,
        "outcome": operation.outcome,
        "started_ns": operation.started_ns,
        "wall_ns": operation.wall_ns,
        "target_pages": operation.target_pages,
        "pages": operation.pages,
        "rate_bytes_per_s": _whole(operation.rate_bytes_per_s),
        "sends": operation.sends,
        "work_items": operation.work_items,
        "short_work_items": operation.short_work_items,
        "short_ns": operation.short_ns,
        "note": "; ".join(operation.verdict) or None,
    }


def _total(total: Total) -> Row:
    return {
        "level": "total",
        "kind": total.kind,
        "wall_ns": total.wall_ns,
        "pages": total.pages,
        "rate_bytes_per_s": _whole(total.rate_bytes_per_s),
        "sends": total.sends,
    }


def _stage(stage: StageRow) -> Row:
    return {
        "stage": stage.stage,
        "name": stage.name,
        "where": stage.where,
        "part_of": stage.part_of,
        "count": stage.count,
        "total_ns": stage.total_ns,
        "share_ratio": None if stage.share is None else f"{stage.share:.9f}",
        "p50_ns": stage.p50_ns,
        "p90_ns": stage.p90_ns,
        "p99_ns": stage.p99_ns,
        "max_ns": stage.max_ns,
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)

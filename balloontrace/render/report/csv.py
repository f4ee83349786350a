# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as one CSV table: units in the header, integers in ns, empty = not measured.

`level` says what a row is: `operation` and `total` sum up. `stage` and `total_stage` are the rows of their
stage tables; `part_of` marks a row that is part of another. `other_operation` is what the driver did besides
its work items: `count` calls of the function `name` took `total_ns`. `hint` sums up the free pages hinted in
a migration, `hint_command` those of the command id in `value`, `hint_return` those that came back, by `kind`.
`report_cycle` is a cycle of free page reporting, with its `reports` and `blocks`. `warning` has in `note`
what is damaged, lost or missing. Of captured payloads, `payload` sums up an operation, and `send` is one of
its sends (`payload`: how much of it is known). `run_order` counts the runs of 2^order pages and up that the
named pages are in, and `record_order` the records of 2^order pages. `what_if` has the same pages in the
format `name`: `count` calls of the host, and an estimate of `total_ns` between `least_ns` and `most_ns`
(`value`: how many blocks of 2 MiB are whole); `what_if_stage` is a stage of that, whose time is taken to
grow with what `note` says. Every other number of the JSON report is a row `value`: `name` is where it
stands there, `own_cost.cpu_ns` for one; an entry of a list goes by its first field,
`losses.tell_host.entries`, or where that is not unique by its place. `pandas.read_csv` loads it without
options; `value` is a column of floats then, and an integer too large for one has all of its digits in
`note` as well. Text that a spreadsheet would take for a formula stands behind an apostrophe: names and
labels are a stranger's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from balloontrace.render.csv_rows import render_rows
from balloontrace.render.json import report_fields
from balloontrace.results.operation import Operation, StageRow, Total
from balloontrace.results.other_operation import OtherOperation
from balloontrace.results.page_hinting import HintOperation
from balloontrace.results.report import Report

_BITMAP = ("passes", "windows", "bitmaps", "mid_window_sends")
_PAYLOAD = (
    "bytes_sent",
    "header_bytes",
    "runs_named",
    "pages_named",
    "pages_repeated",
    "pages_in_balloon_before",
)
_RECORDS = ("records", "bitmap_words", "plain_runs", "pages_by_words", "pages_by_runs", "bits_carried")
_CONTIGUITY = ("pfn_first", "pfn_last", "longest_run_pages")
_CYCLE = ("reports", "blocks", "worker_ns", "transport_ns", "host_c_ns", "host_d_ns", "pages_again")

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
    *_BITMAP,
    "payload",
    *_PAYLOAD,
    *_RECORDS,
    "order",
    "runs",
    *_CONTIGUITY,
    "value",
    "error_ns",
    "least_ns",
    "most_ns",
    *_CYCLE,
)
# What has rows of its own.
_OWN_ROWS = ("totals", "stages", "payload_sends", "run_orders", "plain_run_orders", "what_if", "each_cycle")

Row = dict[str, object]

LARGEST_EXACT = 1 << 53
"""Up to here each integer is a float."""


def render_csv(report: Report) -> str:
    """The whole table, header first."""
    return render_rows(COLUMNS, ([row.get(name) for name in COLUMNS] for row in _rows(report)), header=True)


def _rows(report: Report) -> Iterator[Row]:
    for warning in report.warnings:
        yield {"level": "warning", "note": warning}
    for operation in report.operations:
        yield _operation(operation)
        same: Row = {"operation": operation.number, "device": operation.device, "kind": operation.kind}
        for stage in operation.stages:
            yield {"level": "stage", **same, **_stage(stage)}
        for row in (*_payload(operation), *_what_if(operation)):
            yield {**same, **row}
        for name, value in _numbers(dataclasses.asdict(operation)):
            if name.rpartition(".")[2] not in (*COLUMNS, "number"):
                yield _value(name, value, same)
    for total in report.totals:
        yield _total(total)
        for stage in total.stages:
            yield {"level": "total_stage", "kind": total.kind, **_stage(stage)}
    for other in report.other_operations:
        yield _other(other)
    for hint in report.page_hinting.operations if report.page_hinting else ():
        yield from _hint(hint)
    for cycle in report.page_reporting.each_cycle if report.page_reporting else ():
        yield {"level": "report_cycle", **_fields(cycle, ("started_ns", "wall_ns", "pages", *_CYCLE))}
    for name, value in _numbers(report_fields(dataclasses.replace(report, operations=()))):
        yield _value(name, value, {})


def _other(other: OtherOperation) -> Row:
    """What the driver did besides work items; its numbers are values of the report as well."""
    return {
        "level": "other_operation",
        "device": other.device,
        "kind": other.what,
        "started_ns": other.started_ns,
        "wall_ns": other.wall_ns,
        "target_pages": other.target_after_pages,
        "pages": other.pages,
        "name": other.function,
        "count": other.calls,
        "total_ns": other.calls_ns,
    }


def _hint(hint: HintOperation) -> Iterator[Row]:
    """What was hinted in a migration and how it came back; its numbers are values of the report as well."""
    same: Row = {"operation": hint.number, "device": hint.device}
    names = ("started_ns", "pages", "rate_bytes_per_s")
    in_all = {"wall_ns": hint.wall_ns, "count": len(hint.rounds), "total_ns": hint.sending_ns}
    yield {"level": "hint", **same, **_fields(hint, names), **in_all}
    for each in hint.rounds:
        told = {"value": each.command_id, "total_ns": each.duration_ns, "note": each.ended_by}
        yield {"level": "hint_command", **same, **_fields(each, names), **told}
    for back in hint.returns:
        told = {"kind": back.why, "count": back.calls, "total_ns": back.duration_ns}
        yield {"level": "hint_return", **same, **_fields(back, names[:2]), **told}


def _value(name: str, value: float, same: Row) -> Row:
    large = isinstance(value, int) and abs(value) > LARGEST_EXACT
    return {
        "level": "value", **same, "name": name, "value": value, "note": f"exactly {value}" if large else None
    }  # fmt: skip


def _numbers(fields: Mapping[str, object], place: str = "") -> Iterator[tuple[str, int | float]]:
    """Every number among fields of the JSON report, and the way to it; not what has rows of its own."""
    for name, value in fields.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{place}{name}", value
        elif name in _OWN_ROWS:
            continue
        elif isinstance(value, Mapping):
            yield from _numbers(value, f"{place}{name}.")
        elif isinstance(value, list | tuple):
            named = [next(iter(each.values())) for each in value if isinstance(each, Mapping)]
            told_apart = len(set(named)) == len(value)
            keys = map(str, named if told_apart else range(len(value)))
            yield from _numbers(dict(zip(keys, value, strict=True)), f"{place}{name}.")


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
        "rate_bytes_per_s": operation.rate_bytes_per_s,
        "sends": operation.sends,
        "work_items": operation.work_items,
        "short_work_items": operation.short_work_items,
        "short_ns": operation.short_ns,
        "note": "; ".join(operation.verdict) or None,
        **_fields(operation.bitmap, (*_BITMAP, "bytes_sent")),
    }


def _payload(operation: Operation) -> Iterator[Row]:
    """What an operation's sends carried, in all and one by one."""
    statistics, sends = operation.payload, operation.payload_sends
    if statistics is None or sends is None:
        return
    distinct, records = statistics.distinct, statistics.of_records
    yield {
        "level": "payload",
        "name": statistics.encoding,
        "sends": statistics.sends,
        "pages": distinct.pages,
        "runs": distinct.runs,
        "note": statistics.first_refusal,
        **_fields(statistics, _PAYLOAD),
        **_fields(records, _RECORDS),
        **_fields(distinct, _CONTIGUITY),
    }
    for level, orders in (
        ("run_order", distinct.run_orders),
        ("record_order", records.plain_run_orders if records else ()),
    ):
        for each in orders:
            yield {"level": level, **_fields(each, ("order", "runs", "pages"))}
    columns = dataclasses.asdict(sends)
    for values in zip(*columns.values(), strict=True):
        send = dict(zip(columns, values, strict=True))
        yield {
            "level": "send",
            "started_ns": send["start_ns"],
            "payload": send["state"],
            "pages": send["new_pages"],
            "pages_named": send["pages"],
            "pages_by_words": send["bits_set"],
            "pfn_first": send["first_pfn"],
            "pfn_last": send["last_pfn"],
            **{
                name: send[name]
                for name in ("bytes_sent", "records", "bitmap_words", "plain_runs", "runs_named")
            },
        }


def _what_if(operation: Operation) -> Iterator[Row]:
    """The operation's pages in other formats."""
    what_if = operation.what_if
    if what_if is None:
        return
    bounds = ("least_ns", "most_ns")
    same: Row = {"pages": what_if.pages, "value": what_if.whole_blocks}
    for each in what_if.formats:
        told = {"name": each.format, "count": each.host_calls, "total_ns": each.estimate_ns}
        counts = ("sends", "records", "bytes_sent")
        yield {"level": "what_if", **same, **told, **_fields(each, (*counts, *bounds))}
        for stage in each.stages:
            told = {"name": each.format, "total_ns": stage.estimate_ns, "note": stage.grows_with}
            yield {"level": "what_if_stage", "stage": stage.stage, **told, **_fields(stage, bounds)}


def _fields(result: object, names: Iterable[str]) -> Row:
    """Some fields of a result by their names; nothing of what there is not."""
    return {} if result is None else {name: getattr(result, name) for name in names}


def _total(total: Total) -> Row:
    return {
        "level": "total",
        "kind": total.kind,
        "wall_ns": total.wall_ns,
        "pages": total.pages,
        "rate_bytes_per_s": total.rate_bytes_per_s,
        "sends": total.sends,
        "count": total.operations,
    }


def _stage(stage: StageRow) -> Row:
    return {
        "stage": stage.stage,
        "name": stage.name,
        "where": stage.where,
        "part_of": stage.part_of,
        "count": stage.count,
        "total_ns": stage.total_ns,
        "share_ratio": stage.share,
        "p50_ns": stage.p50_ns,
        "p90_ns": stage.p90_ns,
        "p99_ns": stage.p99_ns,
        "max_ns": stage.max_ns,
        "error_ns": stage.error_ns,
    }

# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations of a guest: one table of all, then where the time of each went."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

from balloontrace.format.stages import find_stage
from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Line, Name, Number, Section, Table, Title, words
from balloontrace.render.blocks_text import NAME_COLUMNS, clip
from balloontrace.render.report.host_memory_section import describe_memory_of
from balloontrace.render.report.payload_section import describe_bitmaps, describe_payload
from balloontrace.render.report.what_if_section import describe_what_if
from balloontrace.results.host_memory import Verdict
from balloontrace.results.operation import Operation, StageRow, Total, longest
from balloontrace.results.report import Report
from balloontrace.units import (
    ESTIMATED,
    NOT_MEASURED,
    format_count,
    format_duration_ns,
    format_share,
    format_things,
)

# More than these would bury the totals; CSV and JSON hold all of them.
_LISTED_OPERATIONS = 40
_DETAILED_OPERATIONS = 6


def explain_no_operation(report: Report) -> str:
    """What it means that a guest's report has no operation."""
    if report.pages_unseen:
        return "pages moved, and none of their operations is in this recording."
    if report.pages_moved == 0:
        return "the balloon did not move while this was recorded."
    if report.pages_moved:
        return "what moved belongs to none."
    return "none is in this recording; whether the balloon moved is not known."


def describe_operations(report: Report) -> Section:
    """All of them, or the longest, in one table."""
    if not report.operations:
        return [Line(f"No operation: {explain_no_operation(report)}")]
    more = len(report.operations) - _LISTED_OPERATIONS
    hint = f"{_LISTED_OPERATIONS} longest, {format_count(more)} shorter: --format csv has them all"
    listed = longest(report.operations, _LISTED_OPERATIONS)
    return [operation_table(listed), *([Line(hint)] if more > 0 else [])]


def operation_table(operations: Iterable[Operation], described: Container[int] | None = None) -> Table:
    """An operation a row. A page has their sends too; of those it has `described`, the number leads there."""
    sends = described is not None
    rows = [
        (
            _number(operation.number, described or ()),
            operation.device,
            operation.kind,
            numbers.count(operation.pages),
            numbers.pages(operation.pages),
            numbers.duration(operation.wall_ns),
            numbers.rate(operation.rate_bytes_per_s),
            operation.outcome or NOT_MEASURED,
            *((numbers.count(operation.sends),) if sends else ()),
        )
        for operation in operations
    ]
    names = ["#", "device", "kind", "pages", "size", "wall", "rate", "outcome", *(["sends"] if sends else [])]
    return Table(names, rows, "rllrrrrl" + "r" * sends, {1: NAME_COLUMNS})


def _number(number: int, described: Container[int]) -> Name:
    return Name(str(number), target=f"operation-{number}" if number in described else "")


def describe_why(operations: Sequence[Operation], most: int | None = None) -> Section:
    """What stands out, by operation: of the longest ones, and of each the first `most` sentences."""
    told = longest(operations, _DETAILED_OPERATIONS)
    items = [
        Item(words("{} {}: {}", str(operation.number), operation.kind, sentence))
        for operation in told
        for sentence in operation.verdict[:most]
    ]
    return [Title("Why, and what it did to the guest"), *items] if items else []


def describe_details(report: Report) -> list[Section]:
    """Stage tables: of each operation while they are few, and of each kind that occurred more than once."""
    shown = report.operations if len(report.operations) <= _DETAILED_OPERATIONS else ()
    sections = [
        section
        for operation in shown
        for section in (*describe_operation(operation), *describe_what_if(operation))
    ]
    return sections + [describe_total(total) for total in report.totals if total.operations > 1 or not shown]


def describe_operation(operation: Operation, *, whole: bool = False) -> list[Section]:
    """Where its time went, how that is known, what its sends named; `whole` as for `describe_total`."""
    title = words(
        "Operation {}: {} of {}, {} to {} (target {}), {}",
        str(operation.number),
        operation.kind,
        clip(operation.device),
        numbers.pages(operation.actual_before_pages),
        numbers.pages(operation.actual_after_pages),
        numbers.pages(operation.target_pages),
        numbers.things(operation.sends, "send"),
    )
    payload = [] if operation.payload is None else describe_payload(operation.number, operation.payload)
    return [[Title(title), _stages(operation.stages, whole=whole), *_found(operation)], *payload]


def describe_estimate(samples: int | None, error_ns: int) -> str:
    """What an estimate of c and d is made of."""
    return (
        f"c and d are estimates by {format_things(samples or 0, 'sample')}: "
        f"within {format_duration_ns(error_ns)} in 19 of 20 cases"
    )


def _found(operation: Operation) -> Iterator[Item]:
    errors_ns = [row.error_ns for row in operation.stages if row.error_ns is not None]
    if errors_ns and operation.served is not None:
        yield Item(describe_estimate(operation.served.samples, errors_ns[0]))
    if operation.freed is not None and operation.freed.verdict is Verdict.UNKNOWN:
        yield from describe_memory_of(operation.freed, None)
    if operation.bitmap is not None:
        yield Item(describe_bitmaps(operation.bitmap))


def describe_total(total: Total, *, whole: bool = False) -> Section:
    """All operations of a kind together; `whole` has full names, and parts that took no time, for a page."""
    title = words(
        "All {}: {} in {}, {}, {}",
        numbers.things(total.operations, f"{total.kind} operation"),
        numbers.pages(total.pages),
        numbers.duration(total.wall_ns),
        numbers.rate(total.rate_bytes_per_s),
        numbers.things(total.sends, "send"),
    )
    return [Title(title), _stages(total.stages, whole=whole)]


def _stages(stages: Iterable[StageRow], *, whole: bool = False) -> Table:
    rows = [
        (
            _full_name(stage) if whole else _short_name(stage),
            stage.where if whole else stage.where.short,
            Number(NOT_MEASURED if stage.count is None else str(stage.count), stage.count),
            _total_time(stage),
            Number(format_share(stage.share).replace(" ", ""), stage.share),
            numbers.duration(stage.p50_ns),
            numbers.duration(stage.p90_ns),
            numbers.duration(stage.p99_ns),
            numbers.duration(stage.max_ns),
        )
        for stage in stages
        if whole or stage.part_of is None or stage.total_ns
    ]
    return Table(("stage", "where", "n", "total", "share", "p50", "p90", "p99", "max"), rows, "llrrrrrrr")


def _total_time(stage: StageRow) -> Number:
    """How long it took; of an estimate, said to be one."""
    shown = numbers.duration(stage.total_ns)
    return shown if stage.error_ns is None else Number(f"{ESTIMATED}{shown}", shown.value, shown.unit)


def _full_name(stage: StageRow) -> Name:
    is_part = stage.part_of is not None
    code = "" if is_part else f"{stage.stage} "
    return Name(code, stage.name, key=stage.stage, is_part=is_part)


def _short_name(row: StageRow) -> str:
    stage = find_stage(row.stage)
    return f"{row.stage} {row.name}" if stage is None else stage.short_for(row.name, row.part_of)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations into stage tables: integer nanoseconds which add up to the wall time exactly.

Seen from the guest alone: `a` is the fill or leak (or the work item that stands in for it) less its sends
and configuration accesses; `b+c+d` is the time inside `tell_host`, which only the host's side can split;
`other` is the wall time less those two, and the rows below it say where it went. Where sends were not
traced, a cannot be told from b+c+d either, and their sum stands as `a+b+c+d`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from balloontrace.operations import NO_OPERATION, Operations
from balloontrace.results import INFLATE, StageRow
from balloontrace.stats import Distribution, distributions, sums
from balloontrace.wire import Column, Spans

STAGE_A = "a"
STAGE_BCD = "b+c+d"
STAGE_OTHER = "other"
STAGE_UNSPLIT = "a+b+c+d"

GUEST_KERNEL = "guest kernel"
GUEST_AND_HOST = "guest and host"


@dataclass(frozen=True, slots=True)
class _Series:
    """Durations of one stage, each with the operation it belongs to."""

    values_ns: Column
    operation: Column


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the stages of all operations are made of."""

    wall_ns: Column
    allocate: _Series
    send: _Series
    config: _Series
    config_calls: Column
    config_measured: Column
    outside_body: _Series
    requeue: _Series
    interrupt: _Series


class StageTables:
    """Stage rows for each operation and for any grouping of them."""

    def __init__(self, spans: Spans, operations: Operations, *, sends_traced: bool) -> None:
        self._sends_traced = sends_traced
        self._kinds = [operation.kind for operation in operations.found]
        self._parts = _measure(spans, operations)

    def of_operations(self) -> list[tuple[StageRow, ...]]:
        """The stage rows of every operation, in the order of `Operations.found`."""
        return self._tables(np.arange(len(self._kinds)), self._kinds)

    def of_kinds(self) -> dict[str, tuple[StageRow, ...]]:
        """The stage rows of all operations of one kind together, for each kind that occurred."""
        kinds = sorted(set(self._kinds))
        group = np.array([kinds.index(kind) for kind in self._kinds], dtype=np.int64)
        return dict(zip(kinds, self._tables(group, kinds), strict=True))

    def _tables(self, group_of_operation: Column, kinds: list[str]) -> list[tuple[StageRow, ...]]:
        """One table a group of operations; `kinds[g]` is what the operations of group g do."""
        parts, groups = self._parts, len(kinds)

        def spread(series: _Series) -> list[Distribution]:
            return distributions(series.values_ns, group_of_operation[series.operation], groups)

        series = [
            spread(series)
            for series in (
                parts.allocate,
                parts.send,
                parts.config,
                parts.outside_body,
                parts.requeue,
                parts.interrupt,
            )
        ]
        wall_ns = sums(parts.wall_ns, group_of_operation, groups).tolist()
        calls = sums(parts.config_calls, group_of_operation, groups).tolist()
        measured = (sums(parts.config_measured, group_of_operation, groups) > 0).tolist()
        return [
            _rows(kind, wall, (self._sends_traced, call if known else None), *each)
            for kind, wall, call, known, *each in zip(kinds, wall_ns, calls, measured, *series, strict=True)
        ]


def _measure(spans: Spans, operations: Operations) -> _Parts:
    """Split every active work item and the gaps around them; the sums of one operation are its wall time."""
    items = operations.items
    rows = np.flatnonzero(operations.item_operation != NO_OPERATION)
    operation = operations.item_operation[rows]
    item_ns = items.end_ns[rows] - items.start_ns[rows]
    body_ns, config_ns = items.body_ns[rows], items.config_ns[rows]
    send_in_body_ns, config_in_body_ns = items.send_in_body_ns[rows], items.config_in_body_ns[rows]
    outside_ns = item_ns - body_ns - (items.send_ns[rows] - send_in_body_ns) - (config_ns - config_in_body_ns)
    bounded = items.body_bounded[rows]
    with_config = items.config_measured[rows]
    same = operation[1:] == operation[:-1]
    gap_ns = items.start_ns[rows][1:] - items.end_ns[rows][:-1]
    firsts = np.flatnonzero(np.append(True, ~same)) if len(rows) else np.empty(0, dtype=np.int64)
    starts_ns = np.array([found.start_ns for found in operations.found], dtype=np.int64)
    ends_ns = np.array([found.end_ns for found in operations.found], dtype=np.int64)
    seen = np.array([found.interrupt_ns is not None for found in operations.found], dtype=np.bool_)
    lead_ns = items.start_ns[rows][firsts] - starts_ns[operation[firsts]]
    sends = np.flatnonzero(operations.send_operation != NO_OPERATION)
    count = len(operations.found)
    return _Parts(
        wall_ns=ends_ns - starts_ns,
        allocate=_Series(body_ns - send_in_body_ns - config_in_body_ns, operation),
        send=_Series(spans.int64("duration_ns")[sends], operations.send_operation[sends]),
        config=_Series(config_ns[with_config], operation[with_config]),
        config_calls=sums(items.config_calls[rows], operation, count),
        config_measured=sums(with_config.astype(np.int64), operation, count),
        outside_body=_Series(outside_ns[bounded], operation[bounded]),
        requeue=_Series(gap_ns[same], operation[1:][same]),
        interrupt=_Series(lead_ns[seen[operation[firsts]]], operation[firsts][seen[operation[firsts]]]),
    )


def _rows(
    kind: str,
    wall_ns: int,
    traced: tuple[bool, int | None],
    allocate: Distribution,
    send: Distribution,
    config: Distribution,
    outside_body: Distribution,
    requeue: Distribution,
    interrupt: Distribution,
) -> tuple[StageRow, ...]:
    other_ns = wall_ns - allocate.total_ns - send.total_ns
    parts = (config, outside_body, requeue, interrupt)
    rest_ns = other_ns - sum(part.total_ns for part in parts)
    name = "allocate" if kind == INFLATE else "release"
    sends_traced, config_calls = traced

    def row(stage: str, label: str, where: str, spread: Distribution, *, measured: bool) -> StageRow:
        return _row((stage, label, where, None), spread, wall_ns, measured=measured)

    def part(stage: str, label: str, spread: Distribution, *, measured: bool) -> StageRow:
        what = (f"{STAGE_OTHER}.{stage}", label, GUEST_KERNEL, STAGE_OTHER)
        return _row(what, spread, wall_ns, measured=measured)

    first = (
        (STAGE_A, name, GUEST_KERNEL) if sends_traced else (STAGE_UNSPLIT, f"{name}..madvise", GUEST_AND_HOST)
    )
    return (
        row(*first, allocate, measured=True),
        row(STAGE_BCD, "send..madvise, unsplit", GUEST_AND_HOST, send, measured=sends_traced),
        _sum_row((STAGE_OTHER, "outside the stages", GUEST_KERNEL, None), other_ns, wall_ns),
        # Quantiles are of the reads of one work item together; the count is of single ones.
        replace(
            part("config", "reading the target", config, measured=config_calls is not None),
            count=config_calls,
        ),
        part(
            "work_item", "rest of work item (actual written)", outside_body, measured=outside_body.count > 0
        ),
        part("requeue", "between work items (re-queue)", requeue, measured=True),
        part("interrupt", "interrupt to first work item", interrupt, measured=interrupt.count > 0),
        _sum_row((f"{STAGE_OTHER}.rest", "remaining", GUEST_KERNEL, STAGE_OTHER), rest_ns, wall_ns),
    )


def _row(
    what: tuple[str, str, str, str | None], spread: Distribution, wall_ns: int, *, measured: bool
) -> StageRow:
    stage, name, where, part_of = what
    if not measured:
        return StageRow(stage, name, where, part_of)
    return StageRow(
        stage,
        name,
        where,
        part_of,
        count=spread.count,
        total_ns=spread.total_ns,
        share=_share(spread.total_ns, wall_ns),
        p50_ns=spread.p50_ns,
        p90_ns=spread.p90_ns,
        p99_ns=spread.p99_ns,
        max_ns=spread.max_ns,
    )


def _sum_row(what: tuple[str, str, str, str | None], total_ns: int, wall_ns: int) -> StageRow:
    stage, name, where, part_of = what
    return StageRow(stage, name, where, part_of, total_ns=total_ns, share=_share(total_ns, wall_ns))


def _share(part_ns: int, wall_ns: int) -> float | None:
    return part_ns / wall_ns if wall_ns else None

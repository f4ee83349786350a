# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations into stage tables: integer nanoseconds which add up to the wall time exactly.

Seen from the guest alone: `a` is the fill or leak (or the work item that stands in for it) less its sends,
configuration accesses and `b.build`; `b.build`, of the patched driver only, is `set_page_bitmap` less its
sends; `b+c+d` is the time inside the sends (`tell_host` or `send_resp_data`), which only the host's side can
split; `other` is the wall time less all those, and the rows below it say where it went. Where sends were not
traced, a cannot be told from b+c+d either, and their sum stands as `a+b+c+d`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from balloontrace.events import Function
from balloontrace.operations import NO_OPERATION, Operations, operation_of_spans
from balloontrace.results import INFLATE, StageRow
from balloontrace.stats import Distribution, distributions, sums
from balloontrace.wire import Column, Spans

STAGE_A = "a"
STAGE_BUILD = "b.build"
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
    series: Mapping[str, _Series]
    config_calls: Column
    config_measured: Column


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
        spreads = {
            name: distributions(series.values_ns, group_of_operation[series.operation], groups)
            for name, series in parts.series.items()
        }
        wall_ns = sums(parts.wall_ns, group_of_operation, groups).tolist()
        calls = sums(parts.config_calls, group_of_operation, groups).tolist()
        measured = (sums(parts.config_measured, group_of_operation, groups) > 0).tolist()
        return [
            _rows(
                kinds[group],
                wall_ns[group],
                {name: spread[group] for name, spread in spreads.items()},
                sends_traced=self._sends_traced,
                config_calls=calls[group] if measured[group] else None,
            )
            for group in range(groups)
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
    build_ns = items.build_ns[rows]
    built = build_ns > 0
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
        series={
            "allocate": _Series(body_ns - send_in_body_ns - config_in_body_ns - build_ns, operation),
            "extend": _extend(spans, operations),
            "build": _Series(build_ns[built], operation[built]),
            "send": _Series(spans.int64("duration_ns")[sends], operations.send_operation[sends]),
            "config": _Series(config_ns[with_config], operation[with_config]),
            "outside_body": _Series(outside_ns[bounded], operation[bounded]),
            "requeue": _Series(gap_ns[same], operation[1:][same]),
            "interrupt": _Series(
                lead_ns[seen[operation[firsts]]], operation[firsts][seen[operation[firsts]]]
            ),
        },
        config_calls=sums(items.config_calls[rows], operation, count),
        config_measured=sums(with_config.astype(np.int64), operation, count),
    )


def _extend(spans: Spans, operations: Operations) -> _Series:
    """Getting memory for bitmaps, in the operation of its work item."""
    operation = operation_of_spans(spans, operations)
    which = spans.of(Function.EXTEND_PAGE_BITMAP) & (operation != NO_OPERATION)
    return _Series(spans.int64("duration_ns")[which], operation[which])


def _rows(
    kind: str,
    wall_ns: int,
    spreads: Mapping[str, Distribution],
    *,
    sends_traced: bool,
    config_calls: int | None,
) -> tuple[StageRow, ...]:
    """The rows of one table; `spreads` are the series of `_Parts` as they are in it."""
    stages = ("allocate", "build", "send")
    other_ns = wall_ns - sum(spreads[name].total_ns for name in stages)
    others = ("config", "outside_body", "requeue", "interrupt")
    rest_ns = other_ns - sum(spreads[name].total_ns for name in others)

    def row(stage: str, label: str, where: str, name: str, *, measured: bool) -> StageRow:
        return _row((stage, label, where, None), spreads[name], wall_ns, measured=measured)

    def part(of: str, stage: str, label: str, name: str, *, measured: bool) -> StageRow:
        return _row((f"{of}.{stage}", label, GUEST_KERNEL, of), spreads[name], wall_ns, measured=measured)

    verb = "allocate" if kind == INFLATE else "release"
    first = (
        (STAGE_A, verb, GUEST_KERNEL) if sends_traced else (STAGE_UNSPLIT, f"{verb}..madvise", GUEST_AND_HOST)
    )
    rows = [row(*first, "allocate", measured=True)]
    if spreads["extend"].count:
        rows.append(part(STAGE_A, "extend", "memory for bitmaps", "extend", measured=True))
    if spreads["build"].count:
        rows.append(row(STAGE_BUILD, "build", GUEST_KERNEL, "build", measured=True))
    config = part(STAGE_OTHER, "config", "reading the target", "config", measured=config_calls is not None)
    outside_measured = spreads["outside_body"].count > 0
    outside = "rest of work item (actual written)"
    rows += [
        row(STAGE_BCD, "send..madvise, unsplit", GUEST_AND_HOST, "send", measured=sends_traced),
        _sum_row((STAGE_OTHER, "outside the stages", GUEST_KERNEL, None), other_ns, wall_ns),
        # Quantiles are of the reads of one work item together; the count is of single ones.
        replace(config, count=config_calls),
        part(STAGE_OTHER, "work_item", outside, "outside_body", measured=outside_measured),
        part(STAGE_OTHER, "requeue", "between work items (re-queue)", "requeue", measured=True),
        part(
            STAGE_OTHER,
            "interrupt",
            "interrupt to first work item",
            "interrupt",
            measured=spreads["interrupt"].count > 0,
        ),
        _sum_row((f"{STAGE_OTHER}.rest", "remaining", GUEST_KERNEL, STAGE_OTHER), rest_ns, wall_ns),
    ]
    return tuple(rows)


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

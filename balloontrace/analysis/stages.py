# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations into stage tables: integer nanoseconds which add up to the wall time exactly.

Seen from the guest alone: `a` is the fill or leak (or the work item that stands in for it) less its sends,
configuration accesses and `b.build`; `b.build`, of the patched driver only, is `set_page_bitmap` less its
sends; `b+c+d` is the time inside the sends (`tell_host` or `send_resp_data`), which only the host's side can
split. The interrupt (`balloon_ack`) divides it into `b+c+d.interrupt`, until the guest was told, and
`b+c+d.running`, until it went on, which is its own scheduling. A guest that finds its answer before any
interrupt did not wait (`b+c+d.found`). `other` is the wall time less all those, and the rows below it say
where it went. Where sends were not traced, a cannot be told from b+c+d either, and their sum stands as
`a+b+c+d`.

With the host's side, where every send of an operation has its served buffer: `c+d` is from when the host
had seen the kick until it wrote the completion. `d` is the part of it inside the calls that give memory back,
`c` the rest. `b` is `b.build` and the part of the sends that is neither c nor d. Where the clocks are known
well enough, `b.to_host` and the way back split that: `b.interrupt` and `b.running`, or `b.back` of sends
without an interrupt. Each row says where it ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.allocation_parts import NOTHING, Parts, series_of_parts
from balloontrace.analysis.columns import Column, Spans
from balloontrace.analysis.group_statistics import Distribution, distributions, sums
from balloontrace.analysis.operations import NO_OPERATION, Operations, operation_of_spans
from balloontrace.analysis.send_series import (
    NOT_SERVED,
    HostTimes,
    Series,
    Without,
    series_of_answers,
    series_of_host,
)
from balloontrace.errors import RecordingError
from balloontrace.format.stages import (
    A_REST,
    ABCD,
    ALLOCATION_PARTS,
    BCD,
    BUILD,
    CONFIG,
    EXTEND,
    INTERRUPT,
    OTHER,
    REQUEUE,
    REST,
    WORK_ITEM,
    A,
    B,
    C,
    D,
    Stage,
    finest_stages,
    with_parts,
)
from balloontrace.format.vocabulary import Function, Kind
from balloontrace.results.operation import StageRow

# The rules before should have left such records out; what they missed is not shown either.
_CONTRADICTION = (
    "the recording's times contradict each other: parts are longer than the whole; it is unusable"
)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the stages of all operations are made of; `series` are by their code."""

    wall_ns: Column
    series: Mapping[str, Series]
    config_calls: Column
    served: Column
    calls_error_ns: Column | None  # by operation, where the time inside calls is an estimate
    part_counts: Mapping[str, Column]  # by operation, how often there was each part of allocating
    split_kinds: frozenset[Kind]  # of which operations allocating was told in parts


class StageTables:
    """Stage rows for each operation and for any grouping of them."""

    def __init__(
        self,
        spans: Spans,
        operations: Operations,
        *,
        sends_traced: bool,
        host: HostTimes | None = None,
        allocation: Parts | None = None,
    ) -> None:
        self._sends_traced = sends_traced
        self._kinds = [operation.kind for operation in operations.found]
        self._parts = _measure(spans, operations, host, allocation, sends_traced=sends_traced)

    def of_operations(self) -> list[tuple[StageRow, ...]]:
        """The stage rows of every operation, in the order of `Operations.found`."""
        return self._tables(np.arange(len(self._kinds)), self._kinds)

    def of_kinds(self) -> dict[Kind, tuple[StageRow, ...]]:
        """The stage rows of all operations of one kind together, for each kind that occurred."""
        kinds = sorted(set(self._kinds))
        group = np.array([kinds.index(kind) for kind in self._kinds], dtype=np.int64)
        return dict(zip(kinds, self._tables(group, kinds), strict=True))

    def _tables(self, group_of_operation: Column, kinds: list[Kind]) -> list[tuple[StageRow, ...]]:
        """One table a group of operations; `kinds[g]` is what the operations of group g do."""
        parts, groups = self._parts, len(kinds)
        spreads = {
            code: distributions(series.values_ns, group_of_operation[series.operation], groups)
            for code, series in parts.series.items()
        }
        wall_ns = sums(parts.wall_ns, group_of_operation, groups).tolist()
        calls = sums(parts.config_calls, group_of_operation, groups).tolist()
        unserved = sums(1 - parts.served, group_of_operation, groups).tolist()
        errors_ns = _errors_ns(parts.calls_error_ns, group_of_operation, groups)
        counts = {
            code: sums(count, group_of_operation, groups).tolist()
            for code, count in parts.part_counts.items()
        }
        return [
            self._table(
                kinds[group],
                wall_ns[group],
                {code: spread[group] for code, spread in spreads.items()},
                split=not unserved[group],
                counts={CONFIG.code: calls[group], **{code: count[group] for code, count in counts.items()}},
                calls_error_ns=errors_ns[group],
            )
            for group in range(groups)
        ]

    def _table(
        self,
        kind: Kind,
        wall_ns: int,
        spreads: Mapping[str, Distribution],
        *,
        split: bool,
        counts: Mapping[str, int],
        calls_error_ns: int | None,
    ) -> tuple[StageRow, ...]:
        """The rows of one table; `split` tells whether the host's side is known of all its sends."""
        has_parts = kind in self._parts.split_kinds
        totals_ns = _sums_of_rows(wall_ns, spreads, has_parts=has_parts)
        rows = []
        for stage in _shown(sends_traced=self._sends_traced, split=split):
            if stage in ALLOCATION_PARTS and not has_parts:
                continue
            row = StageRow(stage.code, stage.name_for(kind), stage.where, stage.part_of)
            code = A.code if stage == ABCD else stage.code
            without = self._parts.series[code].without if code in spreads else Without.NO_ROW
            if stage.code in totals_ns:
                rows.append(_sum_row(row, totals_ns[stage.code], wall_ns))
            elif without is Without.ZERO or (code in spreads and spreads[code].count):
                measured = _row(row, spreads[code], wall_ns)
                estimated = stage in (C, D) and calls_error_ns is not None
                rows.append(_estimate(measured, calls_error_ns) if estimated else measured)
            elif without is Without.NOT_MEASURED:
                rows.append(row)
        # Quantiles are of the reads, or waits, of one work item together; the count is of single ones.
        return tuple(
            replace(row, count=counts[row.stage]) if row.stage in counts and row.count else row
            for row in rows
        )


def _shown(*, sends_traced: bool, split: bool) -> Iterator[Stage]:
    """The rows of a table that says as much as was told apart; others are left to coarse ones."""
    for stage in finest_stages():
        whole, *parts = with_parts(stage)
        if split or stage.code not in BCD.instead_of:
            yield ABCD if stage == A and not sends_traced else whole
            yield from parts
    if not split:
        yield replace(BUILD, part_of=None)
        yield from with_parts(BCD)
    yield from with_parts(OTHER)


def _sums_of_rows(wall_ns: int, spreads: Mapping[str, Distribution], *, has_parts: bool) -> dict[str, int]:
    """What is a sum, or left over, and has no series of its own."""
    apart = [stage for stage in finest_stages() if stage.code not in BCD.instead_of]
    others = [part for part in with_parts(OTHER) if part.code in spreads]
    other_ns = wall_ns - sum(spreads[stage.code].total_ns for stage in (*apart, BUILD, BCD))
    rest_ns = other_ns - sum(spreads[part.code].total_ns for part in others)
    totals_ns = {OTHER.code: other_ns, REST.code: rest_ns}
    parts = [spreads[part.code].total_ns for part in ALLOCATION_PARTS if part.code in spreads]
    if parts and has_parts:
        totals_ns[A_REST.code] = spreads[A.code].total_ns - sum(parts)
    if spreads[BUILD.code].count:
        totals_ns[B.code] = spreads[BUILD.code].total_ns + spreads[B.code].total_ns
    return totals_ns


def _measure(
    spans: Spans,
    operations: Operations,
    host: HostTimes | None,
    allocation: Parts | None,
    *,
    sends_traced: bool,
) -> _Parts:
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
    send_operation = operations.send_operation[sends]
    send_ns = spans.int64("duration_ns")[sends]
    count = len(operations.found)
    a_ns = items.a_ns[rows]
    told = NOTHING if allocation is None else series_of_parts(allocation, operations)
    return _Parts(
        wall_ns=ends_ns - starts_ns,
        series={
            A.code: Series(a_ns, operation),
            **told.series,
            EXTEND.code: _extend(spans, operations),
            BUILD.code: Series(build_ns[built], operation[built], Without.NO_ROW),
            BCD.code: Series(send_ns, send_operation, Without.ZERO if sends_traced else Without.NOT_MEASURED),
            **series_of_answers(spans, sends, send_operation),
            **series_of_host(spans, sends, send_operation, host),
            CONFIG.code: Series(config_ns[with_config], operation[with_config], Without.NOT_MEASURED),
            WORK_ITEM.code: Series(outside_ns[bounded], operation[bounded], Without.NOT_MEASURED),
            REQUEUE.code: Series(gap_ns[same], operation[1:][same]),
            INTERRUPT.code: Series(
                lead_ns[seen[operation[firsts]]],
                operation[firsts][seen[operation[firsts]]],
                Without.NOT_MEASURED,
            ),
        },
        config_calls=sums(items.config_calls[rows], operation, count),
        served=_served(sends, send_operation, host, count),
        calls_error_ns=_by_operation(host, count),
        part_counts=told.counts,
        split_kinds=told.kinds,
    )


def _by_operation(host: HostTimes | None, count: int) -> Column | None:
    """The errors of estimates of so many operations; the last ones may have no send."""
    if host is None or host.calls_error_ns is None:
        return None
    errors_ns = np.zeros(count, dtype=np.int64)
    errors_ns[: len(host.calls_error_ns)] = host.calls_error_ns
    return errors_ns


def _errors_ns(errors_ns: Column | None, group: Column, groups: int) -> list[int | None]:
    """Of the sum of each group's estimates, which err on their own."""
    if errors_ns is None:
        return [None] * groups
    squares = np.bincount(group, errors_ns.astype(np.float64) ** 2, minlength=groups)
    return [round(error_ns) for error_ns in np.sqrt(squares).tolist()]


def _served(sends: NDArray[np.intp], operation: Column, host: HostTimes | None, count: int) -> Column:
    """1 for each operation that sent something, all of which the host's side shows being served; else 0."""
    if host is None:
        return np.zeros(count, dtype=np.int64)
    alone = np.bincount(operation[host.served_ns[sends] == NOT_SERVED], minlength=count)
    sent = np.bincount(operation, minlength=count)
    served: Column = ((sent > 0) & (alone == 0)).astype(np.int64)
    return served


def _extend(spans: Spans, operations: Operations) -> Series:
    """Getting memory for bitmaps, in the operation of its work item."""
    operation = operation_of_spans(spans, operations)
    which = spans.of(Function.EXTEND_PAGE_BITMAP) & (operation != NO_OPERATION)
    return Series(spans.int64("duration_ns")[which], operation[which], Without.NO_ROW)


def _row(row: StageRow, spread: Distribution, wall_ns: int) -> StageRow:
    """The row with what its series came to."""
    if (spread.p50_ns or 0) < 0:
        raise RecordingError(_CONTRADICTION)
    return replace(
        _sum_row(row, spread.total_ns, wall_ns),
        count=spread.count,
        p50_ns=spread.p50_ns,
        p90_ns=spread.p90_ns,
        p99_ns=spread.p99_ns,
        max_ns=spread.max_ns,
    )


def _estimate(row: StageRow, error_ns: int | None) -> StageRow:
    """The row of an estimate: of all sends together, of which there is no distribution."""
    return replace(row, error_ns=error_ns, p50_ns=None, p90_ns=None, p99_ns=None, max_ns=None)


def _sum_row(row: StageRow, total_ns: int, wall_ns: int) -> StageRow:
    """The row with its total and share alone."""
    if total_ns < 0:
        raise RecordingError(_CONTRADICTION)
    return replace(row, total_ns=total_ns, share=total_ns / wall_ns if wall_ns else None)

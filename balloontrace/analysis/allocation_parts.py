# SPDX-License-Identifier: GPL-2.0-or-later
"""What stage a consists of, where `record --split-allocation` asked for it.

A work item leaves a span without a call for each part that it had. What is left of a is the allocator itself,
and whatever no attached tracepoint tells of. A deflate releases its pages after the send. So its parts are
known where `leak_balloon` was traced, and the recorder told them until its return.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.group_statistics import sums
from balloontrace.analysis.operations import NO_OPERATION, Operations
from balloontrace.analysis.send_series import Series
from balloontrace.format.stages import A_COMPACTION, A_LOCK, A_OFF_CPU, A_PUFF, A_RECLAIM, Stage
from balloontrace.format.vocabulary import Function, Kind, Part

STAGE_OF_PART: Mapping[Part, Stage] = {
    Part.RECLAIM: A_RECLAIM,
    Part.COMPACTION: A_COMPACTION,
    Part.PUFF: A_PUFF,
    Part.LOCK: A_LOCK,
    Part.OFF_CPU: A_OFF_CPU,
}
_TOLD_BY = {
    Part.RECLAIM: {Function.MM_VMSCAN_DIRECT_RECLAIM_BEGIN, Function.MM_VMSCAN_DIRECT_RECLAIM_END},
    Part.COMPACTION: {Function.MM_COMPACTION_BEGIN, Function.MM_COMPACTION_END},
    Part.PUFF: {Function.SCHED_SWITCH},
    Part.LOCK: {Function.CONTENTION_BEGIN, Function.CONTENTION_END},
    Part.OFF_CPU: {Function.SCHED_SWITCH},
}


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of allocating, a row for each that a work item had; `count` is how often. `measured`: which ones.

    A row belongs to the work item of its thread and start. They are all that there were for operations of
    these `kinds`.
    """

    measured: frozenset[Part]
    kinds: frozenset[Kind]
    start_ns: Column
    tid: Column
    part: Column
    duration_ns: Column
    count: Column


@dataclass(frozen=True, slots=True)
class PartSeries:
    """By the code of a part's stage: its times, and by operation how often there was one.

    They are of operations of these `kinds`.
    """

    series: Mapping[str, Series]
    counts: Mapping[str, Column]
    kinds: frozenset[Kind] = frozenset()


NOTHING = PartSeries({}, {})


def take_parts(
    spans: Spans, traced: frozenset[Function], told_of: Container[str] = ()
) -> tuple[Spans, Parts]:
    """The spans of calls alone, and the parts of stage a that were among them.

    `told_of` are the kinds of operations that the recorder says it told all parts of; of inflates it always
    did.
    """
    which = spans.of(Function.ALLOCATION_PARTS)
    columns = {
        name: spans.int64(name)[which] for name in ("start_ns", "tid", "queue", "duration_ns", "pages")
    }
    measured = frozenset(part for part, functions in _TOLD_BY.items() if functions <= traced)
    releases = Kind.DEFLATE in told_of and Function.LEAK_BALLOON in traced
    kinds = frozenset([Kind.INFLATE, Kind.DEFLATE] if releases else [Kind.INFLATE])
    return spans.without(which) if which.any() else spans, Parts(measured, kinds, *columns.values())


def series_of_parts(parts: Parts, operations: Operations) -> PartSeries:
    """What is known of the kinds that have parts, by operation."""
    if not parts.measured or not operations.items.config_measured.any():
        return NOTHING
    item, which, _ = possible_parts(parts, operations)
    operation, count = operations.item_operation[item], len(operations.found)
    series, counts = {}, {}
    for part in parts.measured:
        code, mine = STAGE_OF_PART[part].code, parts.part[which] == part
        series[code] = Series(parts.duration_ns[which][mine], operation[mine])
        counts[code] = sums(parts.count[which][mine], operation[mine], count)
    return PartSeries(series, counts, parts.kinds)


def possible_parts(parts: Parts, operations: Operations) -> tuple[Column, Column, Mask]:
    """Work items and the rows of parts that they had, in pairs; and which items are damaged.

    Where parts are longer than their whole, something is damaged: none of that work item counts.
    """
    item, which = _items_of_parts(parts, operations)
    told_ns = sums(parts.duration_ns[which], item, len(operations.items))
    damaged = told_ns > operations.items.a_ns
    return item[~damaged[item]], which[~damaged[item]], damaged


def items_with_parts(parts: Parts, operations: Operations) -> Mask:
    """Which work items are part of an operation of whose kind the parts are known."""
    wanted = np.array([found.kind in parts.kinds for found in operations.found], dtype=np.bool_)
    of_operation = operations.item_operation != NO_OPERATION
    found = np.zeros(len(of_operation), dtype=np.bool_)
    found[of_operation] = wanted[operations.item_operation[of_operation]]
    return found


def _items_of_parts(parts: Parts, operations: Operations) -> tuple[Column, Column]:
    """Work items, and the rows of parts that they had, in pairs."""
    spans, items = operations.spans, operations.items
    wanted = np.flatnonzero(items_with_parts(parts, operations))
    tids = spans.int64("tid")[items.span[wanted]].tolist()
    keys = zip(items.start_ns[wanted].tolist(), tids, strict=True)
    by_key = dict(zip(keys, wanted.tolist(), strict=True))
    found = zip(parts.start_ns.tolist(), parts.tid.tolist(), strict=True)
    item = np.array([by_key.get(key, -1) for key in found], dtype=np.int64)
    which = np.flatnonzero(item >= 0)
    return item[which], which

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the driver did besides work items: out of memory, compaction, freeze, restore, removal.

One call of `virtio_balloon_oom_notify` or `virtballoon_migratepage` is one of many: those of a balloon with
less than a second between them are one operation. The other functions run once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.balloon_sizes import Watched, size_to_count_from
from balloontrace.analysis.columns import Column, Mask
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.results.balloon import Balloon
from balloontrace.results.other_operation import (
    COMPACTION,
    FREEZE,
    FREEZE_OR_REMOVAL,
    OUT_OF_MEMORY,
    REMOVAL,
    RESTORE,
    OtherOperation,
)

Rows = NDArray[np.intp]

_PAUSE_NS = 10**9
_KINDS = {
    Function.VIRTIO_BALLOON_OOM_NOTIFY: OUT_OF_MEMORY,
    Function.VIRTBALLOON_MIGRATEPAGE: COMPACTION,
    Function.VIRTBALLOON_FREEZE: FREEZE,
    Function.VIRTBALLOON_RESTORE: RESTORE,
    Function.VIRTBALLOON_REMOVE: REMOVAL,
    Function.LEAK_BALLOON: FREEZE_OR_REMOVAL,  # where the calls around it were not traced
}
_MANY_CALLS = (Function.VIRTIO_BALLOON_OOM_NOTIFY, Function.VIRTBALLOON_MIGRATEPAGE, Function.LEAK_BALLOON)


def find_other_operations(
    balloons: Sequence[Balloon], watched: Sequence[Watched]
) -> tuple[OtherOperation, ...]:
    """All of them in order of start."""
    found = [
        operation
        for balloon, seen in zip(balloons, watched, strict=True)
        for function in _KINDS
        for operation in _of_function(function, balloon, seen)
    ]
    return tuple(sorted(found, key=lambda operation: (operation.started_ns, operation.device)))


def _of_function(function: Function, balloon: Balloon, seen: Watched) -> Iterator[OtherOperation]:
    spans = seen.spans
    which = spans.of(function) & seen.mine
    if function is Function.LEAK_BALLOON:
        which &= seen.removals & (seen.nesting.away == NO_SPAN)
    rows = np.flatnonzero(which)
    if not len(rows):
        return
    sizes, targets = _sizes(balloon, seen), _targets(balloon, seen)
    for run in _runs(spans.int64("start_ns")[rows], spans.end_ns[rows], many=function in _MANY_CALLS):
        calls = rows[run]
        start_ns, end_ns = int(spans.int64("start_ns")[calls[0]]), int(spans.end_ns[calls].max())
        moved = None
        if function is Function.VIRTBALLOON_MIGRATEPAGE:
            moved = int(np.count_nonzero(spans.measured("result", SpanFlag.RESULT)[calls] == 0))
        yield OtherOperation(
            what=_KINDS[function],
            function=function.symbol,
            device=balloon.device,
            started_ns=start_ns,
            wall_ns=end_ns - start_ns,
            calls=len(calls),
            calls_ns=int(spans.int64("duration_ns")[calls].sum()),
            failed=None if moved is None else len(calls) - moved,
            pages=_pages_left(function, calls, seen) if moved is None else moved * seen.unit_pages,
            size_before_pages=sizes.until(start_ns),
            size_after_pages=sizes.until(end_ns),
            target_before_pages=targets.until(start_ns),
            target_after_pages=targets.until(end_ns),
        )


def _runs(start_ns: Column, end_ns: Column, *, many: bool) -> list[Rows]:
    """Which calls belong together; they are in order of start."""
    places = np.arange(len(start_ns))
    paused = start_ns[1:] - np.maximum.accumulate(end_ns)[:-1] >= (_PAUSE_NS if many else 0)
    return np.split(places, np.flatnonzero(paused) + 1)


def _pages_left(function: Function, calls: Rows, seen: Watched) -> int | None:
    """What left the balloon in these calls: by those of leak_balloon or the sends inside; 0 without any."""
    if function is Function.VIRTBALLOON_RESTORE:
        return 0
    around = seen.nesting.oom if function is Function.VIRTIO_BALLOON_OOM_NOTIFY else seen.nesting.away
    own = np.zeros(len(seen.spans), dtype=np.bool_)
    own[calls] = True
    return seen.given_back(own if function is Function.LEAK_BALLOON else np.isin(around, calls))


@dataclass(frozen=True, slots=True)
class _Course:
    """What a number was told to be, in order of time; `first` is what it was before."""

    first: int | None
    told_ns: Column
    values: Column

    def until(self, at_ns: int) -> int | None:
        """The last one told; None for what no number of pages can be."""
        row = int(np.searchsorted(self.told_ns, at_ns, side="right")) - 1
        value = self.first if row < 0 else int(self.values[row])
        return value if value is not None and value >= 0 else None


def _course(first: int | None, told_ns: Column, values: Column) -> _Course:
    order = np.argsort(told_ns, kind="stable")
    return _Course(first, told_ns[order], values[order])


def _sizes(balloon: Balloon, seen: Watched) -> _Course:
    """The driver's own count in each send; where it is not known, the size at the start and what moved."""
    spans, first = seen.spans, size_to_count_from(balloon.at_start)
    told: Mask = seen.nesting.send & seen.mine & spans.has(SpanFlag.ACTUAL)
    if told.any():
        return _course(first, spans.end_ns[told], spans.int64("actual_pages")[told])
    moved = seen.moved
    nothing = np.zeros(0, dtype=np.int64)
    if moved is None or seen.moves is None or first is None:
        # What left or came since then is not known.
        return _Course(first if not (seen.nesting.send & seen.mine).any() else None, nothing, nothing)
    order = np.argsort(seen.moves.end_ns[moved], kind="stable")
    sizes = first + np.cumsum(seen.moves.pages[moved][order])
    return _Course(first, seen.moves.end_ns[moved][order], sizes)


def _targets(balloon: Balloon, seen: Watched) -> _Course:
    told: Mask = seen.mine & seen.spans.has(SpanFlag.TARGET)
    return _course(
        balloon.at_start.target_pages,
        seen.spans.end_ns[told],
        seen.spans.int64("target_pages")[told],
    )

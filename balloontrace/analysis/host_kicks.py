# SPDX-License-Identifier: GPL-2.0-or-later
"""Queues whose buffers take no call: an eventfd is told by when it kicked, beside the guest's calls.

The driver kicks the queue of statistics once an answer, and that of hints while it sends blocks. A VMM reads
the eventfds of one balloon in one thread. An eventfd is told only if no other one would do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.clocks import Clock
from balloontrace.analysis.columns import Batches, Column, Spans
from balloontrace.analysis.host_queues import MATCHING
from balloontrace.analysis.matching_calls import Window
from balloontrace.analysis.metadata import Json, integer
from balloontrace.format.vocabulary import Function
from balloontrace.results.host_side import HostQueue

STATISTICS, HINT = "statistics", "hint"
_WORK = {
    STATISTICS: Function.UPDATE_BALLOON_STATS_FUNC,
    HINT: Function.REPORT_FREE_PAGE_FUNC,
}
# One answer may meet the kick of another eventfd by chance.
_FEWEST_ANSWERS = 2
# A kick is read after the driver made it, maybe when its function has returned: so much later, and by no more
# than this part of the time from one call to the next.
_LATE_NS = 50_000_000
_LATE_PART = 0.1
_MOST_EVENTFDS, _MOST_TIMES = 256, 32  # struct bt_eventfds of bpf/balloon_batches.h

_Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Kicks:
    """How often an eventfd was read, by which thread last, and when the last times were, in order."""

    eventfd: int
    tid: int
    kicks: int
    times_ns: Column


def parse_kicks(end: Json) -> tuple[Kicks, ...]:
    """Those of a host's end record; none in older recordings, nor of an eventfd with impossible ones."""
    value = end.get("eventfds")
    rows = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    return tuple(found for row in rows[:_MOST_EVENTFDS] if (found := _parse(row)) is not None)


def _parse(row: Json) -> Kicks | None:
    eventfd, tid, kicks = (integer(row, name) for name in ("number", "tid", "kicks"))
    times = row.get("times_ns")
    if eventfd is None or tid is None or kicks is None or not isinstance(times, list):
        return None
    times_ns = [integer({"time": each}, "time") for each in times[:_MOST_TIMES]]
    known_ns = [each for each in times_ns if each is not None]
    if len(known_ns) < len(times_ns) or not 0 < len(known_ns) <= kicks or known_ns != sorted(known_ns):
        return None
    return Kicks(eventfd, tid, kicks, np.array(known_ns, dtype=np.int64))


def find_silent_queues(
    kicks: Sequence[Kicks],
    batches: Batches,
    pairs: _Rows,
    spans: Spans,
    device: Column,
    clock: Clock,
    windows: tuple[Window, Window],
) -> tuple[HostQueue, ...]:
    """The eventfds of statistics and hints.

    `pairs` are the batches of the balloon, `device` is that of each span; `windows` are when guest and host
    were recording.
    """
    with_calls, threads = set(batches.int64("kicked_by").tolist()), set(batches.int64("tid")[pairs].tolist())
    silent = [each for each in kicks if each.eventfd not in with_calls and each.tid in threads]
    guest, host = windows
    ends_ns = np.array([guest.start_ns, guest.end_ns], dtype=np.int64)
    first_ns = max(int((ends_ns + clock.bounds.high_ns(ends_ns))[0]), host.start_ns)
    last_ns = min(int((ends_ns + clock.bounds.low_ns(ends_ns))[1]), host.end_ns)
    found = []
    for queue, work in _work(spans, device):
        start_ns, end_ns = spans.int64("start_ns")[work], spans.end_ns[work]
        calls = _Calls(
            start_ns + clock.bounds.low_ns(start_ns),
            end_ns + clock.bounds.high_ns(end_ns) + _late_ns(start_ns),
            first_ns,
            last_ns,
        )
        told = [(each, met) for each in silent if (met := calls.met(each, once=queue == STATISTICS))]
        if len(told) == 1:
            each, met = told[0]
            found.append(HostQueue(each.eventfd, queue, MATCHING, 0, met, each.kicks))
    return tuple(found)


def _work(spans: Spans, device: Column) -> Iterator[tuple[str, _Rows]]:
    """Of each queue and device the calls that kick it."""
    for queue, function in _WORK.items():
        calls = spans.of(function)
        for each in np.unique(device[calls]).tolist():
            yield queue, np.flatnonzero(calls & (device == each))


def with_kicks(queues: Iterable[HostQueue], kicks: Iterable[Kicks]) -> tuple[HostQueue, ...]:
    """The same queues with how often each was kicked, where that is known."""
    known = {each.eventfd: each.kicks for each in kicks}
    return tuple(replace(each, kicks=known.get(each.eventfd)) for each in queues)


def _late_ns(start_ns: Column) -> int:
    gaps_ns = np.diff(np.sort(start_ns))
    return int(min(_LATE_NS, _LATE_PART * int(gaps_ns.min()))) if len(gaps_ns) else _LATE_NS


@dataclass(frozen=True, slots=True)
class _Calls:
    """Calls of one function in the host's clock, in order: each kicks between its two times."""

    from_ns: Column
    until_ns: Column
    first_ns: int  # what both sides recorded
    last_ns: int

    def met(self, kicks: Kicks, *, once: bool) -> int:
        """How many kicks these calls made, if they made all of those, each of them one if `once`; else 0."""
        times_ns = kicks.times_ns
        # What was kicked before the last times is not known.
        begun_ns = max(self.first_ns, int(times_ns[0]) if kicks.kicks > len(times_ns) else self.first_ns)
        times_ns = times_ns[(times_ns >= begun_ns) & (times_ns <= self.last_ns)]
        call = np.searchsorted(self.from_ns, times_ns, side="right") - 1
        if not len(times_ns) or (call < 0).any() or (times_ns > self.until_ns[call]).any():
            return 0
        if not once:
            return len(times_ns)
        due = np.flatnonzero((self.from_ns >= begun_ns) & (self.until_ns <= self.last_ns))
        answered = np.unique(call)
        is_each = len(answered) == len(call) and np.isin(due, answered).all()
        return len(call) if is_each and len(call) >= _FEWEST_ANSWERS else 0

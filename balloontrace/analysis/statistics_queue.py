# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue of statistics: how often the host asked for them, and how long it waited.

A device has one buffer of statistics. It gives that back when it wants new ones, so a request has one answer:
the first run of the work item that begins after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

import numpy as np

from balloontrace.analysis.balloon_sizes import Watched
from balloontrace.analysis.columns import Column
from balloontrace.analysis.group_statistics import distributions
from balloontrace.format.vocabulary import Function
from balloontrace.results.balloon import Balloon
from balloontrace.results.other_operation import StatisticsQueue


def measure_statistics(
    balloons: Sequence[Balloon], watched: Sequence[Watched], traced: Set[Function]
) -> tuple[StatisticsQueue, ...]:
    """One of each balloon; none where neither function was traced."""
    return tuple(_measure(balloons, watched, traced))


def _measure(
    balloons: Sequence[Balloon], watched: Sequence[Watched], traced: Set[Function]
) -> Iterator[StatisticsQueue]:
    asks, answers = Function.STATS_REQUEST in traced, Function.UPDATE_BALLOON_STATS_FUNC in traced
    if not asks and not answers:
        return
    for balloon, seen in zip(balloons, watched, strict=True):
        spans = seen.spans
        asked_ns = spans.int64("start_ns")[spans.of(Function.STATS_REQUEST) & seen.mine]
        work = spans.of(Function.UPDATE_BALLOON_STATS_FUNC) & seen.mine
        waited_ns = _waited_ns(asked_ns, spans.int64("start_ns")[work], spans.end_ns[work])
        (waits,) = distributions(waited_ns, np.zeros(len(waited_ns), dtype=np.int64), 1)
        yield StatisticsQueue(
            device=balloon.device,
            polls=len(asked_ns) if asks else None,
            answers=int(np.count_nonzero(work)) if answers else None,
            collecting_ns=int(spans.int64("duration_ns")[work].sum()) if answers else None,
            answer_p50_ns=waits.p50_ns,
            answer_max_ns=waits.max_ns,
            last_asked_ns=int(asked_ns[-1]) if len(asked_ns) else None,
            last_answer_ns=int(waited_ns[-1]) if len(waited_ns) else None,
        )


def _waited_ns(asked_ns: Column, start_ns: Column, end_ns: Column) -> Column:
    """From each request that was answered to the end of its answer; all are in order of time."""
    first = np.searchsorted(start_ns, asked_ns, side="left")
    answered = first < len(start_ns)
    # A device asks no second time before it is answered: where it seems to, the first answer was not seen.
    answered[:-1] &= first[1:] != first[:-1]
    return end_ns[first[answered]] - asked_ns[answered]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which queue each eventfd kicks that a host's threads read: one alone, as long as it is open.

So what is known of some of the buffers that it kicked holds for all: first by matching them with the guest's
sends and reports, else by their calls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Batches, Column
from balloontrace.analysis.matching_candidates import page_by_page
from balloontrace.format.vocabulary import Queue
from balloontrace.results.host_side import HostQueue

NO_EVENTFD = 0
UNTOLD = -1
REPORTS = max(Queue) + 1  # the index of that queue depends on the device's features
MATCHING, CALLS = "matching", "calls"

_WORDS = {**{int(queue): queue.name.lower() for queue in Queue}, REPORTS: "report"}
# So many eventfds are described, those that kicked the most buffers.
_MOST_QUEUES = 64


def find_queues(batches: Batches, matched: Column) -> tuple[HostQueue, ...]:
    """What is known of each eventfd; `matched` has the queue of each batch by matching, or UNTOLD."""
    source, calls = batches.int64("kicked_by"), batches.queue
    single = page_by_page(batches)
    found = []
    for eventfd, rows in _by_eventfd(source):
        told = matched[rows][matched[rows] != UNTOLD]
        queue, by = _only(told), MATCHING
        if not len(told):
            queue, by = _only(calls[rows]), CALLS
            if queue == Queue.INFLATE and (batches.sampled or not single[rows].all()):
                queue = UNTOLD  # it may be one of reports
        known = queue != UNTOLD
        word = _WORDS[queue] if known else None
        found.append(HostQueue(eventfd, word, by if known else None, len(rows), len(told)))
    return tuple(found)


def queue_of_eventfd(batches: Batches, matched: Column) -> Column:
    """For each batch the queue that matching tells of its eventfd, or UNTOLD."""
    source = batches.int64("kicked_by")
    queues = np.full(len(batches), UNTOLD, dtype=np.int64)
    for _, rows in _by_eventfd(source):
        queues[rows] = _only(matched[rows][matched[rows] != UNTOLD])
    return queues


def _by_eventfd(source: Column) -> list[tuple[int, NDArray[np.intp]]]:
    """Each of the busiest eventfds with the rows of its batches, in the order of their numbers."""
    eventfds, counts = np.unique(source[source != NO_EVENTFD], return_counts=True)
    busiest = np.sort(eventfds[np.argsort(-counts, kind="stable")[:_MOST_QUEUES]])
    return [(each, np.flatnonzero(source == each)) for each in busiest.tolist()]


def _only(values: Column) -> int:
    """The value that all have; UNTOLD where they differ."""
    different = np.unique(values)
    return int(different[0]) if len(different) == 1 else UNTOLD

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of a process's buffers can be a guest's sends: a VMM gives memory back for other reasons too.

It serves page reports, discards for its disks, trims its own heap. A buffer is left out here only because the
data distinguish it from a send: no send has its page count, or its eventfd differs from that of all buffers
that pair; if that is no proof, its thread, kind of call or page-by-page order. Each set that may be
the sends' then needs the full proof of `matching`. One answer has to remain, whatever sets it comes from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Batches, Column, Mask
from balloontrace.analysis.matching import Matching, TooManyWaysError, match
from balloontrace.analysis.matching_calls import UNKNOWN_PAGES, UNKNOWN_QUEUE, Calls
from balloontrace.analysis.matching_gaps import match_with_gaps, may_match_with_gaps
from balloontrace.analysis.matching_shifts import possible_shifts
from balloontrace.errors import RecordingError
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES, BatchFlag, Call
from balloontrace.units import format_pages_as_bytes, format_things

# The busiest threads, and the sorts of calls that most buffers were served by, are tried one by one.
_THREADS, _SORTS, _EVENTFDS = 8, 4, 8
# Fewer pairs prove nothing where buffers were left out that a send might have caused; and fewer than many
# prove something only if each send has its buffer.
_FEW_PAIRS, _MANY_PAIRS = 8, 64
# Sets to prove in full; more would take long, and mean that nothing tells the buffers apart. For the same
# reason there is a bound of the calls in all sets that are looked at, and of the pairs in each proof.
_MOST_SETS = 32
_MOST_CALLS = 1 << 22
_MOST_PAIRS = 1 << 22

FALLOCATES = (Call.FALLOCATE_PUNCH_HOLE, Call.FALLOCATE_OTHER)
MADVISES = (
    Call.MADVISE_DONTNEED,
    Call.MADVISE_REMOVE,
    Call.MADVISE_FREE,
    Call.MADVISE_WILLNEED,
    Call.MADVISE_OTHER,
)

_Rows = NDArray[np.intp]
_Divide = Callable[[Batches, _Rows], Iterator[_Rows]]


@dataclass(frozen=True, slots=True)
class _How:
    """How a set of buffers is matched, and whether a quick look excludes that."""

    match: Callable[[Calls, Calls], Matching]
    may_match: Callable[[Calls, Calls], bool]
    gaps: bool = False


_WHOLE = _How(
    lambda guest, host: match(guest, host, _MOST_PAIRS),
    lambda guest, host: len(possible_shifts(guest, host)) > 0,
)
_WITH_GAPS = _How(match_with_gaps, may_match_with_gaps, gaps=True)


@dataclass(frozen=True, slots=True)
class Partners:
    """Batches that were taken for the guest's, how they pair with its sends, and notes on all others.

    `matching.batches` are indices of `rows`; the notes describe all others, which are `rest`.
    """

    rows: _Rows
    matching: Matching
    rest: _Rows = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    notes: tuple[str, ...] = ()


class _Effort:
    """How many calls were looked at; TooManyWaysError beyond what takes a reasonable time."""

    def __init__(self) -> None:
        self._calls = 0

    def spend(self, calls: int) -> None:
        self._calls += calls
        if self._calls > _MOST_CALLS:
            raise _indistinct()


def _indistinct() -> TooManyWaysError:
    return TooManyWaysError(
        "the recordings cannot be matched: the process made calls for other reasons too, and there are too "
        "many sets of calls to try"
    )


def find_partners(guest: Calls, batches: Batches, host: Calls, whole: _Rows, foreign: _Rows) -> Partners:
    """Match a guest's sends with those batches that are theirs; RecordingError if it cannot be proved.

    `host` has all batches as calls, `whole` are those seen from their beginning to their end, `foreign` those
    that are surely no sends.
    """
    try:
        matching = match(guest, host.only(whole))
        return Partners(whole, matching, foreign, tuple(_others(batches, host, foreign, whole)))
    except TooManyWaysError:
        raise
    except RecordingError as error:
        problem = error
    effort = _Effort()
    best = None
    divisions = (_by_eventfd, _alike) if batches.int64("kicked_by").any() else (_alike,)
    for how, divide in itertools.product((_WHOLE, _WITH_GAPS), divisions):
        best = best or _best(guest, batches, host, whole, divide, how, effort)
    if best is None:
        raise problem
    rows, matching = best
    # Where each send has its buffer, whatever else was seen is none, even if it was not seen as a whole.
    seen = np.arange(len(batches)) if len(matching.sends) == len(guest) else whole
    rest = np.union1d(np.setdiff1d(seen, rows), foreign)
    return Partners(rows, matching, rest, tuple(_others(batches, host, rest, rows)))


def _best(
    guest: Calls, batches: Batches, host: Calls, whole: _Rows, divide: _Divide, how: _How, effort: _Effort
) -> tuple[_Rows, Matching] | None:
    """The one answer of all sets that `divide` makes of the batches; None without a proof.

    Of sets with the same pairs the smallest counts, in which fewer buffers have no send.
    """
    best: tuple[_Rows, Matching] | None = None
    possible = whole if how.gaps else whole[_may_be_sent(guest, host)[whole]]
    for number, rows in enumerate(_sets(guest, batches, host, possible, divide, how, effort)):
        if number >= _MOST_SETS:
            raise _indistinct()
        effort.spend(len(guest) + len(rows))
        try:
            matching = how.match(guest, host.only(rows))
        except TooManyWaysError:
            raise
        except RecordingError:
            continue
        if _is_proof(guest, matching, everything=len(rows) == len(possible), gaps=how.gaps):
            answers = sorted(filter(None, (best, (rows, matching))), key=lambda each: -len(each[0]))
            best = _agreed(answers[0], answers[-1])
    return best


def _is_proof(guest: Calls, matching: Matching, *, everything: bool, gaps: bool) -> bool:
    """Whether enough pairs agree; `everything`: no buffer was left out that a send may have caused."""
    pairs = len(matching.sends)
    sent = int((~np.isin(guest.queue, matching.unseen_queues)).sum())
    if pairs >= _MANY_PAIRS:
        return True
    if gaps:
        return everything and pairs >= _FEW_PAIRS
    return pairs == sent and (everything or pairs >= _FEW_PAIRS)


def _agreed(one: tuple[_Rows, Matching], other: tuple[_Rows, Matching]) -> tuple[_Rows, Matching]:
    """The answer with more pairs, where it says all that the other says; else nothing is proved."""
    less, more = sorted((one, other), key=lambda each: len(each[1].sends))
    pairs = [
        set(zip(each.sends.tolist(), rows[each.batches].tolist(), strict=True)) for rows, each in (less, more)
    ]
    if not pairs[0] <= pairs[1]:
        raise TooManyWaysError(
            "the recordings cannot be matched: the sends agree with several sets of served buffers, and "
            "nothing tells which of them are the guest's"
        )
    return more


def _sets(
    guest: Calls, batches: Batches, host: Calls, possible: _Rows, divide: _Divide, how: _How, effort: _Effort
) -> Iterator[_Rows]:
    """Sets of the `possible` batches that may be all that the sends caused, without repeating one."""
    queue = host.queue
    if UNKNOWN_QUEUE in guest.queue:
        # Which sends are of which queue is not known: nothing can be said of one queue alone.
        yield from divide(batches, possible)
        return
    choices: list[list[_Rows]] = []
    for number in np.unique(queue[possible]).tolist():
        mine = possible[queue[possible] == number]
        sends = guest.only(np.flatnonzero(guest.queue == number))
        if number == UNKNOWN_QUEUE or not len(sends):
            choices.append([mine, mine[:0]] if len(mine) else [mine])
            continue
        choices.append([])
        for rows in divide(batches, mine):
            effort.spend(len(sends) + len(rows))
            if how.may_match(sends, host.only(rows)):
                choices[-1].append(rows)
    seen: set[bytes] = set()
    for chosen in itertools.product(*choices) if choices else ():
        rows = np.sort(np.concatenate(chosen))
        if len(rows) and rows.tobytes() not in seen:
            seen.add(rows.tobytes())
            yield rows


def _may_be_sent(guest: Calls, host: Calls) -> Mask:
    """Which batches have a number of pages that a send of their queue has, or may have."""
    may: Mask = host.pages == UNKNOWN_PAGES
    for queue in np.unique(host.queue).tolist():
        sends = guest.pages[
            (guest.queue == queue) | (guest.queue == UNKNOWN_QUEUE) | (queue == UNKNOWN_QUEUE)
        ]
        if np.any(sends == UNKNOWN_PAGES):
            may |= host.queue == queue
        may |= (host.queue == queue) & np.isin(host.pages, sends)
    return may


def _by_eventfd(batches: Batches, rows: _Rows) -> Iterator[_Rows]:
    """Those that one eventfd kicked, of one queue then, with and without those found by looking."""
    source = batches.int64("kicked_by")[rows]
    unkicked = source == 0
    for each in _most(source[~unkicked], _EVENTFDS):
        yield rows[source == each]
        if unkicked.any():
            yield rows[(source == each) | unkicked]


def _alike(batches: Batches, rows: _Rows) -> Iterator[_Rows]:
    """All of some batches, and those of one thread, of one kind of call, page by page or not."""
    threads, sorts, single = (
        batches.int64("tid")[rows],
        sorts_of_calls(batches)[rows],
        page_by_page(batches)[rows],
    )
    everything = np.ones(len(rows), dtype=np.bool_)
    of_thread = [everything, *(threads == each for each in _most(threads, _THREADS))]
    of_sort = [everything, *(sorts == each for each in _most(sorts, _SORTS))]
    seen: set[bytes] = set()
    for thread, sort, size in itertools.product(of_thread, of_sort, (everything, single, ~single)):
        chosen = rows[thread & sort & size]
        if len(chosen) and chosen.tobytes() not in seen:
            seen.add(chosen.tobytes())
            yield chosen


def _most(values: Column, count: int) -> Sequence[int]:
    """The most frequent values, of at most so many kinds."""
    found, counts = np.unique(values, return_counts=True)
    most: list[int] = found[np.argsort(-counts, kind="stable")[:count]].tolist()
    return most


def sorts_of_calls(batches: Batches) -> Column:
    """A number for the kinds of calls that each batch has."""
    sorts = np.zeros(len(batches), dtype=np.int64)
    for call in Call:
        sorts |= (batches.calls(call) > 0).astype(np.int64) << int(call)
    return sorts


def page_by_page(batches: Batches) -> Mask:
    """Whether each call was for one page of the balloon."""
    madvised = batches.int64("madvise_bytes") == BALLOON_PAGE_BYTES * batches.calls(*MADVISES)
    fallocated = batches.int64("fallocate_bytes") == BALLOON_PAGE_BYTES * batches.calls(*FALLOCATES)
    return np.asarray(madvised & fallocated)


def _others(batches: Batches, host: Calls, rest: _Rows, taken: _Rows) -> Iterator[str]:
    """What the batches are that were not taken for the guest's."""
    if not len(rest):
        return
    elsewhere = ~np.isin(batches.int64("tid")[rest], batches.int64("tid")[taken])
    other_sizes = ~elsewhere & ~np.isin(host.pages[rest], host.pages[taken])
    remaining = ~elsewhere & ~other_sizes
    parts = [
        f"{format_things(int(which.sum()), one, many)}{_bytes(host, rest[which])}"
        for which, one, many in (
            (elsewhere, "was served by another thread", "were served by other threads"),
            (other_sizes, "has another page count", "have other page counts"),
            (remaining, "was served by other calls", "were served by other calls"),
        )
        if which.any()
    ]
    buffers = format_things(len(rest), "served buffer is not a send", "served buffers are not sends")
    yield f"{buffers} of this guest: {', '.join(parts)}"


def _bytes(host: Calls, rows: _Rows) -> str:
    """How much they were of, in brackets; nothing where that is of none known."""
    known = host.pages[rows][host.pages[rows] != UNKNOWN_PAGES]
    return f" ({format_pages_as_bytes(int(known.sum()))})" if len(known) else ""


def whole_batches(batches: Batches, started_ns: int) -> _Rows:
    """Batches that were seen from beginning to end.

    Until all probes were attached, a part of a buffer was seen, or several as one; and the first buffer of a
    thread may have been under way then, if its kick was not seen.
    """
    first = np.zeros(len(batches), dtype=np.bool_)
    first[np.unique(batches.int64("tid"), return_index=True)[1]] = True
    early = first | (batches.int64("first_call_ns") < started_ns)
    return np.flatnonzero(~(batches.has(BatchFlag.UNFINISHED) | early & ~batches.has(BatchFlag.KICK_SEEN)))

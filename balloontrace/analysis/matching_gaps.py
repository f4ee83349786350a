# SPDX-License-Identifier: GPL-2.0-or-later
"""Sends with the buffers their host served where some of either were lost: those that are proved alone.

A balloon has one send under way at a time. So a buffer that overlaps a send, whatever the offset of the
clocks may be, is that send's own. A few calls in a row that fit to each other bound the offset; what is
proved with it bounds it closer; and so on until nothing more is proved. A true offset has no contradiction:
no buffer reaches beyond the send it overlaps, none has another number of pages, and no send has two.

It is taken if chance cannot explain it, and only if there is no other. What comes at equal intervals agrees
some calls further on as well, and proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.clocks import MAX_DRIFT, Clock, fit_clock
from balloontrace.analysis.columns import Mask
from balloontrace.analysis.matching import (
    Matching,
    TooManyWaysError,
    is_one_pair,
    of_seen_queues,
    told_apart_ns,
    wall_clocks_agree,
)
from balloontrace.analysis.matching_calls import UNKNOWN_PAGES, UNKNOWN_QUEUE, Calls, agree, agree_each
from balloontrace.analysis.matching_shifts import START_NS
from balloontrace.errors import RecordingError

# Sends in a row to begin with, and how many such runs, from all over the recording: fewer where each has many
# places to look at. A run that fits to more places than this is so regular that it tells nothing.
_RUN, _SHORTEST_RUN, _RUNS, _FEWEST_RUNS, _MOST_PLACES = 12, 3, 64, 8, 16
_ALL_PLACES = 1 << 21
# Places of the host to look at together, so that what is needed of memory has a bound.
_AT_ONCE = 1 << 16
_ROUNDING_NS = 16
# Wrong offsets to try: up to so many turns of a send, each in so many parts; of so many buffers in a row, at
# so many places.
_TURNS, _TURN_PARTS = 16, 32
_BLOCK, _BLOCKS = 128, 8
# Of all pairs at most so many may lie beside a gap.
_MOST_GAPS = 1 / 8
# How likely chance may be: one in a million, as a logarithm.
_BY_CHANCE = math.log(1e-6)

_Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Proved:
    """Pairs as indices of both sides, in order, and the clock that they agree with."""

    sends: _Rows
    batches: _Rows
    clock: Clock


def match_with_gaps(sends: Calls, batches: Calls) -> Matching:
    """Pair those sends and buffers that are proved to be the same, where some of either side are missing.

    RecordingError if nothing is proved; TooManyWaysError, one of them, if two ways to pair them are.
    """
    chosen, unseen = of_seen_queues(sends, batches)
    guest = sends.only(chosen)
    found = _find(guest, batches)
    if len(found) > 1:
        raise TooManyWaysError(
            "the recordings cannot be matched: with some calls missing, sends and served buffers agree in "
            "more than one way"
        )
    if not found:
        raise RecordingError("the recordings cannot be matched: with calls missing, nothing is proved")
    (proved,) = found
    return Matching(
        np.flatnonzero(chosen)[proved.sends],
        proved.batches,
        proved.clock,
        unseen,
        told_apart_ns(guest, batches, proved.clock),
        is_one_pair(guest, batches),
        *_alone(guest, batches, proved),
    )


def may_match_with_gaps(guest: Calls, host: Calls) -> bool:
    """Whether some sends in a row agree with some buffers in a row."""
    return any(0 < len(_places(guest, host, run)) <= _MOST_PLACES for run in _runs(guest, host))


def _find(guest: Calls, host: Calls) -> list[_Proved]:
    """The way to align both sides in which pairs are proved; no more than two."""
    found: list[_Proved] = []
    if not (_one_by_one(guest) and _one_by_one(host)):
        return found
    tried: list[_Proved] = []
    for mine, theirs in _beginnings(guest, host):
        if any(_has(each, mine, theirs) for each in tried):
            continue
        if proved := _grow(guest, host, mine, theirs):
            tried.append(proved)
            if _is_proof(guest, host, proved):
                found.append(proved)
        if len(found) > 1:
            break
    return found


def _is_proof(guest: Calls, host: Calls, proved: _Proved) -> bool:
    return wall_clocks_agree(guest, host, proved.clock, len(proved.sends)) and not _by_chance(
        guest, host, proved
    )


def _alone(guest: Calls, host: Calls, proved: _Proved) -> tuple[int, int]:
    """How many sends, and buffers, have no partner, though the other side was recorded as well."""
    clock = proved.clock
    window_ns = np.array([guest.window.start_ns, guest.window.end_ns])
    opened_ns, closed_ns = window_ns + clock.to_host_ns(window_ns)
    slack_ns = clock.error_ns + START_NS
    early = guest.start_ns + clock.to_host_ns(guest.start_ns) <= host.window.start_ns + slack_ns
    late = guest.end_ns + clock.to_host_ns(guest.end_ns) >= host.window.end_ns - slack_ns
    sends = ~(early | late)
    sends[proved.sends] = False
    batches = ~((host.start_ns <= opened_ns + slack_ns) | (host.end_ns >= closed_ns - slack_ns))
    batches[proved.batches] = False
    return int(sends.sum()), int(batches.sum())


def _one_by_one(calls: Calls) -> bool:
    """Whether no call began before the one before had ended."""
    return bool(np.all(calls.start_ns[1:] >= calls.end_ns[:-1]))


def _has(proved: _Proved, mine: _Rows, theirs: _Rows) -> bool:
    """Whether these pairs, which follow each other on both sides, are among those."""
    at = int(np.searchsorted(proved.sends, mine[0]))
    pairs = slice(at, at + len(mine))
    return np.array_equal(proved.batches[pairs], theirs) and np.array_equal(proved.sends[pairs], mine)


def _beginnings(guest: Calls, host: Calls) -> Iterator[tuple[_Rows, _Rows]]:
    """Runs of sends with runs of buffers that agree with each other, those first that agree least often."""
    found = [(run, _places(guest, host, run)) for run in _runs(guest, host)]
    for run, places in sorted(found, key=lambda each: len(each[1])):
        if len(places) <= _MOST_PLACES:
            for place in places.tolist():
                yield run, np.arange(place, place + len(run))


def _runs(guest: Calls, host: Calls) -> list[_Rows]:
    """Sends in a row to begin with, from all over the recording."""
    length = min(_RUN, max(_SHORTEST_RUN, min(len(guest), len(host)) // 4))
    last = len(guest) - length
    if last < 0 or len(host) < length:
        return []
    runs = min(last + 1, max(_FEWEST_RUNS, min(_RUNS, _ALL_PLACES // len(host))))
    starts = np.unique(np.linspace(0, last, runs).astype(np.intp)).tolist()
    return [np.arange(start, start + length) for start in starts]


def _places(guest: Calls, host: Calls, mine: _Rows) -> _Rows:
    """Where in the host's buffers as many follow each other as `mine`, and agree with them."""
    found: list[_Rows] = []
    for at in range(0, len(host) - len(mine) + 1, _AT_ONCE):
        first = np.arange(at, min(at + _AT_ONCE, len(host) - len(mine) + 1))
        # Most places are excluded by a few pairs.
        for few in (mine[: max(2, len(mine) // 4)], mine):
            first = first[_agree(guest, host, few, first[:, None] + (few - mine[0]))]
        found.append(first)
    return np.concatenate(found)


def _agree(guest: Calls, host: Calls, mine: _Rows, theirs: _Rows) -> Mask:
    """Of each row of `theirs`, whether sends and buffers agree in counts, and in times by some offset.

    `mine` are the sends for each row, or for all of them.
    """
    fits = agree_each(guest.pages[mine], host.pages[theirs], UNKNOWN_PAGES)
    fits &= agree_each(guest.queue[mine], host.queue[theirs], UNKNOWN_QUEUE)
    passed_ns = guest.end_ns[mine] - guest.start_ns[mine[..., :1]]
    drift_ns = np.ceil(passed_ns * MAX_DRIFT).astype(np.int64) + _ROUNDING_NS
    lows = host.end_ns[theirs] - guest.end_ns[mine] - drift_ns
    highs = host.start_ns[theirs] - guest.start_ns[mine] + drift_ns
    fits &= lows.max(axis=1) <= highs.min(axis=1)
    return fits


def _grow(guest: Calls, host: Calls, mine: _Rows, theirs: _Rows) -> _Proved | None:
    """All that is proved if these are pairs; None where something contradicts that."""
    while True:
        clock = _fit(guest, host, mine, theirs)
        pairs = None if clock is None else _sure_pairs(guest, host, clock)
        if clock is None or pairs is None:
            return None
        if len(pairs[0]) <= len(mine):
            return _Proved(mine, theirs, clock)
        mine, theirs = pairs


def _fit(guest: Calls, host: Calls, mine: _Rows, theirs: _Rows) -> Clock | None:
    return fit_clock(
        guest.start_ns[mine],
        host.end_ns[theirs] - guest.end_ns[mine],
        host.start_ns[theirs] - guest.start_ns[mine],
        guest.end_ns[mine],
    )


def _sure_pairs(guest: Calls, host: Calls, clock: Clock) -> tuple[_Rows, _Rows] | None:
    """Buffers that overlap a send by every possible line of the clock; None at a contradiction."""
    bounds = clock.bounds
    start_low_ns, start_high_ns = (
        guest.start_ns + add(guest.start_ns) for add in (bounds.low_ns, bounds.high_ns)
    )
    end_low_ns, end_high_ns = (guest.end_ns + add(guest.end_ns) for add in (bounds.low_ns, bounds.high_ns))
    first = np.searchsorted(end_low_ns, host.start_ns, side="right")
    after = np.searchsorted(start_high_ns, host.end_ns, side="left")
    if np.any(after > first + 1):
        return None
    theirs = np.flatnonzero(after > first)
    mine = first[theirs]
    inside = (start_low_ns[mine] <= host.start_ns[theirs]) & (host.end_ns[theirs] <= end_high_ns[mine])
    if not inside.all() or np.any(mine[1:] == mine[:-1]) or not _counts_agree(guest, host, mine, theirs):
        return None
    return mine, theirs


def _counts_agree(guest: Calls, host: Calls, mine: _Rows, theirs: _Rows) -> bool:
    return agree(guest.pages[mine], host.pages[theirs], UNKNOWN_PAGES) and agree(
        guest.queue[mine], host.queue[theirs], UNKNOWN_QUEUE
    )


def _by_chance(guest: Calls, host: Calls, proved: _Proved) -> bool:
    """Whether calls of others could look like this, by any of all offsets and drifts.

    At a gap a wrong offset meets no contradiction, so many gaps prove nothing.
    """
    pairs = len(proved.sends)
    gaps = np.count_nonzero((np.diff(proved.sends) > 1) | (np.diff(proved.batches) > 1))
    if gaps > _MOST_GAPS * pairs:
        return True
    ways = 2 * math.log(len(guest) + len(host))
    enough = math.exp((_BY_CHANCE - ways) / pairs)
    return any(unharmed > enough for unharmed in _unharmed(guest, host, proved))


def _unharmed(guest: Calls, host: Calls, proved: _Proved) -> Iterator[float]:
    """How likely one more buffer has no contradiction by a wrong offset: near 1 for calls at equal intervals.

    Wrong offsets are tried: half a send's turn off and more. The one that does best tells; some are tried
    together, and the best of them comes back. Contradictions in a row count as one.
    """
    clock, turn_ns = proved.clock, int(np.median(np.diff(guest.start_ns)))
    base_ns = round(clock.offset_ns)
    start_ns, end_ns = (
        each + base_ns + np.rint(clock.to_host_ns(each) - base_ns).astype(np.int64)
        for each in (guest.start_ns, guest.end_ns)
    )
    blocks = np.linspace(0, max(0, len(proved.batches) - _BLOCK), _BLOCKS).astype(np.intp)
    rows = proved.batches[np.unique(np.minimum(blocks[:, None] + np.arange(_BLOCK), len(proved.batches) - 1))]
    parts = np.arange(_TURN_PARTS // 2, _TURNS * _TURN_PARTS)
    offs_ns = np.outer(parts, (-turn_ns, turn_ns)).reshape(-1, 1) // _TURN_PARTS
    for some_ns in np.array_split(offs_ns, math.ceil(offs_ns.size * len(rows) / _AT_ONCE)):
        first_ns, last_ns = host.start_ns[rows] + some_ns, host.end_ns[rows] + some_ns
        send = np.minimum(np.searchsorted(end_ns, first_ns, side="right"), len(guest) - 1)
        overlaps = (start_ns[send] < last_ns) & (first_ns < end_ns[send])
        inside = (start_ns[send] <= first_ns) & (last_ns <= end_ns[send])
        inside[:, 1:] &= send[:, 1:] != send[:, :-1]
        harmed = overlaps & ~inside
        begun = harmed[:, 0] + np.count_nonzero(harmed[:, 1:] & ~harmed[:, :-1], axis=1)
        yield float(np.max(1 - begun / (np.count_nonzero(~harmed, axis=1) + begun)))

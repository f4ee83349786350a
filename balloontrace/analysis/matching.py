# SPDX-License-Identifier: GPL-2.0-or-later
"""Sends of a guest with the buffers its host served: which is which, and how far apart their clocks are.

A balloon has one buffer in flight, so the k-th send on a queue is the k-th buffer served of it. Where one
of the recordings begins later or ends earlier, there are several ways to align them. One is taken only if
it alone agrees with

* the queues, and the number of pages of each send where both sides know it;
* causality: the host cannot make a call for a send before the guest made it. The guest cannot go on before
  the host has finished its last call. Each pair bounds the offset of the two clocks from both sides; an
  offset, and a drift, must lie between them all;
* the times of recording: what has no partner happened when the other side was not recording.

Those bounds also say how well the offset is known. Wall clocks may be wrong, and a guest's often is. Where
many calls agree, a difference is reported but does not reject the match, unless the drift is at its limit.
Where both recordings were given the same name of a pair, that stands in for the wall clocks, and of several
ways the one counts that leaves nothing over; different names are of different pairs.

Where calls in between were lost this finds nothing; `matching_gaps` does then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.clocks import MAX_DRIFT, Clock, fit_clock
from balloontrace.analysis.matching_calls import UNKNOWN_PAGES, UNKNOWN_QUEUE, Calls, agree, overlap
from balloontrace.analysis.matching_shifts import START_NS, possible_shifts, too_many
from balloontrace.errors import RecordingError
from balloontrace.units import NS_PER_S, format_duration_ns, format_things

# Fewer pairs than this prove little by their times: the wall clocks must then agree, too.
_MANY_PAIRS = 64
_WALL_CLOCKS_NS = 60 * NS_PER_S

# A drift this near to MAX_DRIFT is where the search for one ended, not what was found.
_AT_THE_LIMIT = MAX_DRIFT * (1 - 1e-4)

# Pairs to look at in full, in all ways together: half a minute.
_MOST_PAIRS = 1 << 25


class TooManyWaysError(RecordingError):
    """Several ways agree with everything, or too many would have to be tried."""


@dataclass(frozen=True, slots=True)
class Matching:
    """Pairs as indices of both sides, in order; of `unseen_queues` the host served nothing.

    `wall_clocks_apart_ns` is by how much the wall clocks differ, if that is more than clocks set alike would.
    `sends_alone` and `batches_alone` have no partner, though the other side was recorded as well.
    """

    sends: NDArray[np.intp]
    batches: NDArray[np.intp]
    clock: Clock
    unseen_queues: tuple[int, ...]
    wall_clocks_apart_ns: float | None = None
    is_one_pair: bool = False  # by the name that the user gave both
    sends_alone: int = 0
    batches_alone: int = 0


class OtherPairError(RecordingError):
    """The recordings say themselves that they do not belong together."""


def match(sends: Calls, batches: Calls, most_pairs: int = _MOST_PAIRS) -> Matching:
    """Pair a guest's sends with its host's buffers; RecordingError with the reason if it cannot be proved.

    OtherPairError, one of them, if both have a name of --pair and it is not the same.
    TooManyWaysError, another one, if several ways agree, or more than `most_pairs` would have to be tried.
    """
    chosen, unseen = of_seen_queues(sends, batches)
    guest = sends.only(chosen)
    found: list[tuple[int, Clock]] = []
    pairs = 0
    for shift in _shifts(guest, batches):
        pairs += _pairs(guest, batches, shift)
        if pairs > max(most_pairs, len(guest)):
            raise TooManyWaysError(str(too_many(guest, batches)))
        if clock := _try(guest, batches, shift):
            found.append((shift, clock))
            if is_one_pair(guest, batches) and _pairs(guest, batches, shift) == len(guest) == len(batches):
                break  # made at the same time, and nothing is left over
        if len(found) > 1:
            raise TooManyWaysError(
                f"the recordings cannot be matched: at least {len(found)} ways to align "
                f"{format_things(len(guest), 'send')} with {format_things(len(batches), 'served buffer')} "
                "agree with all times"
            )
    if not found:
        raise RecordingError(_why_not(guest, batches))
    shift, clock = found[0]
    mine, theirs = overlap(len(guest), len(batches), shift)
    return Matching(
        np.flatnonzero(chosen)[mine],
        np.arange(len(batches))[theirs],
        clock,
        unseen,
        told_apart_ns(guest, batches, clock),
        is_one_pair(guest, batches),
    )


def of_seen_queues(sends: Calls, batches: Calls) -> tuple[NDArray[np.bool_], tuple[int, ...]]:
    """Which sends are of a queue that the host served, and the queues of which it served nothing.

    RecordingError, and OtherPairError, where nothing is left to match.
    """
    if are_of_different_pairs(sends, batches):
        raise OtherPairError(
            "the recordings do not belong together: they were made with different names of record --pair"
        )
    if not len(sends) or not len(batches):
        side = "host served no buffer" if len(sends) else "guest sent nothing"
        raise RecordingError(f"the recordings cannot be matched: the {side} while it was recorded")
    seen = np.unique(batches.queue)
    # Of a side that cannot tell its queues any call may be the other's.
    may_be = np.append(seen, UNKNOWN_QUEUE)
    unseen = np.setdiff1d(np.unique(sends.queue), may_be)
    chosen = np.isin(sends.queue, may_be)
    if UNKNOWN_QUEUE in seen:
        unseen, chosen = unseen[:0], np.ones(len(sends), dtype=np.bool_)
    if not chosen.any():
        raise RecordingError("the recordings cannot be matched: they are of different queues")
    return chosen, tuple(unseen.tolist())


def is_one_pair(guest: Calls, host: Calls) -> bool:
    """Whether both recordings were given the same name of a pair."""
    return guest.window.pair is not None and guest.window.pair == host.window.pair


def are_of_different_pairs(guest: Calls, host: Calls) -> bool:
    """Whether both recordings were given names of a pair, and not the same."""
    return None not in (guest.window.pair, host.window.pair) and not is_one_pair(guest, host)


def _shifts(guest: Calls, host: Calls) -> list[int]:
    """Ways to try, those first that would pair the most: what is proved soonest costs least."""
    try:
        shifts = possible_shifts(guest, host)
    except RecordingError as error:
        raise TooManyWaysError(str(error)) from None
    order = np.argsort([-_pairs(guest, host, shift) for shift in shifts.tolist()], kind="stable")
    found: list[int] = shifts[order].tolist()
    return found


def _pairs(guest: Calls, host: Calls, shift: int) -> int:
    mine, _ = overlap(len(guest), len(host), shift)
    return int(mine.stop) - int(mine.start)


def _counts_agree(guest: Calls, host: Calls, mine: slice, theirs: slice) -> bool:
    return agree(guest.pages[mine], host.pages[theirs], UNKNOWN_PAGES) and agree(
        guest.queue[mine], host.queue[theirs], UNKNOWN_QUEUE
    )


def _try(guest: Calls, host: Calls, shift: int) -> Clock | None:
    """The clock with which this way of laying both side by side agrees with everything, or None."""
    clock = _try_times(guest, host, shift)
    if clock is None or not wall_clocks_agree(guest, host, clock, _pairs(guest, host, shift)):
        return None
    many = _pairs(guest, host, shift) >= _MANY_PAIRS and not is_one_pair(guest, host)
    if many and _too_regular(guest, host, shift, _wall_clocks_apart_ns(guest, host, clock)):
        return None
    return clock


def wall_clocks_agree(guest: Calls, host: Calls, clock: Clock, pairs: int) -> bool:
    """Whether the times of day are as near as this clock needs, which so many pairs prove.

    Few pairs need them, unless both sides have one name of --pair; many do if they need the utmost drift.
    """
    apart_ns = _wall_clocks_apart_ns(guest, host, clock)
    if pairs >= _MANY_PAIRS:
        return not _strained(clock, apart_ns)
    agree_well = apart_ns is not None and apart_ns <= _wall_clocks_may_ns(guest, host)
    return is_one_pair(guest, host) or agree_well


def _too_regular(guest: Calls, host: Calls, shift: int, apart_ns: float | None) -> bool:
    """Whether the times prove nothing, as they agree one pair further on too, nor do the wall clocks.

    What comes as regularly as that agrees with any machine that is at the same work.
    """
    if apart_ns is None or apart_ns <= _WALL_CLOCKS_NS:
        return False
    return any(_fit(guest, host, other) is not None for other in (shift - 1, shift + 1))


def _strained(clock: Clock, apart_ns: float | None) -> bool:
    """Whether the clocks only agree with the most that they may drift, and the wall clocks not at all."""
    return apart_ns is not None and apart_ns > _WALL_CLOCKS_NS and abs(clock.drift) >= _AT_THE_LIMIT


def _try_times(guest: Calls, host: Calls, shift: int) -> Clock | None:
    """The same, whatever the wall clocks say."""
    clock = _fit(guest, host, shift)
    mine, theirs = overlap(len(guest), len(host), shift)
    return clock if clock is not None and _partnerless_agree(guest, host, mine, theirs, clock) else None


def _fit(guest: Calls, host: Calls, shift: int) -> Clock | None:
    """The clock with which all pairs of this way agree, whatever was recorded besides."""
    mine, theirs = overlap(len(guest), len(host), shift)
    if mine.start >= mine.stop or not _counts_agree(guest, host, mine, theirs):
        return None
    return fit_clock(
        guest.start_ns[mine],
        host.end_ns[theirs] - guest.end_ns[mine],
        host.start_ns[theirs] - guest.start_ns[mine],
        guest.end_ns[mine],
    )


def _partnerless_agree(guest: Calls, host: Calls, mine: slice, theirs: slice, clock: Clock) -> bool:
    """Whether what has no partner happened before the other side began to record, or after it ended."""
    # A few pairs prove too little to think of calls that were missed while probes were being attached.
    slack_ns = clock.error_ns + (START_NS if mine.stop - mine.start >= _MANY_PAIRS else 0)
    sends_ns = guest.start_ns + clock.to_host_ns(guest.start_ns)
    ends_ns = guest.end_ns + clock.to_host_ns(guest.end_ns)
    window = np.array([guest.window.start_ns, guest.window.end_ns])
    opened_ns, closed_ns = window + clock.to_host_ns(window)
    early, late = slice(0, mine.start), slice(mine.stop, None)
    early_host, late_host = slice(0, theirs.start), slice(theirs.stop, None)
    return bool(
        np.all(sends_ns[early] <= host.window.start_ns + slack_ns)
        and np.all(ends_ns[late] >= host.window.end_ns - slack_ns)
        and np.all(host.start_ns[early_host] <= opened_ns + slack_ns)
        and np.all(host.end_ns[late_host] >= closed_ns - slack_ns)
    )


def told_apart_ns(guest: Calls, host: Calls, clock: Clock) -> float | None:
    """How far the times of day of both sides differ, where that is to be told."""
    apart_ns = _wall_clocks_apart_ns(guest, host, clock)
    told_ns = _wall_clocks_may_ns(guest, host) if is_one_pair(guest, host) else _WALL_CLOCKS_NS
    return apart_ns if apart_ns is not None and apart_ns > told_ns else None


def _wall_clocks_apart_ns(guest: Calls, host: Calls, clock: Clock) -> float | None:
    """How far the times of day of both sides differ when their clocks are aligned so."""
    mine, theirs = guest.window.realtime_offset_ns, host.window.realtime_offset_ns
    return None if mine is None or theirs is None else abs(mine - theirs - clock.offset_ns)


def _wall_clocks_may_ns(guest: Calls, host: Calls) -> float:
    """How far they may differ and still exclude that few calls are paired with others of the same shape.

    A call whose partner was not recorded is as far from what stands in for it as the recording went on before
    and after that: half of this quiet time.
    """
    return min(max(_quiet_ns(guest), _quiet_ns(host)) / 2, _WALL_CLOCKS_NS)


def _quiet_ns(calls: Calls) -> int:
    """How long a recording went on before its first and after its last call, whichever is less."""
    window = calls.window
    return max(0, min(int(calls.start_ns[0]) - window.start_ns, window.end_ns - int(calls.end_ns.max())))


def _why_not(guest: Calls, host: Calls) -> str:
    """The reason that tells most about recordings which cannot be matched."""
    counts = f"{format_things(len(guest), 'send')} and {format_things(len(host), 'served buffer')}"
    shifts = {0, len(host) - len(guest)}
    if not any(_counts_agree(guest, host, *overlap(len(guest), len(host), shift)) for shift in shifts):
        return (
            f"the recordings do not belong together: {counts}, and their page counts do not agree in any "
            "alignment"
        )
    for shift in shifts:
        if (clock := _try_times(guest, host, shift)) is not None:
            return _why_not_by_wall_clocks(guest, host, counts, clock)
    taken = format_duration_ns(float((guest.end_ns - guest.start_ns).mean()))
    return (
        f"the recordings do not belong together: {counts} agree by no offset of the clocks (a send takes "
        f"{taken} on average); are they of one guest, one boot and one time, and was it never paused?"
    )


def _why_not_by_wall_clocks(guest: Calls, host: Calls, counts: str, clock: Clock) -> str:
    """The reason where everything but the times of day agrees."""
    apart_ns = _wall_clocks_apart_ns(guest, host, clock)
    may = format_duration_ns(_wall_clocks_may_ns(guest, host))
    apart = "are not both known" if apart_ns is None else f"differ by {format_duration_ns(apart_ns)}"
    if apart_ns is not None and _pairs(guest, host, 0) >= _MANY_PAIRS and not _strained(clock, apart_ns):
        return (
            f"the recordings cannot be matched: {counts} are so regular that their times prove nothing, and "
            f"the wall clocks of the sides {apart}; were they made at the same time?"
        )
    if _strained(clock, apart_ns):
        return (
            f"the recordings cannot be matched: {counts} agree only if one clock goes "
            f"{abs(clock.drift) * 1e6:.0f} ppm faster than the other, the most that is possible, and the "
            f"wall clocks of the sides {apart}; were they made at the same time?"
        )
    return (
        f"the recordings cannot be matched: {counts} are too few to be matched by their times alone, and the "
        f"wall clocks of the sides {apart}, which must be at most {may}; give both the same record --pair, "
        "set the clocks (NTP), or record for longer before and after"
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to align sends with served buffers that quick tests do not exclude: all of them tested together.

Send i may be buffer i + shift, for any shift that leaves a pair. Each test excludes only what the full proof
would exclude as well, and its time grows with the length of both sides. The tests: the nearest calls without
a partner against the times of recording; a few pairs against each other; the page counts of all pairs at
once, as a correlation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.clocks import MAX_DRIFT
from balloontrace.analysis.columns import Column, Mask
from balloontrace.analysis.matching_calls import UNKNOWN_PAGES, UNKNOWN_QUEUE, Calls, agree_each
from balloontrace.errors import RecordingError
from balloontrace.units import format_count

START_NS = 50_000_000
"""Probes are attached one after the other; the clock is read before the first and after the last."""

# Beyond this many ways that all look right nothing can be proved in a reasonable time.
_MOST_WAYS = 1 << 14
# And beyond this many the second look would take too long.
_MOST_SECOND_LOOKS = 1 << 17

# Shifts to look at together, so that what is needed of memory has a bound.
_AT_ONCE = 1 << 16
# Pairs to look at in each way, first and later: half of them the first, half of them from all over.
_FEW_PAIRS, _MORE_PAIRS = 16, 256
# Where more numbers would have to be compared one by one, they are compared by correlation.
_MANY_COMPARISONS = 1 << 24
_NUMBERS = 1 << 9

# Times may lie anywhere in 62 bits; a window that is farther out is as good as this.
_FARTHEST_NS = 1 << 62
_ROUNDING_NS = 16


def possible_shifts(guest: Calls, host: Calls) -> NDArray[np.int64]:
    """Shifts in order that a look does not exclude; RecordingError when they are too many to prove one."""
    low, high = 1 - len(guest), len(host)
    looks = (
        _look(guest, host, np.arange(at, min(at + _AT_ONCE, high), dtype=np.int64), _FEW_PAIRS, ends=True)
        for at in range(low, high, _AT_ONCE)
    )
    shifts = np.concatenate([np.empty(0, dtype=np.int64), *looks])
    if len(shifts) * min(len(guest), len(host)) > _MANY_COMPARISONS:
        for mine, theirs, unknown in (
            (guest.pages, host.pages, UNKNOWN_PAGES),
            (guest.queue, host.queue, UNKNOWN_QUEUE),
        ):
            shifts = shifts[_same_everywhere(mine, theirs, unknown)[shifts - low]]
    if len(shifts) > _MOST_SECOND_LOOKS:
        raise too_many(guest, host)
    looks = (
        _look(guest, host, some, _MORE_PAIRS, ends=False) for some in _pieces(shifts, _AT_ONCE // _FEW_PAIRS)
    )
    shifts = np.concatenate([np.empty(0, dtype=np.int64), *looks])
    if len(shifts) > _MOST_WAYS:
        raise too_many(guest, host)
    return shifts


def too_many(guest: Calls, host: Calls) -> RecordingError:
    """Why nothing is tried any more."""
    return RecordingError(
        f"the recordings cannot be matched: {format_count(len(guest))} sends and {format_count(len(host))} "
        "served buffers are so similar that there are too many ways to align them"
    )


def _pieces(shifts: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (shifts[at : at + size] for at in range(0, len(shifts), size))


def _look(
    guest: Calls, host: Calls, shifts: NDArray[np.int64], pairs: int, *, ends: bool
) -> NDArray[np.int64]:
    """Those that some pairs, and with `ends` the nearest calls without a partner, do not exclude."""
    if ends:
        shifts = shifts[_ends_agree(guest, host, shifts)]
    first, last = np.maximum(0, -shifts), np.minimum(len(guest), len(host) - shifts) - 1
    half = np.arange(pairs // 2)
    near = np.minimum(first[:, None] + half, last[:, None])
    far = first[:, None] + (last - first)[:, None] * half // max(1, len(half) - 1)
    mine = np.concatenate([near, far], axis=1)
    theirs = mine + shifts[:, None]
    fits = agree_each(guest.pages[mine], host.pages[theirs], UNKNOWN_PAGES)
    fits &= agree_each(guest.queue[mine], host.queue[theirs], UNKNOWN_QUEUE)
    since_ns = guest.start_ns[mine] - guest.start_ns[first][:, None]
    lows = host.end_ns[theirs] - guest.end_ns[mine]
    lows -= _drift_ns(since_ns + guest.end_ns[mine] - guest.start_ns[mine])
    highs = host.start_ns[theirs] - guest.start_ns[mine] + _drift_ns(since_ns)
    left: NDArray[np.int64] = shifts[fits & (lows.max(axis=1) <= highs.min(axis=1))]
    return left


def _drift_ns(passed_ns: Column) -> Column:
    """How much two clocks may have gone apart, rounded up."""
    return np.ceil(np.abs(passed_ns) * MAX_DRIFT).astype(np.int64) + _ROUNDING_NS


def _ends_agree(guest: Calls, host: Calls, shifts: NDArray[np.int64]) -> Mask:
    """Whether the nearest calls without a partner can have happened when the other side was not recording."""
    first, end = np.maximum(0, -shifts), np.minimum(len(guest), len(host) - shifts)
    last = end - 1
    widths_ns = [_width_ns(guest, host, pair, shifts) for pair in (first, last)]
    slack_ns = START_NS + np.maximum(*widths_ns)
    low_ns = host.end_ns[last + shifts] - guest.end_ns[last]
    high_ns = host.start_ns[first + shifts] - guest.start_ns[first]
    opened_ns, closed_ns = _bounded(guest.window.start_ns), _bounded(guest.window.end_ns)
    fits = np.ones(len(shifts), dtype=np.bool_)

    rows = np.flatnonzero(first > 0)
    send, pair = first[rows] - 1, first[rows]
    at_ns = guest.start_ns[send] + host.end_ns[pair + shifts[rows]] - guest.end_ns[pair]
    at_ns -= _drift_ns(guest.end_ns[pair] - guest.start_ns[send])
    fits[rows] &= at_ns <= _bounded(host.window.start_ns) + slack_ns[rows]

    rows = np.flatnonzero(end < len(guest))
    send, pair = end[rows], last[rows]
    at_ns = guest.end_ns[send] + host.start_ns[pair + shifts[rows]] - guest.start_ns[pair]
    at_ns += _drift_ns(guest.end_ns[send] - guest.start_ns[pair])
    fits[rows] &= at_ns >= _bounded(host.window.end_ns) - slack_ns[rows]

    rows = np.flatnonzero(first + shifts > 0)
    limit_ns = opened_ns + high_ns[rows] + _drift_ns(guest.start_ns[first[rows]] - opened_ns) + slack_ns[rows]
    fits[rows] &= host.start_ns[first[rows] + shifts[rows] - 1] <= limit_ns

    rows = np.flatnonzero(end + shifts < len(host))
    limit_ns = closed_ns + low_ns[rows] - _drift_ns(guest.end_ns[last[rows]] - closed_ns) - slack_ns[rows]
    fits[rows] &= host.end_ns[end[rows] + shifts[rows]] >= limit_ns
    return fits


def _width_ns(guest: Calls, host: Calls, pair: NDArray[np.int64], shifts: NDArray[np.int64]) -> Column:
    """How much of the offset a pair leaves open: no line between all bounds is farther off there."""
    taken_ns = guest.end_ns[pair] - guest.start_ns[pair]
    width: Column = taken_ns - (host.end_ns - host.start_ns)[pair + shifts]
    return np.maximum(0, width) + _drift_ns(taken_ns)


def _bounded(time_ns: int) -> int:
    return max(-_FARTHEST_NS, min(_FARTHEST_NS, time_ns))


def _same_everywhere(mine: Column, theirs: Column, unknown: int) -> Mask:
    """For each shift, from the least, whether both sides agree in all pairs; now and then true where not.

    Values become small random numbers, two of which may be the same. The squares of the differences are
    summed up for all shifts at once: sums of products are a correlation, and that a product of spectra.
    """
    values = np.unique(np.concatenate([mine, theirs]))
    if len(values) == 1:
        return np.ones(len(mine) + len(theirs) - 1, dtype=np.bool_)
    # Fixed, so that a report is the same each time.
    numbers = np.random.default_rng(1).integers(-_NUMBERS, _NUMBERS, len(values)).astype(np.float64)
    length = 1 << (len(mine) + len(theirs)).bit_length()

    def spectra(side: Column) -> list[NDArray[np.complex128]]:
        known = (side != unknown).astype(np.float64)
        number = numbers[np.searchsorted(values, side)] * known
        return [np.fft.rfft(each, length) for each in (known, number, number * number)]

    here, there = spectra(mine), spectra(theirs)
    product = here[2].conj() * there[0] - 2 * here[1].conj() * there[1] + here[0].conj() * there[2]
    squares = np.fft.irfft(product, length)
    # Shift s stands at s modulo the length.
    ordered = np.concatenate([squares[length - len(mine) + 1 :], squares[: len(theirs)]])
    same: Mask = ordered < 0.5
    return same

# SPDX-License-Identifier: GPL-2.0-or-later
"""How far apart two clocks are: every line between bounds of the offset, and what they prove at any time.

A call that was made on one side bounds the offset of the clocks from above, one that was answered bounds it
from below. Clocks that go at steady rates differ by a line; all lines between the bounds, none steeper than
MAX_DRIFT, are what the bounds leave possible. The area they fill in the plane of drift and offset is
kept by its corners. So what holds for all of them at a given time is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column

MAX_DRIFT = 500e-6
"""How much faster one clock may go than the other: adjtimex() slews no more (kernel/time/ntp.c, MAXFREQ)."""

# Rounds in which points that lie below their neighbours' line are left out many at a time; what is left then
# is gone through one by one.
_ROUNDS = 60
_FEW_POINTS = 512

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """All lines that are possible, by the corners of their area, in order of drift.

    A line is an offset at `at_ns` of the guest's clock, less `base_ns`, and a drift.
    """

    at_ns: int
    base_ns: int
    drifts: _Floats
    lowest: _Floats
    highest: _Floats

    def low_ns(self, guest_ns: Column) -> Column:
        """What has to be added to times of the guest, for the host's clock, at the least."""
        return self.base_ns + np.floor(self._extreme(self.lowest, guest_ns)).astype(np.int64)

    def high_ns(self, guest_ns: Column) -> Column:
        """The same, at the most."""
        return self.base_ns + np.ceil(-self._extreme(-self.highest, guest_ns, -1)).astype(np.int64)

    def _extreme(self, offsets: _Floats, guest_ns: Column, sign: int = 1) -> _Floats:
        """The least of `offsets` + `sign` * drift * time, by time: offsets are convex over the drifts."""
        times = sign * (guest_ns - self.at_ns).astype(np.float64)
        slopes = np.diff(offsets) / np.diff(self.drifts)
        corner = np.searchsorted(slopes, -times)
        least: _Floats = offsets[corner] + self.drifts[corner] * times
        return least


@dataclass(frozen=True, slots=True)
class Clock:
    """What to add to the guest's clock for the host's: `offset_ns` at the guest's `at_ns`, and a drift.

    `error_ns` bounds how far that is off, at any time from the first pair to the last; `bounds` are all that
    is proved.
    """

    offset_ns: float
    at_ns: int
    drift: float
    error_ns: float
    bounds: Bounds

    def to_host_ns(self, guest_ns: Column) -> _Floats:
        """Times of the guest in the host's clock, less the guest's: add them as floats near zero only."""
        return self.offset_ns + self.drift * (guest_ns - self.at_ns).astype(np.float64)


def fit_clock(
    times_ns: Column, lows_ns: Column, highs_ns: Column, lows_at_ns: Column | None = None
) -> Clock | None:
    """The clock between bounds of its offset at some times; None when there is none within MAX_DRIFT.

    `lows_at_ns` are the times of the lower bounds, where they are not `times_ns`. For a drift r the offset
    lies between max(low - r t) and min(high - r t): a convex and a concave function of r, whose corners are
    the slopes of the hulls of the bounds.
    """
    at_ns, base_ns = int(times_ns[0]), int(lows_ns[0])  # a float has no room for fractions of 10^15 ns
    lows_at_ns = times_ns if lows_at_ns is None else lows_at_ns
    floor = _Hull.over(lows_at_ns - at_ns, lows_ns - base_ns)
    ceiling = _Hull.over(times_ns - at_ns, base_ns - highs_ns)
    turns = np.concatenate([[-MAX_DRIFT, MAX_DRIFT], floor.slopes, -ceiling.slopes])
    drifts = np.unique(np.clip(turns, -MAX_DRIFT, MAX_DRIFT))
    width = -ceiling.above(-drifts) - floor.above(drifts)
    inside = np.flatnonzero(width >= 0)
    if not len(inside):
        return None
    drifts = np.unique(
        np.concatenate([_ends(drifts, width, int(inside[0]), int(inside[-1])), drifts[inside]])
    )
    lowest, highest = floor.above(drifts), -ceiling.above(-drifts)
    bounds = Bounds(at_ns, base_ns, drifts, lowest, np.maximum(lowest, highest))
    drift = 0.0 if drifts[0] <= 0 <= drifts[-1] else float(drifts[np.argmax(highest - lowest)])
    least, most = floor.above(np.array([drift]))[0], -ceiling.above(np.array([-drift]))[0]
    middle = float(least + most) / 2
    # How far off a line is that also lies between all bounds: at either end, where they are farthest apart.
    ends = np.array([int(times_ns[0]), int(times_ns.max())])
    shown = middle + drift * (ends - at_ns)
    above, below = bounds.high_ns(ends) - base_ns - shown, shown - (bounds.low_ns(ends) - base_ns)
    return Clock(base_ns + middle, at_ns, drift, max(0.0, float(above.max()), float(below.max())), bounds)


def _ends(drifts: _Floats, width: _Floats, first: int, last: int) -> _Floats:
    """The least possible drift and the greatest: where the width vanishes beyond the corners inside."""

    def crossing(inside: int, outside: int) -> float:
        if not 0 <= outside < len(drifts):
            return float(drifts[inside])
        part = width[inside] / (width[inside] - width[outside])
        return float(drifts[inside] + part * (drifts[outside] - drifts[inside]))

    return np.array([crossing(first, first - 1), crossing(last, last + 1)])


@dataclass(frozen=True, slots=True)
class _Hull:
    """The corners of the upper hull of some points, from left to right, and the slopes between them."""

    times: _Floats
    values: _Floats
    slopes: _Floats

    @classmethod
    def over(cls, times_ns: Column, values_ns: Column) -> _Hull:
        """The hull of points that are given near zero."""
        order = np.lexsort((values_ns, times_ns))
        times, values = times_ns[order].astype(np.float64), values_ns[order].astype(np.float64)
        highest = np.append(times[1:] != times[:-1], True)
        times, values = _corners(*_fewer(times[highest], values[highest]))
        return cls(times, values, np.diff(values) / np.diff(times))

    def above(self, drifts: _Floats) -> _Floats:
        """For each drift the least offset of a line that has no point above it."""
        corner = np.searchsorted(-self.slopes, -drifts)
        offsets: _Floats = self.values[corner] - drifts * self.times[corner]
        return offsets


def _fewer(times: _Floats, values: _Floats) -> tuple[_Floats, _Floats]:
    """Without many of the points that are no corners: those not above the line between their neighbours."""
    for _ in range(_ROUNDS):
        if len(times) <= _FEW_POINTS:
            break
        left, right = times[1:-1] - times[:-2], times[2:] - times[1:-1]
        above = (values[1:-1] - values[:-2]) * right > (values[2:] - values[1:-1]) * left
        if above.all():
            break
        kept = np.concatenate([[True], above, [True]])
        times, values = times[kept], values[kept]
    return times, values


def _corners(times: _Floats, values: _Floats) -> tuple[_Floats, _Floats]:
    """The upper hull of points in order of time (Andrew's monotone chain)."""
    hull: list[tuple[float, float]] = []
    for time, value in zip(times.tolist(), values.tolist(), strict=True):
        while len(hull) > 1:
            (t0, v0), (t1, v1) = hull[-2:]
            if (v1 - v0) * (time - t1) > (value - v1) * (t1 - t0):
                break
            hull.pop()
        hull.append((time, value))
    return np.array([time for time, _ in hull]), np.array([value for _, value in hull])

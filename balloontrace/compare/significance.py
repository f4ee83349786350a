# SPDX-License-Identifier: GPL-2.0-or-later
"""What two samples prove: an interval for the ratio of their medians, a test, and verdicts of many tests.

Runs made in pairs of neighbours are compared in pairs (`paired_runs`). Others are two samples. Up to three
tests are made of them, and the data can tell only if all say so. Mann and Whitney's exact test holds its
level for any number of runs and any distribution that is the same on both sides; where the sides scatter
differently it claims too much. Brunner and Munzel's (Biometrical Journal 42, 2000) is for that case, and
claims too much for few runs. Below 10 runs on a side Welch's t of the logarithms is used too, which is for
few runs that scatter differently. From 10 runs on it is not: the other tests use ranks, for which a run that
the machine delayed is no worse than any slow run.

Measured with 4 000 draws a case (`make bench ONLY=coverage`): the interval covers the true ratio in 93 % or
more, for 4 to 30 runs a side, equal or not. So it does where one side scatters by 20 % and the other by 2 %,
and in pairs with a drift. Without Welch's t it covered 86 % to 93 % of 4 to 7 runs that scatter more than the
other side's 10 to 30. Where one side has a long tail instead, 90 % remain for 4 runs against 30.

The interval is all ratios that the tests do not reject (as Hodges and Lehmann, Annals of Mathematical
Statistics 34, 1963, on a logarithmic scale): of the ratios of each run after to each run before, in order,
those that are neither too low nor too high. Fewer than 4 runs on either side get no interval, and fewer
than 5 no verdict. Of more than a million such ratios the bounds are found by the normal approximation.

Where one side was made earlier than the other, and the machine drifts, `drift` gives an interval and a p
value without the drift too. The wider interval and the larger p value count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit
from scipy.stats import mannwhitneyu

from balloontrace.compare.drift import without_drift
from balloontrace.compare.paired_runs import estimate_middle, size_of_pairs
from balloontrace.compare.run_order import UNKNOWN_ORDER, Order, Turns, find_order

LEVEL = 0.05
FEWEST_FOR_INTERVAL = 4
FEWEST_FOR_VERDICT = 5

# Of more values the normal approximation is as good, and the exact distribution slow.
_EXACT_VALUES = 50
_LEAST_LEFT = 0.0005
# What Welch's t leaves where it must agree with ranks: else 8 runs, whose ranks use 4.99 %, told less than 7.
_LEFT_BY_THREE = 0.002
_PERMUTATIONS = 10_000

# Of fewer runs on a side, ranks alone cover too little where the sides scatter differently.
_FEW = 10
# Ratios of each run after to each before: more take too much memory.
_MOST_RATIOS = 1_000_000
_RATIO_ROUNDING = 1e-10

# A test of many rows takes hardly longer than that of one.
_TRIED_AT_ONCE = 32

# Exponents beyond are no ratio of times.
_MOST_LOG = 700.0

_Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What samples say of after to before; None where nothing can be said.

    `drift_explains` is True where there would be a difference if the machine had not changed meanwhile.
    """

    ratio: float | None
    low: float | None
    high: float | None
    p_value: float | None
    drift_explains: bool = False


def weigh(before: Sequence[float], after: Sequence[float], order: Order = UNKNOWN_ORDER) -> Evidence:
    """Ratio of the medians, its 95 % interval, and the p value of their being alike; in pairs the pairs'.

    Nothing is tested with one value on either side. Values below 0 make no ratio, and a value of 0 before
    leaves none without bounds. `order` is that of these values.
    """
    first, second = (np.asarray(values, dtype=np.float64) for values in (before, after))
    if not len(first) or not len(second):
        return Evidence(None, None, None, None)
    varies = min(np.ptp(first), np.ptp(second)) > 0
    if varies and order.turns is Turns.PAIRS and min(first.min(), second.min()) > 0:
        return _weigh_pairs(first, second, order)
    found = _weigh_samples(first, second)
    if order.turns is not Turns.APART or found.low is None or min(first.min(), second.min()) <= 0:
        return found
    return _allow_for_drift(found, first, second, order)


def _weigh_pairs(before: _Values, after: _Values, order: Order) -> Evidence:
    """Of the pairs' ratios, as logarithms: what the machine did to both of a pair is gone from them."""
    one, other = np.array(order.pairs, dtype=np.intp).T
    found = estimate_middle(np.log(after[other]) - np.log(before[one]), LEVEL)
    return Evidence(math.exp(found.middle), math.exp(found.low), math.exp(found.high), found.p_value)


def _weigh_samples(before: _Values, after: _Values) -> Evidence:
    """Of two samples in no order."""
    # Sorted, so that the last digit does not depend on which run came first.
    first, second = np.sort(before), np.sort(after)
    middle = float(np.median(first))
    positive = min(first[0], second[0]) >= 0
    ratio = float(np.median(second)) / middle if positive and middle > 0 else None
    bounds = _interval(first, second) if positive and first[0] > 0 else None
    low, high = bounds if bounds else (None, None)
    p_value = p_value_of(first, second) if enough_for_test(len(first), len(second)) else None
    return Evidence(ratio, low, high, p_value)


def _allow_for_drift(found: Evidence, before: _Values, after: _Values, order: Order) -> Evidence:
    """The same where no drift is suspected; else no more than what is left without it."""
    places = [np.array(each, dtype=np.float64) for each in (order.before, order.after)]
    rest = without_drift(before, after, places, LEVEL)
    if rest is None or None in (found.low, found.high, found.p_value):
        return found
    low = min(found.low or 0.0, math.exp(max(rest.low, -_MOST_LOG)))
    high = max(found.high or 0.0, math.exp(min(rest.high, _MOST_LOG)))
    p_value = max(found.p_value or 0.0, rest.p_value)
    if low <= 1 <= high and p_value <= LEVEL:
        p_value = 1.0  # With the drift and without it there is a difference, but not the same one.
    explains = (found.p_value or 0.0) <= LEVEL < p_value
    return replace(found, low=low, high=high, p_value=p_value, drift_explains=explains)


def order_of_measured(order: Order, measured: Sequence[Sequence[bool]]) -> Order:
    """The order of the runs that have a value: all of them, or only some."""
    if order.turns is Turns.UNKNOWN or all(map(all, measured)):
        return order
    places = (order.before, order.after)
    return find_order(
        *(
            [place for place, has in zip(side, flags, strict=True) if has]
            for side, flags in zip(places, measured, strict=True)
        )
    )


def enough_for_test(before: int, after: int) -> bool:
    """Whether there is something to test at all: more than one run on each side."""
    return min(before, after) > 1


def enough_for_interval(before: int, after: int) -> bool:
    """Whether samples of these sizes can carry 95 %: 4 on each side at least."""
    return min(before, after) >= FEWEST_FOR_INTERVAL


def enough_for_verdict(before: int, after: int) -> bool:
    """Whether samples of these sizes are enough to claim a difference: 5 on each side at least."""
    return min(before, after) >= FEWEST_FOR_VERDICT


def adjust(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down: with these, claiming all below a level is wrong at most that often, for any of them.

    S. Holm, Scandinavian Journal of Statistics 6, 1979; it needs no independence.
    """
    adjusted = [1.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def adjust_stages(p_wall: float, size_wall: float, p_stages: Sequence[float]) -> list[float]:
    """The p values of a wall time's stages, such that wall time and stages together are wrong at LEVEL.

    Where the wall time's own test claims a difference, Holm's of the stages at the whole level. Where it does
    not, at what it leaves of the level: a test that takes few values is wrong `size_wall` only. (A fallback
    procedure: Wiens, Pharmaceutical Statistics 2, 2003.) That is 0.05 % at least.
    """
    adjusted = adjust(p_stages)
    if p_wall <= LEVEL:
        return [max(p_wall, each) for each in adjusted]
    left = max(LEVEL - size_wall, _LEAST_LEFT)
    return [min(1.0, each * LEVEL / left) for each in adjusted]


def size_of(before: int, after: int, order: Order) -> float:
    """How often the test of two such samples claims a difference where there is none: LEVEL at most.

    Ranks take few values, so that it is often less: 0.0433 for 10 against 10, 0.0488 for 10 pairs.
    """
    if order.turns is Turns.PAIRS:
        return size_of_pairs(len(order.pairs), LEVEL)
    if max(before, after) > _EXACT_VALUES or min(before, after) < FEWEST_FOR_VERDICT:
        return LEVEL
    refused = _refused(before, after)
    size = _p_value_of_u(refused - 1, before, after) if refused else 0.0
    return min(size, LEVEL - _LEFT_BY_THREE) if min(before, after) < _FEW else size


def p_value_of(before: _Values, after: _Values) -> float:
    """The largest of the tests' two-sided p values."""
    p_value = max(_mann_whitney(before, after), float(_brunner_munzel(before[np.newaxis], after)[0]))
    return max(p_value, _welch(*_scaled(before, after))[0]) if _is_few(before, after) else p_value


def _is_few(before: _Values, after: _Values) -> bool:
    return min(len(before), len(after)) < _FEW


def _scaled(before: _Values, after: _Values) -> tuple[_Values, _Values]:
    """Logarithms, of values that have them."""
    return (np.log(before), np.log(after)) if min(before.min(), after.min()) > 0 else (before, after)


def _welch(before: _Values, after: _Values) -> tuple[float, float, float]:
    """Welch's t: the p value, and the interval of the difference.

    Sides without any scatter leave nothing to divide by: then ranks alone tell.
    """
    shares = [float(each.var(ddof=1)) / len(each) for each in (before, after)]
    difference, error = float(after.mean() - before.mean()), math.sqrt(sum(shares))
    if error <= 1e-12 * max(1.0, abs(difference)):
        return (1.0 if abs(difference) <= 1e-12 else 0.0), difference, difference
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(each) - 1) for share, each in zip(shares, (before, after), strict=True)
    )
    reach = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    return 2 * float(stdtr(freedom, -abs(difference) / error)), difference - reach, difference + reach


def _mann_whitney(before: _Values, after: _Values) -> float:
    """Exact without ties; with them exact for few values, by the normal approximation for more."""
    everything = np.concatenate([before, after])
    tied = len(np.unique(everything)) < len(everything)
    if not tied:
        return _exact_mann_whitney(before, after)
    if comb(len(everything), len(before)) > _PERMUTATIONS:
        return float(mannwhitneyu(after, before, method="asymptotic").pvalue)
    return _tied_mann_whitney(before, after)


def _tied_mann_whitney(before: _Values, after: _Values) -> float:
    """Of all ways to divide the values into two such sides, twice the share of those that are as far out.

    Ways are counted by the sum of one side's ranks: doubled, since equal values share the middle of theirs.
    """
    fewer = min(before, after, key=len)
    everything = np.sort(np.concatenate([before, after]))
    ranks, mine = (
        np.searchsorted(everything, each, "left") + np.searchsorted(everything, each, "right") + 1
        for each in (everything, fewer)
    )
    ways = np.zeros((len(fewer) + 1, int(ranks.sum()) + 1), dtype=np.int64)
    ways[0, 0] = 1
    for rank in ranks.tolist():
        ways[1:, rank:] += ways[:-1, :-rank]
    sums, found = ways[-1], int(mine.sum())
    return min(1.0, 2 * float(min(sums[: found + 1].sum(), sums[found:].sum()) / sums.sum()))


def _exact_mann_whitney(before: _Values, after: _Values) -> float:
    """Of values without ties."""
    above = int(np.searchsorted(np.sort(before), after).sum())
    return _p_value_of_u(above, len(before), len(after))


@cache
def _p_value_of_u(u: int, before: int, after: int) -> float:
    """Without ties it depends on U alone: in how many pairs the one after is above the one before."""
    method = "exact" if max(before, after) <= _EXACT_VALUES else "asymptotic"
    first, second = _sample_of(u, before, after)
    return float(mannwhitneyu(second, first, method=method).pvalue)


def _brunner_munzel(before: _Values, after: _Values) -> _Values:
    """Its p values, one for each row of `before` beside the same `after`.

    They are 0 where one side is wholly above the other (an infinite statistic), and 1 if all is tied.
    """
    lowest, highest = before.min(axis=1), before.max(axis=1)
    apart = (highest < after.min()) | (after.max() < lowest)
    tied = np.minimum(lowest, after.min()) == np.maximum(highest, after.max())
    p_values = np.where(tied, 1.0, 0.0)
    rest = ~(apart | tied)
    if rest.any():
        p_values[rest] = _p_values_of_ranks(np.sort(before[rest], axis=1), np.sort(after))
    return p_values


def _p_values_of_ranks(before: _Values, after: _Values) -> _Values:
    """Of values in order: Welch's t of how many of the other side each exceeds, equal ones counting half."""
    first = _exceeded(after, before)
    second = np.stack([_exceeded(row, after) for row in before])
    sizes = before.shape[1], len(after)
    spreads = [size * each.var(axis=1, ddof=1) for size, each in zip(sizes, (first, second), strict=True)]
    difference = second.mean(axis=1) - first.mean(axis=1) + (sizes[1] - sizes[0]) / 2
    statistic = math.prod(sizes) / sum(sizes) * difference / np.sqrt(sum(spreads))
    freedom = sum(spreads) ** 2 / sum(
        spread**2 / (size - 1) for spread, size in zip(spreads, sizes, strict=True)
    )
    return np.asarray(2 * stdtr(freedom, -np.abs(statistic)))


def _exceeded(others: _Values, values: _Values) -> _Values:
    return np.asarray(
        (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / 2
    )


def _interval(before: _Values, after: _Values) -> tuple[float, float] | None:
    """The lowest and the highest ratio that none of the tests refuses."""
    if not enough_for_interval(len(before), len(after)):
        return None
    if len(before) * len(after) > _MOST_RATIOS:
        return _interval_of_many(before, after)
    refused = _refused(len(before), len(after))
    low = _bound(before, after, refused)
    # The other end is the low end of the other way round.
    high = _bound(after, before, refused) if after.min() > 0 else None
    ratios = np.sort(np.divide.outer(after, before).reshape(-1))
    bounds = low, float(ratios[-refused]) if high is None else 1 / high
    if after.min() > 0 and _is_few(before, after) and np.ptp(before) + np.ptp(after) > 0:
        _, least, most = _welch(*_scaled(before, after))
        return min(bounds[0], math.exp(least)), max(bounds[1], math.exp(most))
    return bounds


def _interval_of_many(before: _Values, after: _Values) -> tuple[float, float]:
    """The same by the normal approximation, without laying every run beside every other.

    The share of pairs in which the one after is longer scatters as Brunner and Munzel say, and no less than
    Mann and Whitney do; the ratios at that distance from the middle are found by counting.
    """
    middle = _ratio_at(before, after, 0.5)
    moved = before * middle
    shares = _exceeded(after, moved), _exceeded(moved, after)
    sizes = (len(after), len(before))
    spread = sum(
        float((share / size).var(ddof=1)) / len(share) for share, size in zip(shares, sizes, strict=True)
    )
    alike = (sum(sizes) + 1) / (12 * math.prod(sizes))
    reach = -float(ndtri(LEVEL / 2)) * math.sqrt(max(spread, alike))
    return _ratio_at(before, after, max(0.0, 0.5 - reach)), _ratio_at(before, after, min(1.0, 0.5 + reach))


def _ratio_at(before: _Values, after: _Values, share: float) -> float:
    """The ratio of one after to one before that so large a share of all such ratios does not exceed."""
    low, high = float(after[0] / before[-1]), float(after[-1] / before[0])
    wanted = share * len(before) * len(after)
    while high - low > _RATIO_ROUNDING * high:
        middle = (low + high) / 2
        if int(np.searchsorted(after, before * middle, "right").sum()) >= wanted:
            high = middle
        else:
            low = middle
    return high


def _bound(before: _Values, after: _Values, refused: int) -> float:
    """The low end: ratios below it are refused by either test.

    `refused` counts how many of the ratios in pairs Mann and Whitney's leaves out at either end.
    """
    ratios = np.sort(np.divide.outer(after, before).reshape(-1))
    # Between ratios next to each other nothing changes. The search takes it that p grows towards the middle.
    lowest, highest = 0, refused - 1
    while lowest < highest:
        tried = np.unique(np.linspace(lowest, highest - 1, _TRIED_AT_ONCE, dtype=np.intp))
        between = (ratios[tried] + ratios[tried + 1]) / 2
        kept = (between > 0) & (_brunner_munzel(np.multiply.outer(between, before), after) > LEVEL)
        first = int(np.argmax(kept)) if kept.any() else len(tried)
        lowest = int(tried[first - 1]) + 1 if first > 0 else lowest
        highest = int(tried[first]) if first < len(tried) else highest
    return float(ratios[lowest])


@cache
def _refused(before: int, after: int) -> int:
    """How many values of Mann and Whitney's U, from 0 on, are refused: of ratios, at either end."""
    low, high = 0, before * after // 2
    while low < high:
        middle = (low + high) // 2
        if _p_value_of_u(middle, before, after) <= LEVEL:
            low = middle + 1
        else:
            high = middle
    return low


def _sample_of(u: int, before: int, after: int) -> tuple[_Values, _Values]:
    """Values without ties of which U, the pairs with the one after above the one before, is `u`."""
    above, among = divmod(u, before)
    tops = before + np.arange(above, dtype=np.float64)
    middle = [among - 0.5] if above < after else []
    bottoms = -1.0 - np.arange(max(0, after - above - 1), dtype=np.float64)
    return np.arange(before, dtype=np.float64), np.concatenate([tops, middle, bottoms])

# SPDX-License-Identifier: GPL-2.0-or-later
"""What two samples prove: an interval for the ratio of their medians, a test, and verdicts of many tests.

Two tests are asked, and the data can tell only if both say so. Mann and Whitney's in its exact form holds
its level for any number of runs and any distribution, provided that it is the same on both sides; where the
sides scatter differently it claims too much. Brunner and Munzel's (Biometrical Journal 42, 2000) is for
just that, and claims too much for few runs. Together they hold 95 % for the same driver against itself, and
also from 10 runs a side on where one side scatters ten times as much; with fewer 90 % remain of that
(`tests/unit/test_evidence.py` measures it). That both are ranks makes a run that the machine held up no
worse than any slow run.

The interval is all ratios that the tests do not refuse (as Hodges and Lehmann, Annals of Mathematical
Statistics 34, 1963, on a logarithmic scale): of the ratios of each run after to each run before, in order,
those that are neither too low nor too high. 3 runs against 3 cannot carry 95 %, and get no interval. (A
bootstrap of the medians would give one, as wide as the runs lie apart: a quarter of all samples of 3 lie
wholly on one side of their median.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.stats import PermutationMethod, brunnermunzel, mannwhitneyu

LEVEL = 0.05

# Of more values the normal approximation is as good, and the exact distribution slow.
_EXACT_VALUES = 50
_PERMUTATIONS = 10_000

# A test of many rows takes hardly longer than that of one.
_TRIED_AT_ONCE = 32

_Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What samples tell of after to before; None where nothing can be said."""

    ratio: float | None
    low: float | None
    high: float | None
    p_value: float | None


def weigh(before: Sequence[float], after: Sequence[float]) -> Evidence:
    """Ratio of the medians, its 95 % interval, and the p value of their being alike.

    Nothing is tested with one value on either side. Values below 0 make no ratio, and a value of 0 before
    leaves none without bounds.
    """
    # In order, so that the last digit does not depend on which run came first.
    first, second = (np.sort(np.asarray(values, dtype=np.float64)) for values in (before, after))
    if not len(first) or not len(second):
        return Evidence(None, None, None, None)
    middle = float(np.median(first))
    positive = min(first.min(), second.min()) >= 0
    ratio = float(np.median(second)) / middle if positive and middle > 0 else None
    bounds = _interval(first, second) if positive and first.min() > 0 else None
    low, high = bounds if bounds else (None, None)
    p_value = p_value_of(first, second) if enough_for_test(len(first), len(second)) else None
    return Evidence(ratio, low, high, p_value)


def enough_for_test(before: int, after: int) -> bool:
    """Whether there is something to test at all: more than one run on each side."""
    return min(before, after) > 1


def enough_for_interval(before: int, after: int) -> bool:
    """Whether samples of these sizes can carry 95 %: complete separation must be rarer than that."""
    return enough_for_test(before, after) and _refused(before, after) > 0


def smallest_p_value(before: int, after: int) -> float:
    """The p value of samples of these sizes that are wholly apart: none can be smaller."""
    return _exact_mann_whitney(*_sample_of(0, before, after))


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


def p_value_of(before: _Values, after: _Values) -> float:
    """The larger of both tests' two-sided p values."""
    return max(_mann_whitney(before, after), float(_brunner_munzel(before[np.newaxis], after)[0]))


def _mann_whitney(before: _Values, after: _Values) -> float:
    """Exact without ties; with them exact for few values, by the normal approximation for more."""
    everything = np.concatenate([before, after])
    tied = len(np.unique(everything)) < len(everything)
    if not tied:
        return _exact_mann_whitney(before, after)
    if comb(len(everything), len(before)) > _PERMUTATIONS:
        return float(mannwhitneyu(after, before, method="asymptotic").pvalue)
    every_one = PermutationMethod(n_resamples=_PERMUTATIONS)
    return float(mannwhitneyu(after, before, method=every_one).pvalue)


def _exact_mann_whitney(before: _Values, after: _Values) -> float:
    method = "exact" if max(len(before), len(after)) <= _EXACT_VALUES else "asymptotic"
    return float(mannwhitneyu(after, before, method=method).pvalue)


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
        p_values[rest] = brunnermunzel(before[rest], after[np.newaxis], axis=1).pvalue
    return p_values


def _interval(before: _Values, after: _Values) -> tuple[float, float] | None:
    """The lowest and the highest ratio that is not refused by both tests."""
    if not enough_for_interval(len(before), len(after)):
        return None
    refused = _refused(len(before), len(after))
    low = _bound(before, after, refused)
    # The other end is the low end of the other way round.
    high = _bound(after, before, refused) if after.min() > 0 else None
    ratios = np.sort(np.divide.outer(after, before).reshape(-1))
    return low, float(ratios[-refused]) if high is None else 1 / high


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
        if _exact_mann_whitney(*_sample_of(middle, before, after)) <= LEVEL:
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

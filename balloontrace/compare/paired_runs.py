# SPDX-License-Identifier: GPL-2.0-or-later
"""What pairs of neighbouring runs prove: whatever the machine did meanwhile affected both of a pair.

From 8 pairs on Wilcoxon's signed ranks are used, exactly up to 50. The interval holds the means of any two
logarithms of ratios that they do not reject (Hodges and Lehmann, Annals of Mathematical Statistics 34, 1963).
Fewer pairs cannot give 95 % that way (5 have a smallest p value of 0.06), so Student's t of the logarithms is
used. So it is for more than 1 000, where both say the same and ranks of means take too much memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

_Values = NDArray[np.float64]

_FEWEST_RANKED, _MOST_RANKED, _MOST_EXACT = 8, 1000, 50


@dataclass(frozen=True, slots=True)
class Estimate:
    """The middle of some differences, its interval, and the p value of 0."""

    middle: float
    low: float
    high: float
    p_value: float


def estimate_middle(differences: _Values, level: float) -> Estimate:
    """Of differences within pairs, two at least; `level` is how often the interval may miss."""
    if _FEWEST_RANKED <= len(differences) <= _MOST_RANKED:
        return _by_ranks(differences, level)
    return by_student(differences, level)


def size_of_pairs(count: int, level: float) -> float:
    """How often so many pairs claim a difference where there is none: `level` at most."""
    if not _FEWEST_RANKED <= count <= _MOST_EXACT:
        return level
    return 2 * _share_up_to(count, _refused(count, level))


def by_student(differences: _Values, level: float) -> Estimate:
    """By Student's t. Differences that are all alike prove as much as ranks could: not everything."""
    count = len(differences)
    middle = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    if error <= abs(middle) * 1e-12:
        return Estimate(middle, middle, middle, 1.0 if middle == 0 else _least(count))
    reach = float(stdtrit(count - 1, 1 - level / 2)) * error
    p_value = 2 * float(stdtr(count - 1, -abs(middle) / error))
    return Estimate(middle, middle - reach, middle + reach, p_value)


def _least(count: int) -> float:
    """The p value of so many runs against as many that are wholly apart, by ranks."""
    return 2 / math.comb(2 * min(count, _MOST_EXACT), min(count, _MOST_EXACT))


def _by_ranks(differences: _Values, level: float) -> Estimate:
    count = len(differences)
    rows, columns = np.triu_indices(count)
    means = np.sort((differences[rows] + differences[columns]) / 2)
    above = np.count_nonzero(means > 0) + np.count_nonzero(means == 0) / 2
    p_value = min(1.0, 2 * _share_up_to(count, math.ceil(min(above, len(means) - above))))
    refused = _refused(count, level)
    return Estimate(float(np.median(means)), float(means[refused]), float(means[-1 - refused]), p_value)


@cache
def _refused(count: int, level: float) -> int:
    """How many means are left out at either end: more would be too many."""
    low, high = 0, count * (count + 1) // 4
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if 2 * _share_up_to(count, middle) <= level else (low, middle)
    return max(0, low - 1)


def _share_up_to(count: int, rank_sum: int) -> float:
    """How likely a sum of the positive ranks is no larger, where the differences lie evenly around 0."""
    if count <= _MOST_EXACT:
        return float(_distribution(count)[rank_sum])
    mean = count * (count + 1) / 4
    deviation = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    return 0.5 * math.erfc((mean - rank_sum - 0.5) / deviation / math.sqrt(2))


@cache
def _distribution(count: int) -> _Values:
    """The cumulative distribution of the sum of positive ranks, each positive in half of all cases."""
    shares = np.ones(1)
    for rank in range(1, count + 1):
        longer = np.zeros(len(shares) + rank)
        longer[: len(shares)] += shares / 2
        longer[rank:] += shares / 2
        shares = longer
    return np.cumsum(shares)

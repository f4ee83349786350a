# SPDX-License-Identifier: GPL-2.0-or-later
"""The statistics hold what they promise: how often they are wrong is counted, with fixed seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import brunnermunzel

from balloontrace.compare.run_order import UNKNOWN_ORDER, find_order
from balloontrace.compare.significance import (
    LEVEL,
    _brunner_munzel,
    _interval,
    _interval_of_many,
    adjust,
    adjust_stages,
    enough_for_interval,
    enough_for_test,
    p_value_of,
    size_of,
    weigh,
)

pytestmark = pytest.mark.thorough

Sampler = Callable[[np.random.Generator, int], NDArray[np.float64]]
TRIES = 200
# What a binomial count of TRIES at 5 % stays below, except once in a thousand.
MOST_WRONG = 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / TRIES)


def scattered(sigma: float) -> Sampler:
    """Times of median 1 that scatter evenly on a logarithmic scale."""
    return lambda rng, n: np.exp(sigma * rng.standard_normal(n))


def delayed(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Times of median 1 with a long tail."""
    return np.asarray(0.7 + 0.3 * rng.exponential(size=n) / math.log(2))


def held_up(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Every seventh run took twice as long, for reasons of the machine."""
    times = np.exp(0.05 * rng.standard_normal(n))
    return np.asarray(np.where(rng.random(n) < 1 / 7, 2 * times, times))


def share_wrong(first: Sampler, second: Sampler, runs: tuple[int, int]) -> float:
    """How often a difference of medians is claimed that are the same, or the interval does not hold 1."""
    rng = np.random.default_rng(20161102)
    wrong = 0
    for _ in range(TRIES):
        p_value = p_value_of(first(rng, runs[0]), second(rng, runs[1]))
        wrong += p_value <= LEVEL
    return wrong / TRIES


@pytest.mark.parametrize("runs", [(4, 4), (5, 5), (10, 10), (5, 12), (20, 7)], ids=str)
@pytest.mark.parametrize("sampler", [scattered(0.1), delayed, held_up], ids=["even", "tail", "held up"])
def test_the_interval_holds_its_level_for_the_same_distribution(
    sampler: Sampler, runs: tuple[int, int]
) -> None:
    assert share_wrong(sampler, sampler, runs) <= MOST_WRONG


@pytest.mark.parametrize(
    "sides",
    [(scattered(0.02), scattered(0.2)), (scattered(0.2), scattered(0.02)), (delayed, scattered(0.05))],
    ids=["wider", "narrower", "another shape"],
)
def test_sides_that_scatter_differently(sides: tuple[Sampler, Sampler]) -> None:
    for runs in ((10, 10), (10, 20), (5, 5), (4, 10), (10, 4)):
        assert share_wrong(*sides, runs) <= MOST_WRONG, runs


@given(
    before=st.lists(st.integers(0, 9), min_size=2, max_size=12),
    after=st.lists(st.integers(0, 9), min_size=2, max_size=12),
)
@settings(deadline=None, max_examples=100)
def test_ranks_are_those_of_scipy(before: list[int], after: list[int]) -> None:
    """Its own Brunner and Munzel's takes far longer, and is not defined where one side is above the other."""
    assume(min(before) <= max(after) and min(after) <= max(before) and len({*before, *after}) > 1)
    first, second = (np.array(values, dtype=np.float64) for values in (before, after))
    (found,) = _brunner_munzel(first[np.newaxis], second)
    assert found == pytest.approx(brunnermunzel(first, second).pvalue)


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(7)
    sampler = scattered(0.05)
    found = [weigh(sampler(rng, 10).tolist(), (1.1 * sampler(rng, 10)).tolist()) for _ in range(200)]
    assert sum(each.p_value is not None and each.p_value <= LEVEL for each in found) > 180
    inside = sum((each.low or 0) <= 1.1 <= (each.high or 0) for each in found)
    assert 185 <= inside < 200


@pytest.mark.parametrize("seed", range(40))
def test_interval_and_test_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = scattered(0.1)(rng, 4 + seed % 9), scattered(0.1)(rng, 4 + seed % 7) * (0.9 + seed / 200)
    found = weigh(before.tolist(), after.tolist())
    assert found.low is not None
    assert found.high is not None
    assert found.p_value is not None
    assert (found.low <= 1 <= found.high) == (found.p_value > LEVEL)


def test_exact_numbers() -> None:
    found = weigh([1, 2, 3, 4], [20, 30, 40, 50])
    assert found.ratio == 14
    # The ranks of 4 of each carry 95 % only as a whole, from 5 to 50; Welch's t of so few is wider above.
    assert found.low == 5
    assert found.high == pytest.approx(50, rel=0.2)
    # 2 / C(8, 4) is the smallest p value there is.
    assert found.p_value == pytest.approx(2 / math.comb(8, 4))


@pytest.mark.parametrize(("before", "after"), list(product((1, 2, 3, 4, 5, 10), repeat=2)))
def test_when_an_interval_is_possible(before: int, after: int) -> None:
    possible = before >= 4 <= after
    assert enough_for_interval(before, after) == possible
    found = weigh([1 + index / 100 for index in range(before)], [2 + index / 70 for index in range(after)])
    assert (found.low is not None) == (found.high is not None) == possible
    assert (found.p_value is not None) == enough_for_test(before, after) == (before > 1 < after)
    assert found.ratio is not None


def test_many_runs_take_no_square_of_their_number() -> None:
    """50 000 a side, in seconds; and what is found without comparing all with all is the same."""
    rng = np.random.default_rng(4)
    many = [scattered(0.1)(rng, 50_000) * factor for factor in (1, 1.01)]
    found = weigh(many[0].tolist(), many[1].tolist())
    assert found.low is not None
    assert found.high is not None
    assert 1.005 < found.low < 1.01 < found.high < 1.015
    pairs = find_order(range(0, 100_000, 2), range(1, 100_001, 2))
    assert weigh([2.0] * 50_000, [3.0] * 50_000, pairs).ratio == 1.5
    some = [np.sort(each[:900]) for each in many]
    exact, near = _interval(*some), _interval_of_many(*some)
    assert exact is not None
    assert near == pytest.approx(exact, rel=1e-3)


def test_the_wall_time_loses_nothing_to_its_stages() -> None:
    assert adjust_stages(0.04, 0.0433, [0.001, 0.03]) == pytest.approx([0.04, 0.04])
    assert adjust_stages(0.2, 0.0433, [1e-5, 0.004]) == pytest.approx(
        [2e-5 * 0.05 / 0.0067, 0.004 * 0.05 / 0.0067]
    )
    assert adjust_stages(0.2, 0.05, [1e-5]) == pytest.approx([1e-3])
    assert size_of(8, 8, UNKNOWN_ORDER) == pytest.approx(0.048)
    assert size_of(30, 30, UNKNOWN_ORDER) < LEVEL
    assert size_of(10, 10, UNKNOWN_ORDER) == pytest.approx(0.0433, abs=1e-4)


def test_what_cannot_be_said() -> None:
    assert weigh([], [1, 2, 3]).ratio is None
    zeros = weigh([0] * 5, [1, 2, 3, 4, 5])
    assert (zeros.ratio, zeros.low, zeros.high) == (None, None, None)
    assert zeros.p_value is not None
    negative = weigh([-1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert (negative.ratio, negative.low) == (None, None)
    gone = weigh([1, 2, 3, 4, 5], [0] * 5)
    assert (gone.ratio, gone.low, gone.high) == (0, 0, 0)
    assert weigh([3] * 6, [3] * 6).p_value == 1


def test_ties_are_counted_exactly() -> None:
    found = weigh([7168] * 5, [1] * 5)
    assert found.p_value == pytest.approx(2 / math.comb(10, 5))
    assert (found.ratio, found.low, found.high) == (1 / 7168, 1 / 7168, 1 / 7168)
    many = weigh([1, 1, 2, 2, 3, 3, 4, 4], [1, 2, 2, 2, 3, 3, 4, 4])
    assert many.p_value is not None
    assert many.p_value > 0.5


samples = st.lists(st.floats(1.0, 1e12), min_size=4, max_size=12)


@settings(deadline=None, max_examples=30)
@given(before=samples, after=samples, scale=st.floats(0.001, 1000))
def test_units_and_order_do_not_matter(before: list[float], after: list[float], scale: float) -> None:
    found = weigh(before, after)
    assert found == weigh(before[::-1], sorted(after))
    scaled = weigh(before, [scale * value for value in after])
    assert scaled.ratio == pytest.approx(scale * (found.ratio or 0))
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.high


@given(before=samples, after=samples)
@settings(deadline=None, max_examples=30)
def test_the_other_way_round_is_the_reciprocal(before: list[float], after: list[float]) -> None:
    one, other = weigh(before, after), weigh(after, before)
    assert one.p_value == pytest.approx(other.p_value)
    assert (one.low or 0) * (other.high or 0) == pytest.approx(1)
    assert (one.high or 0) * (other.low or 0) == pytest.approx(1)


def test_adjusted_as_holm_did() -> None:
    assert adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust([0.9, 0.8]) == [1, 1]
    assert adjust([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_adjusting_keeps_order_and_only_raises(p_values: list[float]) -> None:
    adjusted = adjust(p_values)
    assert all(p <= raised <= 1 for p, raised in zip(p_values, adjusted, strict=True))
    by_size = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[index] for index in by_size] == sorted(adjusted)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Estimates from samples: how often the truth lies in their interval, on simulated buffers."""

from __future__ import annotations

import numpy as np
import pytest

from balloontrace.analysis.sampled_time import estimate_inside, interval, wilson_interval

RUNS = 2000
MS = 1_000_000


def coverage(
    shares: np.random.Generator, mean: float, spread: float, buffers: int, per_buffer: float
) -> float:
    """How often the interval holds `mean`, where each buffer has its own share around it."""
    held = 0
    for _ in range(RUNS):
        weight = mean * (1 - mean) / spread**2 - 1 if spread else 1e9
        own = shares.beta(mean * weight, (1 - mean) * weight, buffers)
        samples = shares.poisson(per_buffer, buffers)
        low, high = interval(samples, shares.binomial(samples, own))
        held += low <= mean <= high
    return held / RUNS


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("mean", "spread"),
    [(0.03, 0.0), (0.25, 0.0), (0.25, 0.02), (0.5, 0.2), (0.75, 0.0), (0.75, 0.02), (0.75, 0.1), (0.25, 0.1)],
)
@pytest.mark.parametrize(("buffers", "per_buffer"), [(40, 4.0), (500, 3.0), (30, 100.0)])
def test_the_truth_lies_in_the_interval_in_19_of_20_cases(
    mean: float, spread: float, buffers: int, per_buffer: float
) -> None:
    found = coverage(np.random.default_rng(7), mean, spread, buffers, per_buffer)
    assert found >= 0.93


def test_samples_of_one_buffer_alike_are_worth_one() -> None:
    """The interval widens by the root of ten when ten samples always say the same."""
    alike = np.random.default_rng(3).binomial(1, 0.5, 400)
    apart = wilson_interval(float(alike.mean()), 400)
    low, high = interval(np.full(400, 10), 10 * alike)
    assert (high - low) == pytest.approx(apart[1] - apart[0], rel=0.02)


def test_no_sample_inside_is_not_no_time_inside() -> None:
    found = estimate_inside(100 * MS, np.full(10, 3), np.zeros(10, dtype=np.int64), None)
    assert found is not None
    assert found.inside_ns == 0
    assert found.error_ns > 5 * MS


def test_without_samples_nothing_is_known() -> None:
    nothing = np.zeros(10, dtype=np.int64)
    assert estimate_inside(100 * MS, nothing, nothing, 1000) is None


def test_time_off_the_processor_adds_to_the_error() -> None:
    """Half of the time has no samples: that half may have been inside calls, or outside."""
    samples, inside = np.full(100, 100), np.full(100, 75)
    whole = estimate_inside(1000 * MS, samples, inside, MS // 10)
    half = estimate_inside(2000 * MS, samples, inside, MS // 10)
    assert whole is not None
    assert half is not None
    assert whole.error_ns < 10 * MS
    assert half.inside_ns == 2 * whole.inside_ns
    assert half.error_ns >= 700 * MS


def test_an_error_is_never_more_than_all() -> None:
    found = estimate_inside(1000, np.ones(1, dtype=np.int64), np.ones(1, dtype=np.int64), 1)
    assert found is not None
    assert 0 < found.error_ns <= 1000

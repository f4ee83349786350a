# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of the same duration: the exact test counts what scipy finds by going through every way."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from scipy.stats import PermutationMethod, mannwhitneyu

from balloontrace.compare.significance import _tied_mann_whitney


@pytest.mark.parametrize("seed", range(20))
def test_ways_are_those_that_scipy_goes_through(seed: int) -> None:
    draw = Random(seed)
    counts = draw.choice([(2, 30), (30, 2), (4, 4), (5, 7), (8, 5), (3, 20)])
    different = draw.choice([1, 2, 4, 9])
    before, after = (np.array([draw.randrange(different) + 0.5 for _ in range(count)]) for count in counts)
    expected = mannwhitneyu(after, before, method=PermutationMethod(n_resamples=10_000)).pvalue
    assert _tied_mann_whitney(before, after) == expected

# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of one state divided in two: `compare` says that something changed no oftener than it promises.

Of all 252 ways to divide the ten runs of each side of the examples, 14 of 1000 comparisons named a difference
of the wall time, and 4 of 1000 one of a stage. Here are some of them.
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator

import pytest
from command_process import ROOT

from balloontrace.compare.inputs import read_side
from balloontrace.compare.make_comparison import compare
from balloontrace.compare.recordings import Recordings
from balloontrace.results.comparison import SAME, UNDECIDED, Group

pytestmark = pytest.mark.thorough

DIVISIONS = 60
LEVEL = 0.05


def divided(name: str) -> Iterator[Group]:
    reports = read_side(str(ROOT / "examples" / name), io.BytesIO()).reports
    halves = list(itertools.combinations(range(len(reports)), len(reports) // 2))
    for half in random.Random(1).sample(halves, DIVISIONS):
        first = tuple(each for place, each in enumerate(reports) if place in half)
        second = tuple(each for place, each in enumerate(reports) if place not in half)
        yield from compare(Recordings("first", first), Recordings("second", second)).groups


@pytest.mark.parametrize("name", ["before", "after"])
def test_false_alarms_are_as_rare_as_is_said(name: str) -> None:
    groups = list(divided(name))
    assert len(groups) == 2 * DIVISIONS
    alarms = [group for group in groups if group.wall.verdict != UNDECIDED]
    assert len(alarms) <= LEVEL * len(groups)
    for group in groups:
        low, high = group.wall.ratio_low, group.wall.ratio_high
        assert low is not None
        assert high is not None
        # A verdict and its interval say the same.
        assert (low <= 1 <= high) == (group not in alarms)
    of_stages = [
        group
        for group in groups
        if any(row.verdict not in (None, SAME, UNDECIDED) for row in (*group.times[1:], *group.counts))
    ]
    assert len(of_stages) <= LEVEL * len(groups)

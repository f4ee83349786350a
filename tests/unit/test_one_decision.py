# SPDX-License-Identifier: GPL-2.0-or-later
"""Interval and verdict of a comparison are one decision, as they are shown too."""

from __future__ import annotations

from random import Random

import pytest

from balloontrace.compare.compare_group import judge_times
from balloontrace.compare.compare_rows import Quantity, compare_row, judge_family, to_frame
from balloontrace.compare.run_order import Order, Turns, find_order
from balloontrace.render.comparison.sections import format_interval
from balloontrace.results.comparison import FASTER, FEWER, MORE, SAME, SLOWER, UNDECIDED, Row

NAMES = ("wall", "a", "b", "c", "d", "other")


def drawn(seed: int) -> tuple[list[Row], Order]:
    """Rows of two sides: alike, a little apart or far, of few runs or many, tied or not, in turn or not."""
    draw = Random(seed)
    counts = [draw.choice([2, 3, 4, 5, 6, 8, 10, 15, 30]) for _ in range(2)]
    scatter, digits = draw.choice([0.0, 0.001, 0.02, 0.2]), draw.choice([2, 3, 6])
    effects = [{name: draw.choice([1, 1, 1.0004, 1.004, 1.03, 1.3, 0.97]) for name in NAMES}, {}]
    drift = draw.choice([0, 0, 0.01])
    sides = [
        to_frame(
            [
                {
                    name: round(
                        1000 * effect.get(name, 1) * (1 + drift * run) * draw.gauss(1, scatter), digits
                    )
                    for name in NAMES
                }
                for run in range(count)
            ]
        )
        for count, effect in zip(counts, effects, strict=True)
    ]
    order = Order(Turns.UNKNOWN)
    if draw.random() < 0.3:
        order = find_order(list(range(counts[0])), list(range(100, 100 + counts[1])))
    elif draw.random() < 0.5:
        both = min(counts)
        sides = [side[:both] for side in sides]
        order = Order(Turns.PAIRS, pairs=tuple((run, run) for run in range(both)))
    rows = [compare_row(Quantity(name, name), sides, order, judged=True)[0] for name in NAMES]
    return rows, order


def assert_one_decision(row: Row) -> None:
    if row.ratio_low is None or row.ratio_high is None:
        return
    shown = [float(end.replace("\u202f", "").replace(" ", "")) for end in format_interval(row).split(" to ")]
    for low, high in ((row.ratio_low, row.ratio_high), (shown[0], shown[1])):
        if row.verdict in (SLOWER, MORE):
            assert low > 1
        elif row.verdict in (FASTER, FEWER):
            assert high < 1
        elif row.verdict is not None:
            assert row.verdict in (SAME, UNDECIDED)
            assert low <= 1 <= high
    if row.verdict is not None and row.ratio is not None:
        # What --fail-on-regression 0 looks at.
        assert (row.verdict in (SLOWER, MORE)) == (min(row.ratio, row.ratio_low) > 1)


@pytest.mark.parametrize("first", range(0, 300, 30))
def test_a_verdict_follows_from_the_interval_that_is_shown(first: int) -> None:
    found: set[str | None] = set()
    for seed in range(first, first + 30):
        rows, order = drawn(seed)
        for row in (*judge_times(rows, order), *judge_family(rows, (FEWER, MORE))):
            assert_one_decision(row)
            found.add(row.verdict)
    assert {SLOWER, UNDECIDED} <= found

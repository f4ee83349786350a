# SPDX-License-Identifier: GPL-2.0-or-later
"""In which order runs were made, what is paired, and that a drift is not taken for a change."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from runs import Setup, make_run, side

from balloontrace.commands.compare import hold_to
from balloontrace.compare.make_comparison import compare
from balloontrace.compare.recordings import Recordings
from balloontrace.compare.run_order import Order, Turns, find_order
from balloontrace.compare.significance import LEVEL, weigh
from balloontrace.results.comparison import Comparison, Group
from balloontrace.results.report import Report

pytestmark = pytest.mark.thorough

TRIES = 100
# What a binomial count of TRIES at 5 % stays below, except once in a thousand.
MOST_WRONG = 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / TRIES)


def order_of(sequence: str) -> Order:
    """Of runs that were made in this order, B for before and A for after."""
    before, after = ([index for index, each in enumerate(sequence) if each == side] for side in "BA")
    return find_order(before, after)


@pytest.mark.parametrize(
    ("sequence", "turns"),
    [
        ("BAABBAABBA", Turns.PAIRS),
        ("BAABBAAB", Turns.PAIRS),
        ("ABBAABBAAB", Turns.PAIRS),
        ("BAABABBA" * 3, Turns.PAIRS),
        ("BAABBAABBAAB" + "B", Turns.PAIRS),
        ("BABABABABA", Turns.MIXED),
        ("ABABABABABABABABABAB", Turns.MIXED),
        ("BAAB", Turns.MIXED),
        ("BBBBBAAAAA", Turns.APART),
        ("AAAABBBB", Turns.APART),
        ("BBBBBABAAAAA", Turns.APART),
    ],
)
def test_how_sides_follow_each_other(sequence: str, turns: Turns) -> None:
    assert order_of(sequence).turns is turns


def test_neighbours_are_paired_and_a_lonely_run_is_not() -> None:
    order = order_of("BAABBBAAB")
    assert order.pairs == ((0, 0), (1, 1), (3, 2), (4, 3))
    used = [index for pair in order_of("BAAB" * 5).pairs for index in pair]
    assert len(used) == 20


@pytest.mark.parametrize("times", [([1, 2, None, 4], [5, 6, 7, 8]), ([1, 2, 3, 4], [4, 5, 6, 7]), ([], [1])])
def test_what_is_not_known_has_no_order(times: tuple[list[int | None], list[int | None]]) -> None:
    assert find_order(*times) == Order(Turns.UNKNOWN)


def weighed(
    sequence: str, rng: np.random.Generator, *, change: float = 0, scatter: float = 0.03, drift: float = 0,
    walk: float = 0,
) -> tuple[float, float, float]:  # fmt: skip
    """Low, high and p value of runs in this order; all sizes are of logarithms, `drift` and `walk` a run."""
    count = len(sequence)
    logs = scatter * rng.standard_normal(count) + drift * np.arange(count)
    logs += np.cumsum(walk * rng.standard_normal(count))
    after = np.array([each == "A" for each in sequence])
    times = np.exp(logs + change * after)
    found = weigh(times[~after].tolist(), times[after].tolist(), order_of(sequence))
    assert found.low is not None
    assert found.high is not None
    assert found.p_value is not None
    assert (found.low <= 1 <= found.high) == (found.p_value > LEVEL)
    return found.low, found.high, found.p_value


def share_claimed(sequence: str, **how: float) -> float:
    rng = np.random.default_rng(20161102)
    return sum(weighed(sequence, rng, **how)[2] <= LEVEL for _ in range(TRIES)) / TRIES


@pytest.mark.parametrize("runs", [4, 5, 7, 8, 10, 30])
@pytest.mark.parametrize("drift", [0, 0.02])
def test_pairs_hold_their_level_while_the_machine_drifts(runs: int, drift: float) -> None:
    sequence = ("BAAB" * runs)[: 2 * runs]
    assert share_claimed(sequence, drift=drift) <= MOST_WRONG
    assert share_claimed(sequence, walk=0.02) <= MOST_WRONG
    assert share_claimed(sequence, drift=drift, scatter=0.2) <= MOST_WRONG


def test_sides_that_alternate_without_pairs_claim_no_drift() -> None:
    assert share_claimed("BA" * 10, drift=0.02) <= MOST_WRONG


def test_pairs_see_through_a_random_walk() -> None:
    change = math.log(1.05)
    assert share_claimed("BAAB" * 5, change=change, walk=0.02, scatter=0.01) >= 0.97
    assert share_claimed("BA" * 10, change=change, walk=0.02, scatter=0.01) < 0.95
    assert share_claimed("BAAB" * 5, change=math.log(1.1)) >= 0.97


@pytest.mark.parametrize(("drift", "scatter"), [(0.01, 0.01), (0.02, 0), (0.05, 0.03), (-0.02, 0.01)])
def test_ten_then_ten_prove_no_drift(drift: float, scatter: float) -> None:
    assert share_claimed("B" * 10 + "A" * 10, drift=drift, scatter=scatter) <= MOST_WRONG


def test_ten_then_ten_without_drift_tell_as_much_as_two_samples() -> None:
    assert share_claimed("B" * 10 + "A" * 10) <= MOST_WRONG
    assert share_claimed("B" * 10 + "A" * 10, change=math.log(1.1)) >= 0.9
    assert share_claimed("B" * 10 + "A" * 10, change=math.log(1.5), drift=0.01) >= 0.97


# ---- in comparisons ----


def report_of(number: int, factor: float) -> Report:
    report = make_run(Setup(), number=number).report(f"run-{number}")
    (operation,) = report.operations
    stages = tuple(
        replace(row, total_ns=None if row.total_ns is None else round(row.total_ns * factor))
        for row in operation.stages
    )
    return replace(
        report, operations=(replace(operation, stages=stages, wall_ns=round(operation.wall_ns * factor)),)
    )


def compared(sequence: str, factor_per_run: float, change: float = 1) -> Comparison:
    """Runs in this order, on a machine that gets slower by a factor each run, give or take 0.3 %."""
    rng = np.random.default_rng(3)
    sides: dict[str, list[Report]] = {"B": [], "A": []}
    for number, each in enumerate(sequence):
        factor = factor_per_run**number * math.exp(0.003 * rng.standard_normal())
        sides[each].append(report_of(number, factor * (change if each == "A" else 1)))
    return compare(Recordings("before", tuple(sides["B"])), Recordings("after", tuple(sides["A"])))


def only_group(comparison: Comparison) -> Group:
    (group,) = comparison.groups
    return group


def test_ten_then_ten_on_a_machine_that_gets_slower() -> None:
    comparison = compared("B" * 10 + "A" * 10, 1.02)
    group = only_group(comparison)
    assert (group.wall.ratio or 0) > 1.15
    assert {row.verdict for row in group.times if row.part_of is None} <= {"~", "same"}
    assert (group.design, group.order) == ("independent", "apart")
    assert group.drift_before.factor_per_run == pytest.approx(1.02, rel=0.002)
    assert (group.drift_after.p_value or 1) < 0.001
    notes = " ".join(group.notes)
    assert "not made in turn: all runs before were made earlier than those after" in notes
    assert "before gets 2 % slower from run to run" in notes
    assert "no verdict on wall, " in notes
    assert "drift explains the difference as well" in notes
    hold_to(0, comparison)


def test_a_change_far_larger_than_the_drift_is_told() -> None:
    group = only_group(compared("B" * 10 + "A" * 10, 1.005, change=2))
    assert group.wall.verdict == "slower"
    assert "not made in turn" in " ".join(group.notes)


def test_the_same_drift_in_turn_is_no_difference_and_a_change_is_seen() -> None:
    group = only_group(compared("BAAB" * 5, 1.02))
    assert (group.design, group.order, group.wall.verdict) == ("paired", "pairs", "~")
    assert "made in turn: compared in 10 pairs of neighbours" in group.notes
    assert only_group(compared("BAAB" * 5, 1.02, change=1.05)).wall.verdict == "slower"


def test_operations_of_one_recording_are_in_order_too() -> None:
    (report,) = side("one", [make_run(Setup())]).reports
    (operation,) = report.operations
    made = [
        tuple(
            replace(
                operation,
                number=number,
                started_ns=operation.started_ns + number * 10**9,
                wall_ns=10**7 + number,
            )
            for number in numbers
        )
        for numbers in ((0, 3, 4, 7, 8), (1, 2, 5, 6, 9))
    ]
    before, after = (Recordings("one", (replace(report, operations=each),)) for each in made)
    assert only_group(compare(before, after)).order == "pairs"


def test_without_clocks_the_order_is_not_known() -> None:
    comparison = compared("BAAB" * 3, 1.0)
    assert only_group(comparison).order == "pairs"
    sides = []
    for start in (0, 5):
        reports = [report_of(start + number, 1 + number / 100) for number in range(5)]
        sides.append(
            tuple(replace(each, header=replace(each.header, started_realtime_ns=None)) for each in reports)
        )
    group = only_group(compare(Recordings("before", sides[0]), Recordings("after", sides[1])))
    assert (group.order, group.drift_before.p_value) == ("unknown", None)
    assert "when the runs were made is not known" in group.notes[0]

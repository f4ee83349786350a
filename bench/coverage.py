# SPDX-License-Identifier: GPL-2.0-or-later
"""How often `compare` is right: intervals that hold the true ratio, false verdicts, changes found, simulated.

Times scatter evenly on a logarithmic scale. DRAWS= is how many comparisons a case is (4000); with fewer a
figure can miss its target by chance: 4000 draws of 95 % scatter by 0.35 %.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.compare.run_order import UNKNOWN_ORDER, Order, Turns, find_order
from balloontrace.compare.significance import LEVEL, adjust_stages, p_value_of, size_of, weigh
from bench.figures import Benchmark, Figure, say

DRAWS = int(os.environ.get("DRAWS") or 4000)
LEAST_COVERED, MOST_FALSE, LEAST_FOUND = 93.0, 5.0, 97.0
STAGES = 5

_Values = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Runs before and after, how they scatter, in which order they are made, and what the machine does.

    `order` has a B and an A for each; empty where it is not known. All sizes are of logarithms: `drift` and
    `walk` are by the run, `change` is what AFTER takes longer.
    """

    before: int
    after: int
    scatter_before: float = 0.1
    scatter_after: float = 0.1
    order: str = ""
    drift: float = 0.0
    walk: float = 0.0
    change: float = 0.0

    @property
    def name(self) -> str:
        """In words, for the table."""
        order = "ABBA" if self.order.startswith("BAAB") else "ABAB" if self.order else "two samples"
        machine = f", drift {self.drift:.0%}, walk {self.walk:.0%} a run" if self.order else ""
        scatter = f"scatter {self.scatter_before:.0%} and {self.scatter_after:.0%}"
        return f"{self.before:2} and {self.after:2} runs, {scatter}, {order}{machine}"

    def places(self) -> Order:
        """The order of the runs."""
        if not self.order:
            return UNKNOWN_ORDER
        before, after = ([at for at, each in enumerate(self.order) if each == side] for side in "BA")
        return find_order(before, after)


def in_turn(runs: int) -> str:
    """Before, after, after, before."""
    return ("BAAB" * runs)[: 2 * runs]


COVERED = (
    *(Case(runs, runs) for runs in (4, 5, 10, 30)),
    *(
        Case(few, many, *scatter)
        for few, many in ((4, 10), (4, 30), (5, 10), (5, 30), (7, 12), (7, 30), (10, 30))
        for scatter in ((0.2, 0.02), (0.02, 0.2))
    ),
    *(Case(runs, runs, 0.2, 0.02) for runs in (4, 5, 10, 30)),
    *(Case(runs, runs, 0.03, 0.03, in_turn(runs), drift=0.02) for runs in (4, 5, 10, 30)),
    *(Case(runs, runs, 0.03, 0.03, in_turn(runs), walk=0.02) for runs in (4, 5, 10, 30)),
    *(Case(runs, runs, 0.2, 0.02, in_turn(runs), drift=0.02) for runs in (5, 10)),
    Case(10, 10, 0.03, 0.03, "BA" * 10, drift=0.02),
)
TABLES = (
    *(Case(runs, runs) for runs in (5, 10, 30)),
    Case(5, 30),
    *(Case(runs, runs, 0.1, 0.1, in_turn(runs), drift=0.02) for runs in (5, 10, 30)),
)
TEN_PERCENT, FIVE_PERCENT = math.log(1.1), math.log(1.05)
FOUND = (
    Case(10, 10, 0.03, 0.03, change=TEN_PERCENT),
    Case(10, 10, 0.03, 0.03, in_turn(10), change=TEN_PERCENT),
    Case(10, 10, 0.03, 0.03, in_turn(10), drift=0.02, change=TEN_PERCENT),
)
WALKED = (
    Case(10, 10, 0.01, 0.01, in_turn(10), walk=0.02, change=FIVE_PERCENT),
    Case(10, 10, 0.01, 0.01, "BA" * 10, walk=0.02, change=FIVE_PERCENT),
)


def draw(case: Case, rng: np.random.Generator) -> tuple[_Values, _Values]:
    """The times of one comparison."""
    order = case.order or "B" * case.before + "A" * case.after
    after = np.array([each == "A" for each in order])
    scatter = np.where(after, case.scatter_after, case.scatter_before)
    logs = scatter * rng.standard_normal(len(order)) + case.drift * np.arange(len(order))
    logs += np.cumsum(case.walk * rng.standard_normal(len(order))) + case.change * after
    return np.exp(logs[~after]), np.exp(logs[after])


def p_value(before: _Values, after: _Values, order: Order) -> float:
    """What `weigh` says; two samples without their interval, which takes longer."""
    if order.turns is Turns.PAIRS:
        return weigh(before.tolist(), after.tolist(), order).p_value or 0.0
    return p_value_of(before, after)


def share_claimed(case: Case) -> float:
    """Percent of comparisons that claim a difference, which is: whose interval does not hold 1."""
    rng, order = np.random.default_rng(1), case.places()
    return 100 * sum(p_value(*draw(case, rng), order) <= LEVEL for _ in range(DRAWS)) / DRAWS


def share_of_tables(case: Case) -> float:
    """Percent of tables in which the wall time or one of its stages gets a verdict, where nothing changed."""
    rng, order = np.random.default_rng(2), case.places()
    size = size_of(case.before, case.after, order)
    false = 0
    for _ in range(DRAWS):
        stages = [draw(case, rng) for _ in range(STAGES)]
        wall = sum(before for before, _ in stages), sum(after for _, after in stages)
        p_wall = p_value(np.asarray(wall[0]), np.asarray(wall[1]), order)
        adjusted = adjust_stages(p_wall, size, [p_value(*each, order) for each in stages])
        false += min(p_wall, *adjusted) <= LEVEL
    return 100 * false / DRAWS


def measure_coverage() -> Iterator[Figure]:
    """The least of all cases."""
    least = 100.0
    for case in COVERED:
        covered = 100 - share_claimed(case)
        say(f"{case.name}: {covered:.1f} % covered")
        least = min(least, covered)
    yield Figure("coverage", least, "%", at_least=LEAST_COVERED)


def measure_false_verdicts() -> Iterator[Figure]:
    """The most of all cases."""
    most = 0.0
    for case in TABLES:
        false = share_of_tables(case)
        say(f"{case.name}: {false:.1f} % of tables with a false verdict")
        most = max(most, false)
    yield Figure("false_verdicts", most, "%", MOST_FALSE)


def measure_detection() -> Iterator[Figure]:
    """+10 % in any order; then +5 % under a random walk, in pairs and, for comparison, not."""
    least = 100.0
    for case in FOUND:
        found = share_claimed(case)
        say(f"{case.name}: +10 % found in {found:.1f} %")
        least = min(least, found)
    yield Figure("detection", least, "%", at_least=LEAST_FOUND)
    paired, mixed = (share_claimed(case) for case in WALKED)
    yield Figure("detection_in_pairs", paired, "%", at_least=LEAST_FOUND)
    yield Figure("detection_without_pairs", mixed, "%")


BENCHMARKS = (
    Benchmark(("coverage",), measure_coverage),
    Benchmark(("false_verdicts",), measure_false_verdicts),
    Benchmark(("detection", "detection_in_pairs", "detection_without_pairs"), measure_detection),
)

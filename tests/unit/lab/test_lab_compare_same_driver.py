# SPDX-License-Identifier: GPL-2.0-or-later
"""How the operations of one driver are dealt to comparisons, and the messages on those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from balloontrace.results.operation import Operation
from balloontrace.results.report import Report
from lab.compare_same_driver import KINDS, deal, judge, parse_self, read_report, render
from lab.errors import LabError

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_no_operation_is_in_two_comparisons_and_sides_alternate() -> None:
    dealt = list(deal(range(29), runs=3))
    assert dealt[0] == ((0, 3, 4), (1, 2, 5))
    assert dealt[3] == ((18, 21, 22), (19, 20, 23))
    assert len(dealt) == 4  # five are left over
    used = [number for sides in dealt for side in sides for number in side]
    assert sorted(used) == list(range(24))


def test_too_few_operations_make_no_comparison() -> None:
    assert list(deal(range(5), runs=3)) == []


def test_what_is_asked_for() -> None:
    plan, comparisons = parse_self({"SELF": "bitmap", "BEFORE": "stock"})
    assert (plan.drivers, plan.rounds, plan.size_mib) == ({"before": "bitmap", "after": "bitmap"}, 10, 256)
    assert comparisons == 20
    plan, comparisons = parse_self({"SELF": "stock", "SIZE": "1G", "ROUNDS": "7", "COMPARISONS": "3"})
    assert (plan.size_mib, plan.rounds, comparisons) == (1024, 7, 3)


# ---- judged ----


def scaled(operation: Operation, factor: float) -> Operation:
    """The same operation, had it taken so much longer."""
    stages = tuple(
        replace(row, total_ns=None if row.total_ns is None else round(row.total_ns * factor))
        for row in operation.stages
    )
    return replace(operation, wall_ns=round(operation.wall_ns * factor), stages=stages)


def run_of(slower: Callable[[int], float], count: int = 40) -> Report:
    """A real inflate many times over, and a real deflate; run number n took `slower(n)` times as long."""
    found = [read_report(EXAMPLES / f"stock-{kind}.bt") for kind in KINDS]
    operations = [scaled(each.operations[0], slower(number)) for each in found for number in range(count)]
    return replace(found[0], operations=tuple(operations))


def test_what_scatters_alike_on_both_sides_claims_nothing() -> None:
    """Each pair of runs has one that is slow, the first of them as often as the second."""
    outcomes = list(judge(run_of(lambda n: 1 + 0.01 * (n % 20) + 0.1 * (n % 4 in (0, 2))), 2, 10))
    assert [each.kind for each in outcomes] == ["inflate", "inflate", "deflate", "deflate"]
    assert [each.claims for each in outcomes] == [()] * 4
    assert "inflate: ~ in 2 of 2 comparisons of 10 and 10 runs" in render(outcomes)


def test_the_runs_of_one_side_slower_are_found_every_time() -> None:
    outcomes = list(judge(run_of(lambda n: (1 + 0.001 * n) * (1.5 if n % 4 in (1, 2) else 1)), 2, 10))
    assert all("wall" in each.claims for each in outcomes)
    assert all(each.wall.ratio == pytest.approx(1.5, rel=0.01) for each in outcomes)
    assert render(outcomes).splitlines()[-1] == "deflate: ~ in 0 of 2 comparisons of 10 and 10 runs"


def test_a_recording_with_too_few_operations_is_not_judged() -> None:
    with pytest.raises(LabError, match="inflates for 3 comparisons of 6 and 6 only"):
        list(judge(run_of(lambda _: 1), comparisons=4, runs=6))


def test_what_is_no_recording_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "self.bt").write_text("nothing")
    with pytest.raises(LabError, match=r"self\.bt"):
        read_report(tmp_path / "self.bt")

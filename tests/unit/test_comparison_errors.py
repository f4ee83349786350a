# SPDX-License-Identifier: GPL-2.0-or-later
"""How often a comparison is wrong, of runs that scatter, and which way round it is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from comparisons import only_group, row
from runs import HOST_TIMES, TIMES, Setup, make_run, make_runs, scatter, side

from balloontrace.commands.compare import hold_to
from balloontrace.compare.make_comparison import compare
from balloontrace.compare.recordings import Recordings
from balloontrace.errors import RegressionError
from balloontrace.results.operation import Operation, StageRow
from balloontrace.results.report import Report

TRIES = 40
# What a binomial count of TRIES at 5 % stays below, except once in a thousand.
MOST_WRONG = 0.05 * TRIES + 3.1 * math.sqrt(TRIES * 0.05 * 0.95)


def scattered_reports(
    template: Report, rng: np.random.Generator, count: int, name: str, *, held_up: float = 0.1
) -> tuple[Report, ...]:
    """A report with other times: what the machine did to a run as a whole, and to each of its stages."""
    return tuple(
        replace(
            template,
            header=replace(template.header, recording=f"{name}-{number}.bt"),
            operations=(scattered_operation(template.operations[0], rng, held_up),),
        )
        for number in range(count)
    )


def scattered_operation(operation: Operation, rng: np.random.Generator, held_up: float) -> Operation:
    whole = math.exp(0.05 * rng.standard_normal())

    def scattered_row(stage: StageRow) -> StageRow:
        if stage.total_ns is None:
            return stage
        own = math.exp(0.1 * rng.standard_normal()) * (2 if rng.random() < held_up else 1)
        return replace(stage, total_ns=round(stage.total_ns * whole * own))

    stages = tuple(scattered_row(stage) for stage in operation.stages)
    wall_ns = sum(stage.total_ns or 0 for stage in stages if stage.part_of is None)
    return replace(operation, stages=stages, wall_ns=wall_ns, sends=int(rng.integers(14, 18)))


@pytest.mark.thorough
@pytest.mark.parametrize("setup", [Setup(), Setup(host_times=HOST_TIMES, mib=80)], ids=["guest", "both"])
def test_the_same_driver_against_itself_says_so(setup: Setup) -> None:
    """In 19 of 20 comparisons no row of either table claims anything, the wall time least of all."""
    template = make_run(setup).report("template")
    rng = np.random.default_rng(19)
    wrong_times = wrong_walls = wrong_counts = 0
    for _ in range(TRIES):
        sides = [scattered_reports(template, rng, 10, name) for name in ("before", "after")]
        group = only_group(compare(Recordings("before", sides[0]), Recordings("after", sides[1])))
        verdicts = {each.verdict for each in group.times}
        assert verdicts <= {None, "~", "faster", "slower"}
        wrong_times += bool(verdicts & {"faster", "slower"})
        wrong_walls += group.wall.verdict != "~"
        wrong_counts += bool({each.verdict for each in group.counts} & {"fewer", "more"})
    assert wrong_times <= MOST_WRONG
    assert wrong_walls <= MOST_WRONG
    assert wrong_counts <= MOST_WRONG


@pytest.mark.thorough
def test_a_difference_is_found_in_runs_that_scatter() -> None:
    """A third more of one stage, in 10 runs that scatter by a tenth."""
    template = make_run(Setup()).report("template")
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(20):
        before = scattered_reports(template, rng, 10, "before", held_up=0)
        after = tuple(
            replace(report, operations=(slowed(report.operations[0], "b+c+d", 4 / 3),))
            for report in scattered_reports(template, rng, 10, "after", held_up=0)
        )
        group = only_group(compare(Recordings("before", before), Recordings("after", after)))
        found += row(group, "b+c+d").verdict == "slower"
    assert found >= 19


def slowed(operation: Operation, name: str, factor: float) -> Operation:
    stages = tuple(
        replace(stage, total_ns=round((stage.total_ns or 0) * factor)) if stage.stage == name else stage
        for stage in operation.stages
    )
    wall_ns = sum(stage.total_ns or 0 for stage in stages if stage.part_of is None)
    return replace(operation, stages=stages, wall_ns=wall_ns)


def test_the_same_times_again_are_the_same() -> None:
    before, after = (side("runs", make_runs(Setup(), scatter(10), range(at, at + 10))) for at in (0, 10))
    comparison = compare(before, after)
    assert comparison.differences == ()
    for found in only_group(comparison).times:
        assert found.ratio is None or found.ratio == 1
        assert found.verdict in (None, "~", "same")
    assert only_group(comparison).wall.p_adjusted == 1


def of_walls(name: str, walls_us: Sequence[int]) -> Recordings:
    """Recordings of operations that took so long; a nanosecond more for each, so that none are the same."""
    (template,) = side(name, [make_run(Setup())]).reports
    return Recordings(
        name,
        tuple(
            replace(template, operations=(replace(template.operations[0], wall_ns=wall_us * 1000 + number),))
            for number, wall_us in enumerate(walls_us)
        ),
    )


@pytest.mark.parametrize(
    ("before_us", "after_us", "verdict", "fails"),
    [
        # The slower half of one side is the faster half of the other: the medians are almost the same.
        ([120] * 10 + [151] * 11, [150] * 12 + [251] * 9, "~", False),
        ([150] * 12 + [251] * 9, [120] * 10 + [151] * 11, "~", False),
        # How much slower is not agreed upon, that it is slower is.
        ([100] * 11 + [150] * 10, [500] * 11 + [400] * 10, "slower", True),
        ([500] * 11 + [400] * 10, [100] * 11 + [150] * 10, "faster", False),
    ],
)
def test_runs_of_two_kinds(
    before_us: Sequence[int], after_us: Sequence[int], verdict: str, fails: bool
) -> None:
    comparison = compare(of_walls("before", before_us), of_walls("after", after_us))
    group = only_group(comparison)
    wall = group.wall
    assert wall.ratio_low is not None
    assert wall.ratio_high is not None
    assert not wall.ratio_low <= (wall.ratio or 0) <= wall.ratio_high
    assert wall.p_adjusted is not None
    assert wall.p_adjusted < 0.05
    assert wall.verdict == verdict
    assert "wall: the runs of one side fall into two groups, so medians and pairs disagree" in group.notes
    with pytest.raises(RegressionError) if fails else nullcontext():
        hold_to(0, comparison)


@pytest.mark.thorough
def test_the_other_way_round() -> None:
    before, after = (
        side("before", make_runs(Setup(), scatter(8))),
        side("after", make_runs(Setup(times=replace(TIMES, allocate=60_000)), scatter(6, shift=2))),
    )
    there, back = only_group(compare(before, after)), only_group(compare(after, before))
    for one, other in zip(there.times, back.times, strict=True):
        assert (one.before, one.after) == (other.after, other.before)
        assert one.p_adjusted == pytest.approx(other.p_adjusted)
        if one.ratio and other.ratio:
            assert one.ratio * other.ratio == pytest.approx(1)
            assert (one.ratio_low or 0) * (other.ratio_high or 0) == pytest.approx(1)
    opposite = {"faster": "slower", "slower": "faster"}
    assert [other.verdict for other in back.times] == [
        opposite.get(one.verdict or "", one.verdict) for one in there.times
    ]

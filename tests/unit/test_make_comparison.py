# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparisons of recordings whose times are known, of how many runs, and what cannot be compared."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from comparisons import compared, only_group, row
from flows import Expected
from runs import HOST_TIMES, TIMES, Run, Setup, make_run, make_runs, scatter, side
from synthetic_host import HostTimes

from balloontrace.compare.make_comparison import ComparisonError, compare
from balloontrace.compare.recordings import Recordings
from balloontrace.format.vocabulary import Kind


def median(runs: Sequence[Run], value: Callable[[Expected], int]) -> float:
    return statistics.median(value(run.flow.expected[0]) for run in runs)


# ---- numbers that are known ----


def test_medians_and_ratios_are_those_of_the_runs() -> None:
    before = make_runs(Setup(), scatter(7))
    after = make_runs(Setup(times=replace(TIMES, send=3_000_000)), scatter(9, shift=3))
    group = only_group(compare(side("before", before), side("after", after)))
    assert (group.kind, group.pages) == ("inflate", 4096)
    values: dict[str, Callable[[Expected], int]] = {
        "wall": lambda each: each.wall_ns,
        "a": lambda each: each.a_ns,
        "b+c+d": lambda each: each.bcd_ns,
        "other.config": lambda each: each.config_ns,
        "other.work_item": lambda each: each.outside_body_ns,
        "other.requeue": lambda each: each.requeue_ns,
        "other.interrupt": lambda each: each.interrupt_ns,
    }
    for name, value in values.items():
        found = row(group, name)
        assert (found.before.n, found.after.n) == (7, 9)
        assert found.before.median == median(before, value)
        assert found.after.median == median(after, value)
        assert found.ratio == median(after, value) / median(before, value)
        assert found.before.minimum == min(value(run.flow.expected[0]) for run in before)
        assert found.after.maximum == max(value(run.flow.expected[0]) for run in after)
    sends = row(group, "b+c+d")
    assert sends.ratio == pytest.approx(2, rel=1e-4)
    assert (sends.verdict, row(group, "wall").verdict) == ("slower", "slower")
    assert (row(group, "a").verdict, row(group, "other").verdict) == ("~", "~")


@pytest.mark.parametrize(
    ("stage", "host_times"),
    [
        ("c", replace(HOST_TIMES, translate=2 * HOST_TIMES.translate)),
        ("d", replace(HOST_TIMES, call=2 * HOST_TIMES.call)),
    ],
)
def test_a_slowed_stage_is_found_on_both_sides(stage: str, host_times: HostTimes) -> None:
    """The time goes into one stage and out of b: the sends take as long as before."""
    setup = Setup(host_times=HOST_TIMES, mib=80)
    slowed = replace(setup, host_times=host_times)
    group = only_group(compared(setup, slowed))
    assert [each.name for each in group.times if each.part_of is None] == [
        "wall",
        "a",
        "b",
        "c",
        "d",
        "other",
    ]
    assert row(group, stage).ratio == pytest.approx(2)
    assert row(group, stage).verdict == "slower"
    assert row(group, "b").verdict == "faster"
    assert row(group, "a").verdict == "~"
    assert row(group, "wall").verdict == "~"
    assert row(group, "c" if stage == "d" else "d").ratio == 1


def test_a_slowed_send_is_found_from_the_guest_alone() -> None:
    group = only_group(compared(Setup(), Setup(times=replace(TIMES, send=round(TIMES.send * 1.3)))))
    assert row(group, "b+c+d").ratio == pytest.approx(1.3, rel=1e-4)
    assert row(group, "b+c+d").verdict == "slower"
    assert row(group, "a").verdict == "~"


def test_stages_add_up_to_the_wall_time_in_each_replicate() -> None:
    for setup in (Setup(), Setup(patched=True), Setup(host_times=HOST_TIMES, mib=80)):
        group = only_group(compared(setup, setup, (4, 4)))
        stages = [each.name for each in group.times if each.part_of is None and each.name != "wall"]
        for replicate in (*group.before, *group.after):
            assert sum(replicate.values[name] for name in stages) == replicate.values["wall"]


def test_making_bitmaps_is_part_of_b_on_either_topology() -> None:
    group = only_group(compared(Setup(), Setup(patched=True)))
    build, send, both = (row(group, name) for name in ("b.build", "b+c+d.send", "b+c+d"))
    assert (build.part_of, send.part_of) == ("b+c+d", "b+c+d")
    assert (build.before.n, build.before.median, build.ratio) == (0, None, None)
    assert (build.after.median or 0) + (send.after.median or 0) == both.after.median


def test_counts_are_those_of_the_runs() -> None:
    group = only_group(compared(Setup(host_times=HOST_TIMES, mib=80), Setup(host_times=HOST_TIMES, mib=80)))
    values = {each.name: (each.before.median, each.verdict) for each in group.counts if each.before.n}
    assert values == {
        "sends": (80, "same"),
        "pages_per_send": (256, "same"),
        "bytes_sent": (80 * 1024, "same"),
        "bytes_per_page": (4, "same"),
        "calls": (80 * 256, "same"),
        "bytes_called": (80 << 20, "same"),
        "bytes_per_call": (4096, "same"),
        "failed_calls": (0, "same"),
        "thp_splits": (0, "same"),
    }


def test_what_was_not_measured_is_empty() -> None:
    group = only_group(compared(Setup(), Setup(), (5, 5)))
    for name in ("calls", "bitmap_fill", "records", "pages_repeated", "thp_splits"):
        found = row(group, name)
        assert (found.before.n, found.before.median, found.ratio, found.p_value) == (0, None, None, None)
        assert found.verdict is None


def test_fewer_sends_are_said_to_be_fewer() -> None:
    group = only_group(compared(Setup(), Setup(patched=True), (5, 5)))
    sends = row(group, "sends")
    assert (sends.before.median, sends.after.median, sends.ratio) == (16, 1, 1 / 16)
    assert (sends.ratio_low, sends.ratio_high) == (1 / 16, 1 / 16)
    assert sends.verdict == "fewer"
    assert row(group, "pages_per_send").verdict == "more"


# ---- how many runs ----


def test_one_run_each() -> None:
    group = only_group(compared(Setup(), Setup(times=replace(TIMES, send=3_000_000)), (1, 1)))
    assert group.notes == ("one run each: no interval is possible",)
    for found in (*group.times, *group.counts):
        assert (found.ratio_low, found.ratio_high, found.p_value, found.verdict) == (None,) * 4
    assert group.wall.ratio is not None
    assert group.wall.ratio > 1.5


@pytest.mark.thorough
@pytest.mark.parametrize("runs", [(3, 3), (1, 10), (2, 5), (2, 30), (3, 10), (10, 3)])
def test_too_few_runs_for_an_interval(runs: tuple[int, int]) -> None:
    group = only_group(compared(Setup(), Setup(times=replace(TIMES, send=3_000_000)), runs))
    assert group.wall.ratio_low is None
    assert group.wall.verdict == (None if 1 in runs else "~")
    (note,) = group.notes
    assert note == (f"{runs[0]} before and {runs[1]} after are too few for 95 %: take 5 of each, or more")


def test_four_runs_give_an_interval_and_five_a_verdict() -> None:
    slow = Setup(times=replace(TIMES, send=3_000_000))
    four, five = (only_group(compared(Setup(), slow, (runs, runs))) for runs in (4, 5))
    unequal = only_group(compared(Setup(), slow, (4, 30)))
    assert (unequal.wall.ratio_low is not None, unequal.wall.verdict) == (True, None)
    assert four.wall.ratio_low is not None
    assert four.wall.ratio_low > 1.5
    assert four.wall.verdict is None
    assert four.notes[0] == "4 before and 4 after are too few for a verdict: take 5 of each, or more"
    assert five.wall.verdict == "slower"
    assert five.notes == ("made in turn: compared in 5 pairs of neighbours",)
    split = Setup(host_times=HOST_TIMES, mib=80)
    slower = replace(split, times=replace(TIMES, send=3_000_000))
    assert only_group(compared(split, slower, (5, 5))).wall.verdict == "slower"


# ---- what cannot be compared ----


def test_a_deflate_is_not_compared_with_an_inflate() -> None:
    both = make_run(Setup(deflate=True)).report("both")
    inflate = replace(both, operations=both.operations[:1])
    deflate = replace(both, operations=both.operations[1:])
    with pytest.raises(ComparisonError) as caught:
        compare(Recordings("x.bt", (deflate,)), Recordings("y.bt", (inflate,)))
    assert str(caught.value) == (
        "no operation of the same kind and size is on both sides: x.bt holds deflates of 16.0 MiB; "
        "y.bt holds inflates of 16.0 MiB"
    )
    with pytest.raises(ComparisonError, match=r"y\.bt holds no complete deflate to compare"):
        compare(Recordings("x.bt", (deflate,)), Recordings("y.bt", (inflate,)), (Kind.DEFLATE,))


def test_other_sizes_are_not_compared() -> None:
    with pytest.raises(
        ComparisonError, match=r"before holds inflates of 16\.0 MiB; after holds inflates of 8\.00 MiB"
    ):
        compared(Setup(), Setup(mib=8), (1, 1))


def test_a_guest_alone_is_not_compared_with_both_sides() -> None:
    alone, both = Setup(mib=80), Setup(mib=80, host_times=HOST_TIMES)
    with pytest.raises(ComparisonError) as caught:
        compared(alone, both, (1, 1))
    assert str(caught.value) == (
        "before is of the guest alone and after is of guest and host; --guest-only compares the guests' alone"
    )
    mixed = side("mixed", [make_run(both), make_run(alone)])
    with pytest.raises(ComparisonError, match=r"^mixed has no host's recording for"):
        compare(mixed, mixed)


def test_stages_apart_on_one_side_only_are_compared_together() -> None:
    """A VMM that does nothing for a buffer leaves its send unsplit, though both sides were recorded."""
    setup = Setup(mib=80, host_times=HOST_TIMES)
    split, other = (make_run(setup, number=number).report("split") for number in range(2))
    alone = make_run(Setup(mib=80), number=2).report("alone")
    unsplit = replace(split, header=alone.header, operations=alone.operations)
    group = only_group(compare(Recordings("before", (split,)), Recordings("after", (unsplit,))))
    assert "b, c and d are apart on one side only, so they are compared together" in group.notes
    assert row(group, "b+c+d").ratio == 1
    mixed = only_group(compare(Recordings("x", (split, unsplit)), Recordings("y", (other,))))
    assert "b, c and d are apart in 1 of 2 operations before" in mixed.notes
    assert (row(mixed, "d").before.n, row(mixed, "a").before.n) == (1, 2)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparisons of recordings whose times are known, of recordings that should not be compared, and how often
a difference is claimed that is none."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from runs import HOST_TIMES, TIMES, Run, Setup, in_turn, make_run, make_runs, scatter, side
from synthetic_host import HostTimes

from balloontrace.analysis.make_report import analyse
from balloontrace.commands.compare import hold_to
from balloontrace.compare.make_comparison import ComparisonError, Recordings, compare
from balloontrace.errors import RegressionError
from balloontrace.format.vocabulary import Kind
from balloontrace.results.comparison import Comparison, Group, Row
from balloontrace.results.report import Machine, Operation, Report, StageRow

TRIES = 40
# What a binomial count of TRIES at 5 % stays below but for once in a thousand.
MOST_WRONG = 0.05 * TRIES + 3.1 * math.sqrt(TRIES * 0.05 * 0.95)


def compared(before: Setup, after: Setup, runs: tuple[int, int] = (10, 10)) -> Comparison:
    """Made in turn where there are as many on each side; else in no known order."""
    numbers: tuple[Sequence[int], Sequence[int]] = ((), ())
    if runs[0] == runs[1]:
        numbers = in_turn(runs[0])
    sides = (
        make_runs(before, scatter(runs[0]), numbers[0]),
        make_runs(after, scatter(runs[1], shift=3), numbers[1]),
    )
    return compare(side("before", sides[0]), side("after", sides[1]))


def only_group(comparison: Comparison) -> Group:
    (group,) = comparison.groups
    return group


def row(group: Group, name: str) -> Row:
    (found,) = [each for each in (*group.times, *group.counts) if each.name == name]
    return found


def median(runs: Sequence[Run], value: Callable[[synthetic.Expected], int]) -> float:
    return statistics.median(value(run.flow.expected[0]) for run in runs)


# ---- numbers that are known ----


def test_medians_and_ratios_are_those_of_the_runs() -> None:
    before = make_runs(Setup(), scatter(7))
    after = make_runs(Setup(times=replace(TIMES, send=3_000_000)), scatter(9, shift=3))
    group = only_group(compare(side("before", before), side("after", after)))
    assert (group.kind, group.pages) == ("inflate", 4096)
    values: dict[str, Callable[[synthetic.Expected], int]] = {
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
    assert (unequal.wall.ratio_low is not None, unequal.wall.verdict) == (True, "~")
    assert four.wall.ratio_low is not None
    assert four.wall.ratio_low > 1.5
    assert four.wall.verdict == "~"
    assert four.notes[0] == "4 before and 4 after are too few for a verdict: take 5 of each, or more"
    assert five.wall.verdict == "slower"
    assert five.notes == ("made in turn: compared in 5 pairs of neighbours",)
    split = Setup(host_times=HOST_TIMES, mib=80)
    slower = replace(split, times=replace(TIMES, send=3_000_000))
    assert only_group(compared(split, slower, (5, 5))).wall.verdict == "slower"


# ---- the same driver against itself ----


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


# ---- which operations count ----


def test_each_kind_and_size_is_a_group_of_its_own() -> None:
    before = make_runs(Setup(deflate=True), scatter(3)) + make_runs(Setup(mib=32), scatter(2))
    after = make_runs(Setup(deflate=True), scatter(2), (5, 6)) + make_runs(Setup(mib=8), scatter(1))
    comparison = compare(side("before", before), side("after", after))
    assert [(each.kind, each.pages, len(each.before), len(each.after)) for each in comparison.groups] == [
        ("inflate", 4096, 3, 2),
        ("deflate", 4096, 3, 2),
    ]
    assert [(each.side, each.recording, each.operations, each.reason) for each in comparison.left_out] == [
        ("before", "before-3-guest.bt", (1,), "the other side has none of its kind and size"),
        ("before", "before-4-guest.bt", (1,), "the other side has none of its kind and size"),
        ("after", "after-2-guest.bt", (1,), "the other side has none of its kind and size"),
    ]
    assert comparison.before.operations == 6
    alone = compare(side("before", before), side("after", after), (Kind.DEFLATE,))
    assert [each.kind for each in alone.groups] == ["deflate"]
    assert alone.left_out == ()


def spoilt_report(spoil: Callable[[synthetic.Flow], None]) -> Report:
    flow = synthetic.Flow()
    spoil(flow)
    return analyse(synthetic.recording(flow))


def stall(flow: synthetic.Flow) -> None:
    flow.interrupt(4096)
    expected = synthetic.Expected(0, "inflate", flow.now)
    flow.work(expected, granted=[256, 0], max_items=2)


def turn_round(flow: synthetic.Flow) -> None:
    flow.resize(8192, max_items=3)
    flow.resize(256)


def move_target(flow: synthetic.Flow) -> None:
    flow.resize(2048, moves={3: 4096})


def begin_before(flow: synthetic.Flow) -> None:
    flow.target = 4096
    flow.work(synthetic.Expected(0, "inflate", flow.now))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (stall, "it did not reach its target: stalled"),
        (turn_round, "it did not reach its target: superseded"),
        (move_target, "its target moved"),
        (begin_before, "it began before the recording"),
    ],
)
def test_what_is_no_whole_operation_is_left_out(spoil: Callable[[synthetic.Flow], None], reason: str) -> None:
    good, other = (make_run(Setup(), number=number).report("good") for number in range(2))
    comparison = compare(Recordings("before", (good, spoilt_report(spoil))), Recordings("after", (other,)))
    assert (comparison.left_out[0].side, comparison.left_out[0].reason) == ("before", reason)
    assert len(only_group(comparison).before) == 1
    with pytest.raises(ComparisonError, match=f"^bad holds no complete inflate to compare: {reason}"):
        compare(Recordings("bad", (spoilt_report(spoil),)), Recordings("after", (good,)), (Kind.INFLATE,))


def test_a_target_that_was_not_seen() -> None:
    flow = synthetic.Flow(config_traced=False)
    flow.resize(4096)
    report = analyse(synthetic.recording(flow))
    with pytest.raises(ComparisonError, match="whether it reached its target is not known"):
        compare(Recordings("before", (report,)), Recordings("after", (report,)))


def test_a_recording_with_a_part_missing_does_not_count() -> None:
    good = make_run(Setup()).report("good")
    with pytest.raises(ComparisonError, match="a part of its recording is missing"):
        compare(Recordings("before", (replace(good, spans_missing=3),)), Recordings("after", (good,)))


# ---- what must be the same ----


def machine_change(**changes: object) -> dict[str, object]:
    described = synthetic.metadata()["machine"]
    assert isinstance(described, dict)
    return {"machine": {**described, **changes}}


def device_change(bits: Sequence[int]) -> dict[str, object]:
    names = [{1: "STATS_VQ", 3: "FREE_PAGE_HINT", 5: "REPORTING"}[bit] for bit in bits]
    return {"devices": [{"name": "virtio0", "index": 0, "features": names, "feature_bits": list(bits)}]}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (machine_change(kernel_release="6.1.0"), "kernel: 6.12.0-amd64 before, 6.1.0 after"),
        (machine_change(kernel_release=None), "kernel: 6.12.0-amd64 before, unknown after"),
        (machine_change(page_size_bytes=65536), "page size: 4.00 KiB before, 64.0 KiB after"),
        (machine_change(architecture="aarch64"), "architecture: x86_64 before, aarch64 after"),
        (machine_change(cpus=8), "CPUs of the guest: 2 before, 8 after"),
        (machine_change(memory_bytes=1 << 30), "memory of the guest: 8.00 GiB before, 1.00 GiB after"),
        (device_change([1, 5]), "features of the device: STATS_VQ before, STATS_VQ, REPORTING after"),
        (
            {"boundaries": {"fill": "fill_balloon"}},
            "boundary of fill: update_balloon_size_func before, fill_balloon after",
        ),
    ],
)
def test_a_mismatch_warns_by_its_name(changes: dict[str, object], text: str) -> None:
    comparison = compared(Setup(), Setup(changes=changes), (1, 1))
    assert [each.text for each in comparison.differences] == [text]
    assert not comparison.differences[0].expected
    assert comparison.warnings[0] == text


SETTINGS = {
    "swap_bytes": 0,
    "min_free_kbytes": 67584,
    "numa_nodes": 1,
    "init_on_alloc": False,
    "init_on_free": False,
    "page_poison": False,
    "thp_enabled": "always",
    "thp_defrag": "madvise",
    "thp_shmem_enabled": "never",
}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("swap_bytes", 1 << 30, "swap of the guest: 0 B before, 1.00 GiB after"),
        ("min_free_kbytes", 8192, "vm.min_free_kbytes of the guest: 67 584 before, 8 192 after"),
        ("numa_nodes", 2, "NUMA nodes of the guest: 1 before, 2 after"),
        ("init_on_alloc", True, "init_on_alloc of the guest: 0 before, 1 after"),
        ("init_on_free", True, "init_on_free of the guest: 0 before, 1 after"),
        ("page_poison", True, "page_poison of the guest: 0 before, 1 after"),
        ("thp_enabled", "never", "THP of the guest (enabled): always before, never after"),
        ("thp_defrag", "always", "THP of the guest (defrag): madvise before, always after"),
        ("thp_shmem_enabled", "force", "THP of the guest (shmem_enabled): never before, force after"),
    ],
)
def test_a_setting_that_pages_depend_on_warns(name: str, value: object, text: str) -> None:
    before, after = (
        Setup(changes=machine_change(**{**SETTINGS, name: each})) for each in (SETTINGS[name], value)
    )
    assert [each.text for each in compared(before, after, (1, 1)).differences] == [text]


@pytest.mark.parametrize("told_first", [True, False])
def test_what_older_recordings_do_not_tell_is_no_difference(told_first: bool) -> None:
    told, untold = Setup(changes=machine_change(**SETTINGS)), Setup()
    before, after = (told, untold) if told_first else (untold, told)
    assert compared(before, after, (1, 1)).differences == ()


def test_a_side_that_mixes_kernels_warns() -> None:
    other_kernel = Setup(changes=machine_change(kernel_release="7.2"))
    other = make_run(other_kernel, factor=1.01)
    mixed = [make_run(Setup()), other]
    again = [replace(make_run(Setup(), number=1)), make_run(other_kernel, number=2)]
    comparison = compare(side("before", mixed), side("after", again))
    assert comparison.warnings == ("kernel: 6.12.0-amd64 and 7.2 before, 6.12.0-amd64 and 7.2 after",)


def test_drivers_may_differ() -> None:
    patched = Setup(
        patched=True,
        changes={
            **device_change([1, 3]),
            "boundaries": {"fill": "update_balloon_size_func", "build": "set_page_bitmap"},
        },
    )
    comparison = compared(Setup(), patched, (1, 1))
    assert [(each.name, each.expected) for each in comparison.differences] == [
        ("driver", True),
        ("boundary of build", True),
        ("features of the device", True),
    ]
    assert comparison.warnings == ()


def test_drivers_mixed_on_one_side_are_no_plan() -> None:
    mixed = [make_run(Setup()), make_run(Setup(patched=True))]
    comparison = compare(side("before", mixed), side("after", [make_run(Setup(patched=True), number=1)]))
    assert "driver: patched and stock before, patched after" in comparison.warnings


def test_the_same_bit_with_the_same_driver_warns() -> None:
    comparison = compared(Setup(), Setup(changes=device_change([1, 3])), (1, 1))
    assert len(comparison.warnings) == 1


def test_a_recording_is_known_by_its_id_or_by_when_it_began() -> None:
    runs = make_runs(Setup(), scatter(3))
    by_clock = side("runs", [*runs, runs[0]])
    named = tuple(
        replace(each, header=replace(each.header, recording_id=f"{number % 3:032x}", machine=Machine()))
        for number, each in enumerate(by_clock.reports)
    )
    unnamed = tuple(
        replace(each, header=replace(each.header, machine=Machine())) for each in by_clock.reports
    )
    others = side("others", make_runs(Setup(), scatter(3), range(3, 6)))
    for reports in (by_clock.reports, named, unnamed):
        comparison = compare(Recordings("runs", reports), others)
        assert len(only_group(comparison).before) == 3
        told = "runs: 1 operation is a copy, and each run counts once: "
        assert f"{told}runs-3-guest.bt is the same as runs-0-guest.bt" in comparison.warnings
        (left_out,) = comparison.left_out
        assert (left_out.recording, left_out.operations, left_out.kinds) == (
            "runs-3-guest.bt",
            (1,),
            (Kind.INFLATE,),
        )
        assert left_out.reason == "a copy: the same run counts already"


def test_losses_warn_with_both_numbers() -> None:
    good, other = (make_run(Setup(), number=number).report("good") for number in range(2))
    lossy = replace(other, events_lost=12)
    comparison = compare(Recordings("before", (good,)), Recordings("after", (lossy,)))
    text = "events lost while recording: 0 before, 12 after; times and counts are too low there"
    assert comparison.warnings == (text,)
    assert (comparison.before.events_lost, comparison.after.events_lost) == (0, 12)
    unknown = compare(Recordings("before", (replace(good, events_lost=None),)), Recordings("after", (other,)))
    assert unknown.warnings == ("events lost while recording: unknown before, 0 after",)


def test_a_balloon_that_was_not_empty_warns() -> None:
    flow = synthetic.Flow()
    flow.resize(256)
    flow.now += 1_000_000
    flow.resize(256 + 4096)
    full = analyse(synthetic.recording(flow))
    good = make_run(Setup()).report("good")
    comparison = compare(Recordings("before", (good,)), Recordings("after", (full,)))
    assert "size of the balloon before inflate of 16.0 MiB: 0 B before, 1.00 MiB after" in comparison.warnings


def test_an_unseen_interrupt_is_another_beginning() -> None:
    good, other = (make_run(Setup(), number=number).report("good") for number in range(2))
    late = replace(other, operations=(replace(other.operations[0], starts_at="work item"),))
    comparison = compare(Recordings("before", (good,)), Recordings("after", (late,)))
    assert comparison.warnings == ("beginning of inflate of 16.0 MiB: interrupt before, work item after",)


def test_warnings_of_recordings_come_with_their_names() -> None:
    good, other, third = (make_run(Setup(), number=number).report("good") for number in range(3))
    (check,) = [each for each in good.checks if each.name == "balloon_inflate"]
    odd, again = (
        replace(
            each,
            warnings=("PAYL piece 3 is damaged",),
            checks=(replace(check, independent=4099, agrees=False),),
        )
        for each in (other, third)
    )
    comparison = compare(Recordings("before", (good, odd)), Recordings("after", (again, again)))
    counts = "4 096 in spans, 4 099 by /proc/vmstat"
    assert comparison.warnings == (
        "after: 1 operation is a copy, and each run counts once: good-guest.bt is the same as good-guest.bt",
        "good-guest.bt and 2 more: PAYL piece 3 is damaged",
        f"good-guest.bt and 2 more: balloon_inflate is counted differently: {counts}",
    )
    alone = compare(Recordings("before", (good,)), Recordings("after", (odd,)))
    assert alone.warnings[0] == "good-guest.bt: PAYL piece 3 is damaged"


# ---- what cannot be compared ----


def test_a_deflate_is_not_compared_with_an_inflate() -> None:
    both = make_run(Setup(deflate=True)).report("both")
    inflate = replace(both, operations=both.operations[:1])
    deflate = replace(both, operations=both.operations[1:])
    with pytest.raises(ComparisonError) as caught:
        compare(Recordings("x.bt", (deflate,)), Recordings("y.bt", (inflate,)))
    assert str(caught.value) == (
        "no operation of the same kind and size is on both sides: x.bt holds deflates of 16.0 MiB, "
        "y.bt inflates of 16.0 MiB"
    )
    with pytest.raises(ComparisonError, match=r"y\.bt holds no complete deflate to compare"):
        compare(Recordings("x.bt", (deflate,)), Recordings("y.bt", (inflate,)), (Kind.DEFLATE,))


def test_other_sizes_are_not_compared() -> None:
    with pytest.raises(
        ComparisonError, match=r"before holds inflates of 16\.0 MiB, after inflates of 8\.00 MiB"
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
    with pytest.raises(ComparisonError, match=r"^mixed has a host's recording for some"):
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

# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be the same on both sides of a comparison, and the message where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import synthetic
from comparisons import compared, only_group
from flows import Flow, typical_flow
from page_reporting import cycle_spans
from runs import Setup, make_run, make_runs, scatter, side

from balloontrace.analysis.make_report import analyse
from balloontrace.compare.condition_differences import find_differences
from balloontrace.compare.make_comparison import compare
from balloontrace.compare.recordings import Recordings
from balloontrace.format.vocabulary import Kind
from balloontrace.results.recording_header import Machine
from balloontrace.results.report import Report


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
    flow = Flow()
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


def test_page_reporting_of_another_order_or_delay_is_said() -> None:
    def with_settings(**settings: int) -> Report:
        flow = typical_flow()
        flow.spans += cycle_spans(flow.now + 10**6, {9: 1})
        return analyse(synthetic.recording(flow, changes={"page_reporting": settings}))

    one, other = with_settings(order=9, delay_ms=2000), with_settings(order=0, delay_ms=100)
    assert find_differences([one], [one]) == []
    assert [each.text for each in find_differences([one], [other])] == [
        "order of page reporting: 9 before, 0 after",
        "delay of page reporting in ms: 2 000 before, 100 after",
    ]
    assert find_differences([one], [with_settings()]) == []

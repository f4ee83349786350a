# SPDX-License-Identifier: GPL-2.0-or-later
"""A report says how large each balloon was and should have been, at both ends of the recording."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import synthetic
from flows import Flow
from people import render_table

from balloontrace.analysis.balloon_sizes import DRIVER, LAST_READ
from balloontrace.analysis.make_report import analyse
from balloontrace.format.balloon_size import BalloonSize
from balloontrace.format.recording import read_recording
from balloontrace.results.balloon import Balloon, GivenBack
from balloontrace.results.report import Check, Report
from balloontrace.units import format_standing, off_target_pages

CASES = Path(__file__).parents[1] / "data" / "cases"
MIB_PAGES = 256
BEFORE = {"balloon_inflate": 1000, "balloon_deflate": 1000, "balloon_migrate": 10}


def told(device: str, size: int | None, target: int | None, *, present: bool = True) -> dict[str, object]:
    source = None if size is None else "configuration space"
    return {
        "device": device, "present": present, "size_pages": size, "target_pages": target, "source": source
    }  # fmt: skip


def reported(
    *flows: Flow, start: Any = None, end: Any = None, ended: bool = True, **changes: object
) -> Report:
    data = synthetic.recording_bytes(
        *flows,
        ended=ended,
        changes={**changes, **({} if start is None else {"balloons": start})},
        end={} if end is None else {"balloons": end},
    )
    return analyse(read_recording(io.BytesIO(data)))


def check(report: Report, name: str) -> Check:
    return next(each for each in report.checks if each.name == name)


def only(report: Report) -> Balloon:
    (balloon,) = report.balloons
    return balloon


def inflated(flow: Flow, pages: int) -> dict[str, int]:
    """/proc/vmstat of a guest whose balloon holds so much already."""
    flow.actual = flow.target = pages
    return {**BEFORE, "balloon_inflate": 1000 + pages}


def end_of(flow: Flow, before: dict[str, int]) -> dict[str, object]:
    return {"vmstat": {name: count + flow.vmstat[name] for name, count in before.items()}}


def of_flow(flow: Flow, before: dict[str, int], **end: object) -> Report:
    data = synthetic.recording_bytes(flow, changes={"vmstat": before}, end={**end_of(flow, before), **end})
    return analyse(read_recording(io.BytesIO(data)))


def test_case_deflate_on_oom() -> None:
    """QEMU's `actual` was 107 776 pages at the end; the report said 185 344."""
    report = analyse(read_recording(CASES / "e1-deflate-on-oom.bt"))
    balloon = only(report)
    assert (balloon.at_start.size_pages, balloon.at_end.size_pages) == (0, 107_776)
    assert (balloon.at_end.target_pages, balloon.at_end.target_source) == (185_344, LAST_READ)
    assert (balloon.below_target_pages, balloon.above_target_pages) == (77_568, 0)
    assert balloon.given_back == (GivenBack("out of memory", 303, 77_568, 77_568),)
    found = check(report, "size of virtio4")
    assert (found.spans, found.independent, found.agrees) == (107_776, 107_776, True)
    text = " ".join(render_table(report).split())
    assert "421 MiB of target 724 MiB at the end, 303 MiB below its target" in text
    assert "out of memory: 303 MiB given back in 303 calls" in text


def test_what_the_device_says_counts_and_both_sources_are_held_against_the_spans() -> None:
    flow = Flow()
    flow.resize(10 * MIB_PAGES)
    flow.oom(MIB_PAGES)
    report = reported(flow, start=[told("virtio0", 0, 0)], end=[told("virtio0", 2304, 2560)])
    balloon = only(report)
    assert balloon.at_end.size_source == balloon.at_end.target_source == "configuration space"
    assert (balloon.at_start.target_pages, balloon.below_target_pages) == (0, MIB_PAGES)
    assert check(report, "size of virtio0").agrees is True
    assert check(report, "size of all balloons").agrees is True


def test_a_size_that_the_spans_do_not_explain_is_found() -> None:
    """Compared with the driver's own numbers it would have agreed."""
    flow = Flow()
    flow.resize(10 * MIB_PAGES)
    report = reported(flow, start=[told("virtio0", 0, 0)], end=[told("virtio0", 2559, 2560)])
    found = check(report, "size of virtio0")
    assert (found.spans, found.independent, found.agrees) == (2560, 2559, False)


def test_a_recording_that_began_inflated_knows_the_size_and_nothing_is_negative() -> None:
    flow = Flow()
    before = inflated(flow, 25_600)
    flow.resize(0)
    report = of_flow(flow, before)
    balloon = only(report)
    assert (balloon.at_start.size_pages, balloon.at_end.size_pages) == (25_600, 0)
    found = check(report, "size of virtio0")
    assert (found.spans, found.independent, found.agrees) == (0, 0, True)


def test_more_given_back_than_there_was_is_no_size() -> None:
    flow = Flow()
    inflated(flow, 25_600)
    flow.resize(0)
    found = check(
        reported(flow, start=[told("virtio0", 0, 0)], end=[told("virtio0", 0, 0)]), "size of virtio0"
    )
    assert (found.spans, found.agrees) == (None, None)


def test_nothing_moved_and_the_size_is_told() -> None:
    report = of_flow(Flow(), {**BEFORE, "balloon_inflate": 1000 + 512})
    balloon = only(report)
    assert balloon.at_start.size_pages == balloon.at_end.size_pages == 512
    assert balloon.at_end.target_pages is None
    assert "2.00 MiB of target - at the end" in " ".join(render_table(report).split())
    assert "the balloon did not move" in render_table(report)


def test_out_of_memory_alone_is_no_operation_and_has_moved_the_balloon() -> None:
    flow = Flow()
    before = inflated(flow, 1024)
    flow.oom(MIB_PAGES)
    report = of_flow(flow, before)
    assert report.operations == ()
    assert only(report).at_end.size_pages == 768
    assert only(report).given_back == (GivenBack("out of memory", 1, MIB_PAGES, None),)
    assert "did not move" not in render_table(report)


def test_a_driver_that_was_removed_leaves_nothing_and_an_unplugged_device_has_no_size() -> None:
    flow = Flow()
    flow.resize(10 * MIB_PAGES)
    flow.remove_driver()
    unbound = only(reported(flow, start=[told("virtio0", 0, 0)], end=[told("virtio0", 0, 2560)]))
    assert (unbound.at_end.size_pages, unbound.below_target_pages) == (0, 2560)
    assert [(each.how, each.pages) for each in unbound.given_back] == [("driver removed or frozen", 2560)]
    gone = reported(flow, start=[told("virtio0", 0, 0)], end=[told("virtio0", None, None, present=False)])
    at_end = only(gone).at_end
    assert (at_end.present, at_end.size_pages, at_end.target_pages) == (False, None, None)
    assert only(gone).below_target_pages is None
    assert "not there at the end" in " ".join(render_table(gone).split())
    # Whose pages went where is still proved, by the kernel's count.
    assert check(gone, "size of all balloons").agrees is True
    assert [each.name for each in gone.checks if each.name.startswith("size of virtio")] == []


def test_a_device_that_came_while_recording_began_empty() -> None:
    flow, later = Flow(), Flow(device=7, tid=300)
    later.resize(512)
    data = synthetic.recording_bytes(
        flow,
        later,
        changes={"devices": [{"name": "virtio0", "index": 0}], "balloons": [told("virtio0", 0, 0)]},
        end={"balloons": [told("virtio0", 0, 0), told("virtio7", 512, 512)]},
    )
    report = analyse(read_recording(io.BytesIO(data)))
    assert [each.device for each in report.balloons] == ["virtio0", "virtio7"]
    assert report.balloons[1].at_start.present is False
    assert check(report, "size of virtio7").agrees is True
    assert check(report, "size of all balloons").agrees is True


def test_two_balloons_have_sizes_of_their_own_and_vmstat_tells_the_sum_only() -> None:
    first, second = Flow(device=0, tid=100), Flow(device=1, tid=200)
    first.resize(1024)
    second.resize(512)
    apart = reported(
        first, second,
        start=[told("virtio0", 0, 0), told("virtio1", 0, 0)],
        end=[told("virtio0", 1024, 1024), told("virtio1", 512, 512)],
    )  # fmt: skip
    assert [each.at_end.size_pages for each in apart.balloons] == [1024, 512]
    sizes = {each.name: (each.spans, each.agrees) for each in apart.checks if each.name.startswith("size")}
    assert sizes == {
        "size of virtio0": (1024, True),
        "size of virtio1": (512, True),
        "size of all balloons": (1536, True),
    }
    untold = reported(first, second)
    assert [each.at_end.size_source for each in untold.balloons] == [DRIVER, DRIVER]
    assert [each.at_start.size_pages for each in untold.balloons] == [None, None]
    assert {each.agrees for each in untold.checks if each.name.startswith("size")} == {None}


def test_a_recording_that_was_cut_off_has_the_driver_s_word_and_no_check() -> None:
    flow = Flow()
    flow.resize(1024)
    report = reported(flow, ended=False)
    at_end = only(report).at_end
    assert (at_end.size_pages, at_end.size_source) == (1024, DRIVER)
    found = check(report, "size of virtio0")
    assert (found.spans, found.independent, found.agrees) == (1024, None, None)


def test_a_page_of_64_kib_counts_16_fold_and_its_target_is_met_within_one() -> None:
    machine = {"page_size_bytes": 65536}
    flow = Flow()
    before = {**BEFORE, "balloon_inflate": 1000 + 4}
    data = synthetic.recording_bytes(
        flow, changes={"machine": machine, "vmstat": before}, end={"vmstat": before}
    )
    balloon = only(analyse(read_recording(io.BytesIO(data))))
    assert balloon.at_end.size_pages == 64
    report = reported(flow, start=[told("virtio0", 64, 60)], end=[told("virtio0", 64, 60)], machine=machine)
    assert (only(report).below_target_pages, only(report).above_target_pages) == (0, 0)


def test_strange_sizes_are_unknown() -> None:
    odd = [told("virtio0", -1, 1 << 70), {"size_pages": 3}, "virtio1", told("virtio0", None, None)]
    balloon = only(reported(Flow(), start=odd, end=7))
    assert balloon.at_start.target_pages is None
    assert balloon.at_start.size_pages == 0  # by /proc/vmstat


@pytest.mark.parametrize(
    ("size", "target", "unit", "off"),
    [(10, 30, 1, (20, 0)), (30, 10, 1, (0, 20)), (None, 3, 1, (None, None)), (16, 3, 16, (0, 0))],
)
def test_how_far_off_its_target(
    size: int | None, target: int, unit: int, off: tuple[int | None, int | None]
) -> None:
    assert off_target_pages(size, target, unit) == off


def test_a_size_in_words() -> None:
    assert format_standing(256, 512) == "1.00 MiB of target 2.00 MiB, 1.00 MiB below it"
    assert format_standing(512, 256) == "2.00 MiB of target 1.00 MiB, 1.00 MiB above it"
    assert format_standing(None, 256) == "- of target 1.00 MiB"
    assert BalloonSize("virtio0", present=True).size_pages is None

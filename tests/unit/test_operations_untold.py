# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations of which a recording does not tell all: no configuration, no pages, no queue, no sends."""

from __future__ import annotations

import io
from typing import Any

import pytest
import synthetic
from flows import Flow, Times, typical_flow
from report_checks import assert_adds_up, assert_is, report_of, stage

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Function, SpanFlag


def test_without_configuration_accesses_pages_and_times_still_hold() -> None:
    flow = typical_flow(config_traced=False)
    report = report_of(flow)
    for operation, expected in zip(report.operations, flow.expected, strict=True):
        assert_is(operation, expected)
        assert operation.outcome is None
        assert operation.target_pages is None
        assert stage(operation.stages, "other.config").total_ns is None
    assert any("targets and outcomes" in sentence for sentence in report.not_measured)
    assert_adds_up(report)


SIZE_AT_START = {
    "device": "virtio4", "present": True, "size_pages": 512, "target_pages": 512,
    "source": "configuration space",
}  # fmt: skip
# The kernel counts the same, and the metadata is written before the first work item.
SIZED: dict[str, Any] = {
    "devices": [{"name": "virtio4", "index": 4}],
    "balloons": [SIZE_AT_START],
    "vmstat": {"balloon_inflate": 1512, "balloon_deflate": 1000},
}


def flow_without_type_information() -> Flow:
    flow = Flow()
    flow.actual = 512
    flow.resize(512 + 7 * 256 + 100)
    flow.resize(256)
    flow.silence(SpanFlag.DEVICE)
    flow.silence(SpanFlag.QUEUE | SpanFlag.PAGES, Function.TELL_HOST)
    return flow


def test_without_type_information_the_balloon_s_size_stands_in_for_pages() -> None:
    report = report_of(flow_without_type_information(), **SIZED)
    assert [(o.kind, o.outcome, o.short_work_items) for o in report.operations] == [
        ("inflate", "reached", 0),
        ("deflate", "reached", 0),
    ]
    assert {o.device for o in report.operations} == {"virtio4"}
    assert [o.pages for o in report.operations] == [7 * 256 + 100, 8 * 256 + 100]
    assert (report.operations[0].actual_before_pages, report.operations[1].actual_before_pages) == (512, 2404)
    assert {check.agrees for check in report.checks if check.name != "balloon_migrate"} == {None}
    (told,) = [sentence for sentence in report.not_measured if sentence.startswith("pages of a send: ")]
    assert told.endswith("how far the balloon's size moved")
    assert_adds_up(report)


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"balloons": []}, {}),
        # A work item had taken pages and not said so, or the other way round.
        ({"vmstat": {"balloon_inflate": 1513, "balloon_deflate": 1000}}, {}),
        ({"vmstat": {"balloon_inflate": 1511, "balloon_deflate": 1000}}, {}),
        ({"vmstat": {}}, {}),
        ({"started": {"monotonic_ns": 1_000_010_000, "realtime_ns": 1}}, {}),
        # The first work item seen would have moved more than one can.
        (
            {
                "balloons": [{**SIZE_AT_START, "size_pages": 511}],
                "vmstat": {"balloon_inflate": 1511, "balloon_deflate": 1000},
            },
            {},
        ),
        ({}, {"lost": 1}),
        ({}, {"missed": 1}),
        ({}, {"unmatched_returns": 1}),
    ],
)
def test_pages_that_may_be_fewer_than_moved_are_none(
    changes: dict[str, object], lost: dict[str, int]
) -> None:
    flow = flow_without_type_information()
    end = synthetic.end_record([flow])
    losses = end["losses"]
    assert isinstance(losses, dict)
    losses[Function.UPDATE_BALLOON_SIZE_FUNC.symbol] |= lost
    data = synthetic.recording_bytes(flow, changes={**SIZED, **changes}, end={"losses": losses})
    report = analyse(read_recording(io.BytesIO(data)))
    assert [operation.pages for operation in report.operations] == [None, 8 * 256 + 100]
    assert report.operations[0].actual_before_pages is None
    assert any("empty where it is not known from which size" in told for told in report.not_measured)


def test_lost_sends_are_no_lack_of_memory() -> None:
    flow = Flow()
    flow.resize(2048, max_items=3)
    flow.drop(Function.TELL_HOST)
    (operation,) = report_of(flow).operations
    assert (operation.outcome, operation.short_work_items, operation.short_ns) == ("in progress", 0, 0)
    assert operation.pages == 2 * 256  # of the first item nothing tells
    assert operation.actual_before_pages is None


@pytest.mark.parametrize("slept_ns", [200_000_000, 199_100_000, 190_000_000])
def test_what_a_memory_shortage_took_back_is_no_step_of_a_work_item(slept_ns: int) -> None:
    """msleep(200) may wake up to a tick early."""
    flow = Flow(times=Times(failed_allocation=slept_ns))
    expected = flow.resize(2048, max_items=3)
    flow.oom(256)
    flow.work(expected, granted=[0], max_items=1)
    (operation,) = report_of(flow).operations
    assert (operation.pages, operation.short_work_items, operation.outcome) == (768, 1, "stalled")


def test_a_total_of_pages_that_are_not_all_known_is_none() -> None:
    flow = Flow()
    flow.resize(512, max_items=1)
    for target in (0, 2048):
        flow.resize(target)
    flow.silence(SpanFlag.QUEUE | SpanFlag.PAGES, Function.TELL_HOST)
    report = report_of(flow)
    assert [operation.pages for operation in report.operations] == [None, 256, 2048]
    assert [(total.kind, total.pages) for total in report.totals] == [("inflate", None), ("deflate", 256)]
    assert report.totals[0].rate_bytes_per_s is None


def test_sends_that_lost_their_work_item_stay_visible() -> None:
    flow = Flow()
    flow.resize(1024)
    works = [span for span in flow.spans if span.function == Function.UPDATE_BALLOON_SIZE_FUNC]
    flow.spans.remove(works[1])
    report = report_of(flow)
    assert report.operations[0].sends == 3
    outside = {each.what: (each.calls, each.pages) for each in report.outside}
    assert outside["send without its work item"] == (1, 256)
    assert_adds_up(report)


def test_pages_that_disagree_with_the_kernel_are_shown() -> None:
    flow = Flow()
    flow.resize(1024)
    flow.vmstat["balloon_inflate"] += 1
    check = report_of(flow).checks[0]
    assert (check.spans, check.independent, check.agrees) == (1024, 1025, False)


def test_sends_of_unknown_queue_are_held_against_nothing() -> None:
    """Offsets from the command line may tell the pages of a send and not its queue."""
    flow = Flow()
    flow.resize(1024)
    flow.resize(0)
    flow.silence(SpanFlag.QUEUE)
    report = report_of(flow)
    assert [each.kind for each in report.operations] == ["inflate", "deflate"]
    assert {check.agrees for check in report.checks if check.name != "balloon_migrate"} == {None}


def test_untraced_sends_leave_the_stages_unsplit() -> None:
    flow = Flow()
    flow.resize(1024)
    flow.drop(Function.TELL_HOST)
    report = report_of(flow, probes=[])
    assert report.operations[0].sends is None
    first, second = report.operations[0].stages[:2]
    assert (first.stage, first.where) == ("a+b+c+d", "guest and host")
    assert (second.stage, second.total_ns) == ("b+c+d", None)
    assert_adds_up(report)

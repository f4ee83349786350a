# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import io
import itertools
import json

import pytest
import synthetic
from flows import Expected, Flow, Times, typical_flow
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import join, split
from report_checks import assert_adds_up, assert_is, report_of, stage, total_ns

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Function, Queue


@pytest.mark.parametrize("fill_is_symbol", [False, True])
def test_known_times_come_back_exactly(fill_is_symbol: bool) -> None:
    flow = typical_flow(fill_is_symbol=fill_is_symbol)
    report = report_of(flow)
    assert len(report.operations) == 2
    for operation, expected in zip(report.operations, flow.expected, strict=True):
        assert_is(operation, expected)
        assert operation.outcome == "reached"
        assert operation.starts_at == "interrupt"
        assert operation.started_before_recording is False
    assert [operation.actual_before_pages for operation in report.operations] == [0, 4096]
    assert [operation.actual_after_pages for operation in report.operations] == [4096, 100]
    assert_adds_up(report)
    assert all(check.agrees for check in report.checks)
    outside = {each.what: each.calls for each in report.outside}
    assert outside == {
        "virtballoon_migratepage (page compaction)": 1,
        "send of virtballoon_migratepage": 2,
        "work item that found nothing to do": 1,
    }


def test_quantiles_are_values_that_occurred() -> None:
    flow = Flow()
    flow.resize(100 * 256)
    send = stage(report_of(flow).operations[0].stages, "b+c+d")
    base = Times().send
    assert (send.count, send.p50_ns, send.p90_ns, send.p99_ns, send.max_ns) == (
        100,
        base + 50,
        base + 90,
        base + 99,
        base + 100,
    )


def test_a_target_that_moves_on_is_still_one_operation() -> None:
    flow = Flow()
    flow.resize(1024, moves={2: 2048})
    (operation,) = report_of(flow).operations
    assert operation.targets_pages == (1024, 2048)
    assert operation.pages == 2048
    assert_is(operation, flow.expected[0])
    assert any("target moved" in sentence for sentence in operation.verdict)


def test_turning_round_supersedes_an_operation() -> None:
    flow = Flow()
    flow.resize(4096, max_items=5)
    flow.resize(256)
    first, second = report_of(flow).operations
    assert (first.kind, first.outcome, first.pages) == ("inflate", "superseded", 5 * 256)
    assert (second.kind, second.outcome, second.pages) == ("deflate", "reached", 4 * 256)
    assert_is(first, flow.expected[0])


def test_an_operation_waiting_for_memory_is_stalled() -> None:
    flow = Flow()
    expected = Expected(0, "inflate", flow.now)
    flow.interrupt(4096)
    expected.interrupt_ns = flow.now - expected.start_ns
    flow.work(expected, max_items=7, granted=[256, 256, 100, 0, 7, 0, 0])
    (operation,) = report_of(flow).operations
    assert operation.outcome == "stalled"
    assert_is(operation, expected)
    assert (operation.short_work_items, operation.sends, operation.pages) == (5, 4, 619)
    assert operation.short_ns >= 5 * Times().failed_allocation
    assert any("waiting on allocation: 5 work items" in sentence for sentence in operation.verdict)
    assert operation.verdict[0].startswith("stalled, waiting on allocation at 2.42 MiB of 16.0 MiB")


def test_a_short_item_that_recovers_is_counted() -> None:
    flow = Flow()
    expected = Expected(0, "inflate", flow.now)
    flow.interrupt(1000)
    expected.interrupt_ns = flow.now - expected.start_ns
    flow.work(expected, granted=[256, 3])
    (operation,) = report_of(flow).operations
    assert operation.outcome == "reached"
    assert_is(operation, expected)


def test_two_devices_are_told_apart() -> None:
    flows = [Flow(device=1, tid=10), Flow(device=4, tid=11, clock_ns=1_000_300_000)]
    flows[0].resize(2048)
    flows[1].resize(1024)
    report = report_of(*flows)
    assert [operation.device for operation in report.operations] == ["virtio1", "virtio4"]
    for operation, flow in zip(report.operations, flows, strict=True):
        assert_is(operation, flow.expected[0])
    assert_adds_up(report)
    # What is in either balloon nobody has counted but the driver.
    assert all(check.agrees for check in report.checks if check.source == "/proc/vmstat")


def test_work_items_may_run_on_different_threads() -> None:
    flow = Flow()
    flow.resize(512, max_items=1)
    flow.tid = 200
    flow.now += flow.times.requeue
    flow.expected[0].requeue_ns += flow.times.requeue
    flow.work(flow.expected[0])
    (operation,) = report_of(flow).operations
    assert operation.sends == 2
    assert operation.wall_ns == flow.expected[0].wall_ns


def test_compaction_inside_the_allocation_is_no_send() -> None:
    flow = Flow()
    start_ns = flow.now
    flow.now += 1_000
    flow.migrate(tid=flow.tid)
    send_ns = flow._send(Queue.INFLATE, 256, tid=flow.tid)
    flow.actual = flow.target = 256
    flow._work_span(start_ns)
    report = report_of(flow)
    (operation,) = report.operations
    assert (operation.sends, operation.pages) == (1, 256)
    assert total_ns(operation, "b+c+d") == send_ns
    assert_adds_up(report)


def test_memory_shortage_during_an_operation_is_told() -> None:
    flow = Flow()
    flow.resize(2048, max_items=4)
    flow.oom(300)
    flow.now += flow.times.requeue
    flow.work(flow.expected[0])
    report = report_of(flow)
    (operation,) = report.operations
    assert (operation.oom_notifications, operation.oom_pages) == (1, 300)
    assert operation.pages == 2048 + 300
    assert any("guest out of memory: 1 notification" in sentence for sentence in operation.verdict)
    assert all(check.agrees for check in report.checks)
    assert_adds_up(report)


def test_a_recording_that_starts_in_the_middle_says_so() -> None:
    flow = Flow()
    flow.resize(2048)
    cut = [span for span in flow.spans if span.function != Function.VIRTBALLOON_CHANGED][6:]
    flow.spans = cut
    (operation,) = report_of(flow).operations
    assert operation.started_before_recording is True
    assert operation.starts_at == "work item"
    assert operation.actual_before_pages == 3 * 256
    assert stage(operation.stages, "other.interrupt").total_ns is None


def test_without_the_interrupt_probe_nobody_knows_when_it_started() -> None:
    flow = Flow()
    flow.resize(512)
    flow.drop(Function.VIRTBALLOON_CHANGED)
    probes = [{"function": "tell_host", "status": "attached"}]
    assert report_of(flow, probes=probes).operations[0].started_before_recording is None


def test_a_killed_recording_reports_what_it_has() -> None:
    flow = Flow()
    flow.resize(4096, max_items=6)
    report = analyse(synthetic.recording(flow, ended=False, lost=3))
    (operation,) = report.operations
    assert operation.outcome == "in progress"
    assert not report.complete
    assert report.events_lost == 3
    assert any("no end record" in warning for warning in report.warnings)
    assert any("3 events were lost" in warning for warning in report.warnings)
    assert report.own_cost is None
    assert {check.agrees for check in report.checks if check.source == "/proc/vmstat"} == {None}


def test_removing_the_driver_ends_an_operation() -> None:
    flow = Flow()
    flow.resize(4096, max_items=5)
    flow.remove_driver()
    flow.now += 10_000_000
    flow.resize(512)
    report = report_of(flow)
    assert [operation.outcome for operation in report.operations] == ["driver removed", "reached"]
    outside = {each.what: (each.calls, each.pages) for each in report.outside}
    assert outside["leak_balloon of a driver being removed or frozen"] == (5, 5 * 256)
    assert all(check.agrees for check in report.checks)


def test_a_recording_that_the_driver_ended_is_incomplete() -> None:
    flow = Flow()
    flow.resize(1024)
    pieces = split(synthetic.recording_bytes(flow))
    end = synthetic.end_record([flow], clean=False, reason="driver unloaded or unbound")
    pieces[-1] = (b"ENDR", pieces[-1][1], json.dumps(end).encode())
    report = analyse(read_recording(io.BytesIO(join(pieces))))
    assert not report.complete
    assert report.warnings == ("the recording did not end normally: driver unloaded or unbound",)


def test_idle_work_items_make_no_operations() -> None:
    flow = Flow()
    for _ in range(5):
        flow.interrupt(0)
        flow.idle_item()
    report = report_of(flow)
    assert report.operations == ()
    assert report.totals == ()
    assert report.outside[0].calls == 5


steps = st.lists(
    st.tuples(
        st.sampled_from(["resize", "resize", "resize", "part", "migrate", "oom", "idle", "pause", "remove"]),
        st.integers(0, 1500),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(
    steps=steps, fill_is_symbol=st.booleans(), config_traced=st.booleans(), lost=st.sets(st.integers(0, 200))
)
def test_stages_always_add_up_to_the_wall_time(
    steps: list[tuple[str, int]], fill_is_symbol: bool, config_traced: bool, lost: set[int]
) -> None:
    flow = Flow(fill_is_symbol=fill_is_symbol, config_traced=config_traced)
    for step, number in steps:
        match step:
            case "resize":
                flow.resize(number)
            case "part":
                flow.resize(number, max_items=2)
            case "migrate":
                flow.migrate()
            case "oom":
                flow.oom(min(number, flow.actual))
            case "idle":
                flow.idle_item()
            case "pause":
                flow.now += number * 100_000
            case _:
                flow.remove_driver()
    pages = sum(span.pages for span in flow.spans if span.function == Function.TELL_HOST)
    kept = [span for index, span in enumerate(flow.spans) if index not in lost]
    whole = len(kept) == len(flow.spans)
    flow.spans = kept
    report = report_of(flow)
    assert_adds_up(report)
    if whole:
        outside = sum(each.pages or 0 for each in report.outside if each.what.startswith("send"))
        removed = sum(each.pages or 0 for each in report.outside if "removed" in each.what)
        assert sum(operation.pages or 0 for operation in report.operations) + outside + removed == pages
    for first, second in itertools.pairwise(report.operations):
        assert second.started_ns >= first.started_ns + first.wall_ns


def test_a_target_between_two_pages_of_the_kernel_is_reached_with_the_next() -> None:
    """The driver takes its target up to whole pages: of 64 KiB, 1 601 to 1 616."""
    flow = Flow()
    flow.resize(1616)
    flow.spans = [
        span._replace(target_pages=1601) if span.function == Function.UPDATE_BALLOON_SIZE_FUNC else span
        for span in flow.spans
    ]
    machine = {**synthetic.metadata()["machine"], "page_size_bytes": 65536}  # type: ignore[dict-item]
    (operation,) = report_of(flow, machine=machine).operations
    assert (operation.outcome, operation.target_pages, operation.short_work_items) == ("reached", 1601, 0)
    (of_4_kib,) = report_of(flow).operations
    assert of_4_kib.outcome != "reached"

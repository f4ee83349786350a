# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a send waited: until the interrupt, or from it until the guest's thread ran again."""

from __future__ import annotations

import pytest
from flows import Flow, Times, typical_flow
from patched_flows import PatchedFlow
from report_checks import assert_adds_up, report_of, stage
from synthetic_both import flow_of
from synthetic_both import report_of as report_of_both
from synthetic_host import HostTimes, batches

from balloontrace.format.vocabulary import SpanFlag
from balloontrace.results.operation import Operation

RUNNING_NS = 40_000
ALL_THREE = "host, transport or the guest's own scheduling"


def codes(operation: Operation) -> list[str]:
    return [row.stage for row in operation.stages]


def test_without_interrupts_nothing_is_said_of_them() -> None:
    for operation in report_of(typical_flow()).operations:
        assert not [code for code in codes(operation) if code.startswith("b+c+d.")]


@pytest.mark.parametrize("patched", [False, True])
def test_the_guest_alone_knows_since_when_it_could_have_gone_on(patched: bool) -> None:
    times = Times(running=RUNNING_NS)
    flow: Flow = PatchedFlow(sends_of_windows=(2, 3), times=times) if patched else Flow(times=times)
    flow.resize(4096)
    report = report_of(flow)
    assert_adds_up(report)
    (operation,) = report.operations
    whole, until, running = (
        stage(operation.stages, name) for name in ("b+c+d", "b+c+d.interrupt", "b+c+d.running")
    )
    assert running.total_ns == operation.sends * RUNNING_NS  # type: ignore[operator]
    assert (running.count, running.max_ns, running.part_of) == (operation.sends, RUNNING_NS, "b+c+d")
    assert until.total_ns == whole.total_ns - running.total_ns  # type: ignore[operator]
    assert "b+c+d.found" not in codes(operation)


def test_a_send_that_found_its_answer_waited_for_no_interrupt() -> None:
    flow = Flow(times=Times(running=RUNNING_NS))
    flow.resize(1024)
    first = next(index for index, span in enumerate(flow.spans) if span.flags & SpanFlag.ACK)
    flow.spans[first] = flow.spans[first]._replace(flags=flow.spans[first].flags & ~SpanFlag.ACK, wait_ns=0)
    (operation,) = report_of(flow).operations
    parts = [stage(operation.stages, f"b+c+d.{name}") for name in ("interrupt", "running", "found")]
    assert [part.count for part in parts] == [3, 3, 1]
    assert sum(part.total_ns or 0 for part in parts) == stage(operation.stages, "b+c+d").total_ns


@pytest.mark.parametrize(
    ("running_ns", "sentence"),
    [
        (290_000, "guest slow: 82.1 % of the time waiting for a processor after the host's answer"),
        (1_000, "84.7 % of the time between sending and the interrupt: host or transport"),
        (
            None,
            f"84.9 % of the time between sending and going on: {ALL_THREE}",
        ),
    ],
)
def test_a_guest_short_of_processor_is_no_slow_host(running_ns: int | None, sentence: str) -> None:
    flow = Flow(times=Times(running=running_ns))
    flow.resize(64 * 256)
    (operation,) = report_of(flow).operations
    assert operation.verdict[0] == sentence


def test_with_both_sides_the_way_back_ends_with_the_interrupt() -> None:
    flow = flow_of(running_ns=2_000)
    report = report_of_both(flow, batches(flow))
    for operation in report.operations:
        ways = [stage(operation.stages, name) for name in ("b.to_host", "b.interrupt", "b.running")]
        assert "b.back" not in codes(operation)
        assert ways[2].total_ns == 2_000 * (operation.sends or 0)
        assert sum(way.total_ns or 0 for way in ways) == stage(operation.stages, "b").total_ns


def test_without_clocks_the_guest_s_own_part_of_b_is_still_known() -> None:
    flow = flow_of(running_ns=2_000)
    for operation in report_of_both(flow, batches(flow, HostTimes(spread=0))).operations:
        assert stage(operation.stages, "b.to_host").total_ns is None
        assert stage(operation.stages, "b.interrupt").total_ns is None
        assert stage(operation.stages, "b.running").total_ns == 2_000 * (operation.sends or 0)


def test_an_interrupt_before_the_host_s_completion_leaves_no_part_longer_than_b() -> None:
    flow = flow_of(running_ns=1_490_000)
    for operation in report_of_both(flow, batches(flow)).operations:
        b, running = (stage(operation.stages, name).total_ns for name in ("b", "b.running"))
        assert b is not None
        assert running is not None
        assert running <= b


def test_an_interrupt_later_than_its_send_is_damage() -> None:
    flow = Flow(times=Times(running=RUNNING_NS))
    flow.resize(1024)
    index = next(index for index, span in enumerate(flow.spans) if span.flags & SpanFlag.ACK)
    flow.spans[index] = flow.spans[index]._replace(wait_ns=10**9)
    report = report_of(flow)
    assert any("impossible" in sentence or "damaged" in sentence for sentence in report.warnings)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing adds to a call of the host: measured while attaching, recorded, and shown beside c and d."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from people import render_table
from synthetic_both import flow_of, report_of
from synthetic_host import CallSums, batches, slot

from balloontrace.analysis.tracing_cost import TracingCost, parse_tracing_cost
from balloontrace.format.vocabulary import Call
from balloontrace.trace.host import call_cost
from balloontrace.trace.host.call_cost import CallTime, measure_call_cost, time_calls


class Counted:
    """A slot in which each look finds another round of calls, of so many ns each."""

    def __init__(self, *call_ns: int, missed: int = 0) -> None:
        self._call_ns = call_ns
        self._missed = missed
        self._looks = 0

    def __call__(self) -> bytes:
        self._looks += 1
        total_ns = sum(self._call_ns[look % len(self._call_ns)] for look in range(self._looks)) * 32
        return slot(7, CallSums(Call.MADVISE_OTHER, self._looks * 32 - self._missed, 0, total_ns))


AT_ONCE = CallTime(0.0, 1000.0)  # quicker than any call, and so with no work of its own


def test_the_quickest_round_counts() -> None:
    cost = measure_call_cost(AT_ONCE, Counted(90, 40, 70))
    assert cost is not None
    assert cost.inside_ns == 40
    assert cost.added_ns >= cost.inside_ns


def test_calls_that_were_no_longer_than_before_measure_nothing() -> None:
    assert measure_call_cost(CallTime(1e9, 1000.0), Counted(40)) is None


def test_what_is_added_inside_is_part_of_what_is_added() -> None:
    cost = measure_call_cost(AT_ONCE, Counted(10**9))
    assert cost is not None
    assert 0 < cost.inside_ns == cost.added_ns


def test_calls_that_the_probes_did_not_see_measure_nothing() -> None:
    assert measure_call_cost(AT_ONCE, Counted(40, missed=1)) is None
    timed = time_calls()
    assert timed is not None
    assert timed.ratio > 0


def test_a_machine_whose_system_calls_have_unknown_numbers_measures_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "vax")
    assert time_calls() is None
    assert measure_call_cost(None, Counted(40)) is None


@pytest.mark.parametrize("times_slower", [0.5, 1.0, 3.0])
def test_a_machine_that_was_slower_or_faster_before_changes_nothing(
    times_slower: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 0

    def spend(call_ns: float) -> None:
        nonlocal now_ns
        now_ns += round(call_ns * 1000)

    def libc(added_ns: float = 0.0, slower: float = 1.0) -> Any:
        def syscall(_number: int, *arguments: int) -> None:
            is_other = arguments == call_cost._MEMBARRIER
            spend((100 if is_other else 190 + added_ns) * slower)

        return SimpleNamespace(syscall=syscall)

    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns // 1000)
    monkeypatch.setattr(call_cost, "_LIBC", libc(slower=times_slower))
    untraced = time_calls()
    monkeypatch.setattr(call_cost, "_LIBC", libc(added_ns=550))
    # Of the 264 that count for a call 90 are its own work.
    cost = measure_call_cost(untraced, Counted(264))
    assert cost is not None
    assert cost.added_ns == pytest.approx(550 * min(1.0, times_slower), rel=0.01)
    assert cost.inside_ns == pytest.approx(264 - 90, abs=2)


@pytest.mark.parametrize(
    "recorded",
    [None, {}, {"added_ns": 5}, {"added_ns": 5, "inside_ns": 6}, {"added_ns": -5, "inside_ns": -6}],
)
def test_what_was_not_measured_or_cannot_be_is_none(recorded: Any) -> None:
    assert parse_tracing_cost({"call_cost": recorded}) is None


def test_more_than_the_calls_took_was_not_added_to_them() -> None:
    cost = parse_tracing_cost({"call_cost": {"added_ns": 550.5, "inside_ns": 264.0}})
    assert cost == TracingCost(286.5, 264.0)
    assert cost.of_calls(1000, 1_000_000) == (286_500, 264_000)
    assert cost.of_calls(1000, 9_000) == (286_500, 9_000)


def test_it_is_shown_beside_c_and_d_and_by_operation() -> None:
    flow = flow_of()
    report = report_of(flow, batches(flow), changes={"call_cost": {"added_ns": 300.0, "inside_ns": 100.0}})
    assert report.host is not None
    assert (report.host.tracing_c_ns, report.host.tracing_d_ns) == (200 * 51_200, 100 * 51_200)
    served = report.operations[0].served
    assert served is not None
    assert (served.tracing_c_ns, served.tracing_d_ns) == (200 * 25_600, 100 * 25_600)
    assert "of which tracing some 10.2 ms of c and 5.12 ms of d" in render_table(report)


def test_recordings_that_did_not_measure_it_say_nothing() -> None:
    flow = flow_of()
    report = report_of(flow, batches(flow))
    assert report.host is not None
    assert (report.host.tracing_c_ns, report.host.tracing_d_ns) == (None, None)
    assert "tracing some" not in render_table(report)

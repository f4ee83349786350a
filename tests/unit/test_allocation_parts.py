# SPDX-License-Identifier: GPL-2.0-or-later
"""What allocating consists of: parts and the rest are a, and a sentence names what was most of it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import synthetic
from allocation import hold_up
from flows import Flow
from patched_flows import PatchedFlow
from report_checks import assert_adds_up, report_of, stage, total_ns

from balloontrace.errors import UsageError
from balloontrace.format.stages import ALLOCATION_PARTS
from balloontrace.format.vocabulary import ALLOCATION_TRACEPOINTS, Function, Kind, Part, Status
from balloontrace.results.operation import Operation
from balloontrace.results.report import Report
from balloontrace.system.kernel import Layout, Symbol
from balloontrace.trace.guest.plan import make_plan
from balloontrace.trace.host.side import HostSide
from balloontrace.trace.options import TraceOptions

CODES = [part.code for part in ALLOCATION_PARTS]


def inflated(*parts: tuple[Part, int, int], flow: Flow | None = None) -> Flow:
    flow = flow or Flow()
    flow.resize(1024)
    for item, (part, duration_ns, times) in enumerate(parts):
        hold_up(flow, part, duration_ns, times, item)
    return flow


def rows(operation: Operation) -> dict[str, tuple[int | None, int | None]]:
    return {row.stage: (row.count, row.total_ns) for row in operation.stages if row.part_of == "a"}


def said(report: Report) -> list[str]:
    return [sentence for sentence in report.operations[0].verdict if "of allocating was" in sentence]


@pytest.mark.parametrize("flow", [Flow, PatchedFlow])
def test_parts_and_the_rest_are_a(flow: type[Flow]) -> None:
    found = flow()
    found.resize(1024)
    hold_up(found, Part.RECLAIM, 700, 3, item=0)
    hold_up(found, Part.RECLAIM, 200)
    hold_up(found, Part.OFF_CPU, 50, 2)
    report = report_of(found)
    assert_adds_up(report)
    operation = report.operations[0]
    shown = rows(operation)
    assert shown["a.reclaim"] == (4, 900)
    assert shown["a.off_cpu"] == (2, 50)
    assert shown["a.compaction"] == shown["a.puff"] == shown["a.lock"] == (0, 0)
    assert shown["a.rest"] == (None, total_ns(operation, "a") - 950)
    assert stage(operation.stages, "a.reclaim").max_ns == 700
    # Nothing else has changed for it.
    plain = flow()
    plain.resize(1024)
    of_plain = {row.stage: row for row in report_of(plain).operations[0].stages}
    assert not of_plain.keys() & {*CODES, "a.rest"}
    assert of_plain == {row.stage: row for row in operation.stages if row.stage in of_plain}
    assert report.spans == report_of(plain).spans


def deflated(flow: Flow) -> Flow:
    """Held up by other threads in the last work item."""
    flow.resize(0)
    hold_up(flow, Part.OFF_CPU, 40)
    return flow


def unknown_of_release(report: Report) -> list[str]:
    return [each for each in report.not_measured if each.startswith("what releasing consists of")]


@pytest.mark.parametrize("flow", [Flow, PatchedFlow])
def test_parts_and_the_rest_are_a_of_a_deflate_too(flow: type[Flow]) -> None:
    made = deflated(inflated((Part.RECLAIM, 100, 1), flow=flow()))
    report = report_of(made, parts_of_a=["inflate", "deflate"])
    assert_adds_up(report)
    inflate, deflate = report.operations
    assert rows(inflate)["a.reclaim"] == (1, 100)
    shown = rows(deflate)
    assert (shown["a.off_cpu"], shown["a.reclaim"]) == ((1, 40), (0, 0))
    assert shown["a.rest"] == (None, total_ns(deflate, "a") - 40)
    assert stage(deflate.stages, "a.rest").name == "releasing, and what is left"
    by_kind = {total.kind: total.stages for total in report.totals}
    assert stage(by_kind[Kind.DEFLATE], "a.off_cpu").total_ns == 40
    assert unknown_of_release(report) == []


def test_of_a_recorder_that_told_parts_until_the_send_a_deflate_has_none() -> None:
    report = report_of(deflated(inflated((Part.RECLAIM, 100, 1))))
    assert [bool(rows(operation)) for operation in report.operations] == [True, False]
    by_kind = {total.kind: total.stages for total in report.totals}
    assert stage(by_kind[Kind.INFLATE], "a.reclaim").total_ns == 100
    assert not {row.stage for row in by_kind[Kind.DEFLATE]} & set(CODES)
    (sentence,) = unknown_of_release(report)
    assert "until the send" in sentence
    assert unknown_of_release(report_of(inflated((Part.RECLAIM, 100, 1)))) == []


def test_without_leak_balloon_nobody_knows_where_releasing_ends() -> None:
    flow = deflated(inflated((Part.RECLAIM, 100, 1)))
    flow.drop(Function.LEAK_BALLOON)
    probes = synthetic.metadata([flow])["probes"]
    assert isinstance(probes, list)
    for probe in probes:
        if probe["function"] == Function.LEAK_BALLOON.symbol:
            probe["status"] = str(Status.ABSENT)
    report = report_of(flow, probes=probes, parts_of_a=["inflate", "deflate"])
    assert not rows(report.operations[1])
    assert unknown_of_release(report) == ["what releasing consists of: leak_balloon was not traced"]


def test_most_of_releasing_is_named() -> None:
    flow = Flow()
    flow.resize(256)
    flow.resize(0)
    kinds = ["inflate", "deflate"]
    a_ns = total_ns(report_of(flow, parts_of_a=kinds).operations[1], "a")
    hold_up(flow, Part.OFF_CPU, a_ns * 7 // 10, 2)
    inflate, deflate = report_of(flow, parts_of_a=kinds).operations
    assert not any("of releasing was" in sentence for sentence in inflate.verdict)
    (sentence,) = [each for each in deflate.verdict if "of releasing was" in each]
    assert sentence.startswith("70.0 % of releasing was time off the processor")


def test_parts_longer_than_their_whole_are_not_believed() -> None:
    report = report_of(inflated((Part.RECLAIM, 1 << 40, 1), (Part.LOCK, 30, 1)))
    shown = rows(report.operations[0])
    assert (shown["a.reclaim"], shown["a.lock"]) == ((0, 0), (1, 30))
    assert_adds_up(report)


def test_what_no_tracepoint_tells_is_not_measured() -> None:
    flow = inflated((Part.RECLAIM, 100, 1))
    probes = synthetic.metadata([flow])["probes"]
    assert isinstance(probes, list)
    for probe in probes:
        if probe["function"] == Function.CONTENTION_END.symbol:
            probe["status"] = str(Status.ABSENT)
    report = report_of(flow, probes=probes)
    assert "a.lock" not in rows(report.operations[0])
    assert rows(report.operations[0])["a.rest"][1] == total_ns(report.operations[0], "a") - 100
    assert any(sentence.startswith("contention_end: absent") for sentence in report.not_measured)


def test_without_the_target_allocating_has_no_begin() -> None:
    flow = inflated((Part.RECLAIM, 100, 1), flow=Flow(config_traced=False))
    report = report_of(flow)
    assert not rows(report.operations[0])
    assert any(sentence.startswith("what allocating consists of") for sentence in report.not_measured)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Part.RECLAIM, "direct reclaim"),
        (Part.COMPACTION, "compaction"),
        (Part.PUFF, "sleeping for want of a page"),
        (Part.LOCK, "waiting for locks"),
        (Part.OFF_CPU, "time off the processor"),
    ],
)
def test_most_of_allocating_is_named(part: Part, words: str) -> None:
    flow = Flow()
    flow.resize(256)
    a_ns = total_ns(report_of(flow).operations[0], "a")
    assert said(report_of(flow)) == []
    hold_up(flow, part, a_ns * 7 // 10, 2)
    (sentence,) = said(report_of(flow))
    assert sentence.startswith(f"70.0 % of allocating was {words}")
    assert sentence.endswith(", 2 times")


def test_less_than_half_is_not_named() -> None:
    flow = Flow()
    flow.resize(256)
    hold_up(flow, Part.RECLAIM, total_ns(report_of(flow).operations[0], "a") // 2 - 1)
    assert said(report_of(flow)) == []


def symbols(functions: Iterable[Function], prefix: str) -> list[Symbol]:
    return [Symbol(f"{prefix}{function.symbol}", 4096 * int(function), "") for function in functions]


def test_a_plan_has_the_tracepoints_that_a_kernel_shows() -> None:
    driver = [
        Symbol("update_balloon_size_func", 1, "virtio_balloon"),
        Symbol("tell_host", 2, "virtio_balloon"),
    ]
    plan = make_plan(driver, Layout())
    *without, _ = ALLOCATION_TRACEPOINTS
    split = plan.with_allocation(symbols(without, "__traceiter_")).with_kprobes()
    statuses = {probe.function: probe.status for probe in split.probes if probe.point.tracepoint}
    assert statuses == {
        **dict.fromkeys(without, Status.ATTACH), ALLOCATION_TRACEPOINTS[-1]: Status.ABSENT
    }  # fmt: skip
    attached = {each.program: each for each in split.attachments if each.mechanism == "raw_tracepoint"}
    assert attached["raw_sched_switch"].symbol == "sched:sched_switch"
    assert len(attached) == len(without)
    assert not {probe.function for probe in plan.probes} & set(ALLOCATION_TRACEPOINTS)
    older = plan.with_allocation(symbols(ALLOCATION_TRACEPOINTS, "__bpf_trace_"))
    assert len(older.attachable) == len(plan.attachable) + len(ALLOCATION_TRACEPOINTS)


def test_a_host_does_not_allocate() -> None:
    with pytest.raises(UsageError, match="--split-allocation is for the guest's side"):
        HostSide(TraceOptions(split_allocation=True)).check_options()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page reporting: spans become an operation of their own, and nothing of it is in an inflate."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
import synthetic
from flows import Flow, Span, typical_flow
from page_reporting import TID, TRANSPORT_NS, WORK_NS, cycle_spans, pages_in, report_span
from report_checks import assert_adds_up, report_of

from balloontrace.analysis.make_report import analyse, examine
from balloontrace.export.event_rows import described_events
from balloontrace.export.make_time_line import build_timeline
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.render import blocks_text
from balloontrace.render.json import render_json
from balloontrace.render.report.sections import describe_report
from balloontrace.results.page_reporting import OrderOfBlocks, PageReporting
from balloontrace.results.report import Report

FIRST = {9: 3, 10: 29}
SECOND = {9: 7}
SETTINGS = {"order": 9, "delay_ms": None}


def text_of(report: Report) -> str:
    return blocks_text.text_of(describe_report(report))


def reporting_of(*spans: Span, **changes: object) -> PageReporting:
    flow = Flow()
    flow.spans += spans
    found = analyse(synthetic.recording(flow, changes=changes)).page_reporting
    assert found is not None
    return found


def test_cycles_and_reports_are_summed_up() -> None:
    spans = [*cycle_spans(10**9, FIRST, SECOND), *cycle_spans(3 * 10**9), *cycle_spans(5 * 10**9, SECOND)]
    found = reporting_of(*spans, page_reporting=SETTINGS)
    assert (found.reports, found.failed, found.cycles) == (3, 0, 3)
    assert (found.blocks, found.pages) == (46, pages_in(FIRST) + 2 * pages_in(SECOND))
    assert found.orders == (OrderOfBlocks(9, 17, 17 * 512), OrderOfBlocks(10, 29, 29 * 1024))
    assert (found.transport_ns, found.worker_ns) == (3 * TRANSPORT_NS, 6 * WORK_NS)
    assert found.cycles_ns == 3 * TRANSPORT_NS + 6 * WORK_NS
    assert (found.from_order, found.delay_ms) == (9, None)
    recorded_minutes = (10**13 - 900_000_000) / 60e9
    assert found.pages_per_minute == pytest.approx((found.pages or 0) / recorded_minutes)


def test_reports_during_an_inflate_are_none_of_it() -> None:
    alone, both = typical_flow(), typical_flow()
    start_ns = both.spans[0].start_ns
    for number in range(20):
        both.spans += cycle_spans(start_ns + number * 200_000, FIRST)
    before, after = report_of(alone), report_of(both)
    assert before.page_reporting is None
    assert after.page_reporting is not None
    assert after.page_reporting.pages == 20 * pages_in(FIRST)
    for name in ("operations", "totals", "outside", "checks", "balloons", "pages_moved", "pages_unseen"):
        assert getattr(after, name) == getattr(before, name), name
    assert_adds_up(after)


def test_reports_in_the_thread_of_the_work_item_between_its_items() -> None:
    """Both are work items of the kernel, and a worker thread runs one after the other."""
    flow = Flow()
    flow.resize(512)
    flow.spans += cycle_spans(flow.now + 10, FIRST, tid=flow.tid)
    flow.now += 10**6
    flow.resize(1024)
    report = report_of(flow)
    assert [each.pages for each in report.operations] == [512, 512]
    assert report.page_reporting is not None
    assert report.page_reporting.pages == pages_in(FIRST)


def test_what_was_not_measured_is_empty() -> None:
    """Arguments are not trusted: no pages, no blocks. No symbol for the cycles: no work."""
    silent = report_span(10**9, {})._replace(flags=SpanFlag.RESULT, passes=0)
    probe = {"function": Function.VIRTBALLOON_FREE_PAGE_REPORT.symbol, "status": "attached"}
    found = reporting_of(silent, probes=[probe])
    assert (found.reports, found.blocks, found.pages, found.orders) == (1, None, None, ())
    assert (found.cycles, found.cycles_ns, found.worker_ns, found.pages_per_minute) == (None,) * 4
    assert found.transport_ns == TRANSPORT_NS
    assert (found.from_order, found.delay_ms) == (None, None)


def test_nothing_reported_is_a_zero() -> None:
    attached = [
        {"function": function.symbol, "status": "attached"}
        for function in (Function.VIRTBALLOON_FREE_PAGE_REPORT, Function.PAGE_REPORTING_PROCESS)
    ]
    found = reporting_of(probes=attached)
    assert (found.reports, found.blocks, found.pages, found.cycles, found.worker_ns) == (0, 0, 0, 0, 0)


def test_a_failed_report_is_counted_apart() -> None:
    spans = [report_span(10**9, FIRST), report_span(2 * 10**9, SECOND, result=-5)]
    found = reporting_of(*spans)
    assert (found.reports, found.failed, found.blocks, found.pages) == (1, 1, 32, pages_in(FIRST))
    assert [each.order for each in found.orders] == [9, 10]


def test_a_lost_return_is_said_and_a_cut_cycle_takes_no_time_away() -> None:
    """The cycle under way at the end has reports and no span."""
    flow = Flow()
    flow.spans += cycle_spans(10**9, FIRST) + cycle_spans(3 * 10**9, FIRST)[:-1]
    losses = {Function.VIRTBALLOON_FREE_PAGE_REPORT.symbol: {"entries": 3, "returns": 2, "overwritten": 1}}
    report = analyse(read_recording(io.BytesIO(synthetic.recording_bytes(flow, end={"losses": losses}))))
    found = report.page_reporting
    assert found is not None
    assert (found.reports, found.cycles, found.worker_ns) == (2, 1, 2 * WORK_NS)
    assert report.events_lost == 1
    assert any("lost" in each for each in report.warnings)


def test_calls_that_contradict_a_report_never_make_a_negative_time() -> None:
    (first, cycle) = cycle_spans(10**9, FIRST)
    longer = first._replace(start_ns=first.start_ns + 10, duration_ns=cycle.duration_ns)
    found = reporting_of(first, longer, cycle)
    assert (found.worker_ns or 0) >= 0
    assert found.reports == 1


def test_orders_that_do_not_add_up_are_left_out() -> None:
    wrong = report_span(10**9, FIRST)._replace(pages=5)
    found = reporting_of(wrong)
    assert (found.pages, found.orders) == (5, ())


def test_pages_of_64_kib() -> None:
    """16 pages of the balloon each."""
    flow = Flow()
    flow.spans += [report_span(10**9, {5: 2})._replace(pages=2 * 32 * 16)]
    machine = {"page_size_bytes": 65536}
    (only,) = report_of(flow, machine=machine).page_reporting.orders  # type: ignore[union-attr]
    assert only == OrderOfBlocks(5, 2, 1024)


def test_a_report_says_it_in_words() -> None:
    flow = Flow()
    flow.spans += cycle_spans(10**9, FIRST, SECOND)
    shown = text_of(report_of(flow, page_reporting=SETTINGS))
    said = "Page reporting: 2 reports in 1 cycle, 39 blocks, 136 MiB: 10 of order 9, 29 of order 10"
    assert said in " ".join(shown.split())
    assert "from order 9 on, delay -" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_nothing_is_said_where_it_was_not_traced() -> None:
    assert "Page reporting" not in text_of(report_of(typical_flow()))


def test_feature_is_said_to_be_untraced_only_where_it_is() -> None:
    flow, without = Flow(), Flow()
    flow.spans += cycle_spans(10**9, FIRST)
    device = [{"name": "virtio0", "index": 0, "features": ["REPORTING"], "feature_bits": [5]}]
    for each, expected in ((flow, False), (without, True)):
        said = report_of(each, devices=device).not_measured
        assert any("free page reporting" in sentence for sentence in said) is expected


def test_every_format_has_it() -> None:
    flow = Flow()
    flow.spans += cycle_spans(10**9, FIRST)
    examined = examine(synthetic.recording(flow))
    fields = json.loads(render_json(examined.report))["page_reporting"]
    assert fields == json.loads(json.dumps(dataclasses.asdict(examined.report.page_reporting)))  # type: ignore[arg-type]
    events = described_events(examined)
    cycle, row = [each for each in events if each["type"] == "span" and each["tid"] == TID]
    assert (row["blocks"], row["orders"], row["passes"], row["target_pages"]) == (32, "9:3 10:29", None, None)
    assert (cycle["blocks"], cycle["orders"], cycle["pages"]) == (None, None, None)
    (guest,) = build_timeline(examined).processes
    (track,) = guest.tracks
    assert track.name == f"page reporting (thread {TID})"
    assert [each.name for each in track.slices] == ["page_reporting_process", "virtballoon_free_page_report"]

# SPDX-License-Identifier: GPL-2.0-or-later
"""What each cycle of page reporting did; with reports outside of cycles they are all that was reported."""

from __future__ import annotations

import csv
import io

import pytest
import synthetic
from flows import Flow, Span
from other_buffers import MIB, discard
from page_reporting import TRANSPORT_NS, WORK_NS, cycle_spans, pages_in, report_span
from synthetic_both import flow_of, guest_recording
from synthetic_host import OFFSET_NS, batches, host_recording, pack_batch

from balloontrace.analysis.make_report import analyse
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.render import blocks_text
from balloontrace.render.report.csv import render_csv
from balloontrace.render.report.sections import describe_report
from balloontrace.results.page_reporting import PageReporting, ReportedQuantity
from balloontrace.results.report import Report

S = 10**9
FIRST = {9: 3, 10: 29}
SECOND = {9: 7}
BLOCKS = {10: 13}
SUMMED = ("reports", "pages", "worker_ns", "transport_ns")


def report_of(*spans: Span, **changes: object) -> Report:
    flow = Flow()
    flow.spans += spans
    return analyse(synthetic.recording(flow, changes=changes))


def reporting_of(*spans: Span, **changes: object) -> PageReporting:
    found = report_of(*spans, **changes).page_reporting
    assert found is not None
    return found


def quantity(found: PageReporting, name: str) -> ReportedQuantity:
    (row,) = [each for each in found.quantities if each.name == name]
    return row


def test_cycles_add_up_to_all_of_it() -> None:
    found = reporting_of(*cycle_spans(S, FIRST, SECOND), *cycle_spans(3 * S), *cycle_spans(5 * S, SECOND))
    assert [(each.started_ns, each.reports, each.blocks, each.pages) for each in found.each_cycle] == [
        (S, 2, 39, pages_in(FIRST) + pages_in(SECOND)),
        (3 * S, 0, 0, 0),
        (5 * S, 1, 7, pages_in(SECOND)),
    ]
    assert [(each.worker_ns, each.transport_ns) for each in found.each_cycle] == [
        (3 * WORK_NS, 2 * TRANSPORT_NS),
        (WORK_NS, 0),
        (2 * WORK_NS, TRANSPORT_NS),
    ]
    assert all(each.wall_ns == each.worker_ns + each.transport_ns for each in found.each_cycle)
    for name in SUMMED:
        assert quantity(found, name).total == getattr(found, name), name
        assert sum(getattr(each, name) for each in found.each_cycle) == getattr(found, name), name
    assert {(each.host_c_ns, each.host_d_ns, each.pages_again) for each in found.each_cycle} == {(None,) * 3}


def test_total_a_minute_and_a_cycle() -> None:
    report = report_of(*cycle_spans(S, FIRST, SECOND), *cycle_spans(3 * S), *cycle_spans(5 * S, SECOND))
    found = report.page_reporting
    assert found is not None
    assert report.recorded_ns == 10**13 - 900_000_000
    minutes = report.recorded_ns / 60e9
    pages = quantity(found, "pages")
    assert pages.per_minute == pytest.approx(found.pages_per_minute)
    assert (pages.cycle_min, pages.cycle_median, pages.cycle_max) == (
        0, pages_in(SECOND), pages_in(FIRST) + pages_in(SECOND),
    )  # fmt: skip
    size = quantity(found, "bytes")
    assert (size.total, size.cycle_median) == ((found.pages or 0) * 4096, pages_in(SECOND) * 4096)
    worker = quantity(found, "worker_ns")
    assert worker.per_minute == pytest.approx(6 * WORK_NS / minutes)
    assert (worker.cycle_min, worker.cycle_max) == (WORK_NS, 3 * WORK_NS)


def test_a_cut_cycle_is_in_the_totals_alone() -> None:
    found = reporting_of(*cycle_spans(S, FIRST), *cycle_spans(3 * S, SECOND)[:-1])
    (cycle,) = found.each_cycle
    assert cycle.pages == pages_in(FIRST)
    assert quantity(found, "pages").total == pages_in(FIRST) + pages_in(SECOND)
    assert quantity(found, "pages").cycle_max == pages_in(FIRST)


def test_a_failed_report_is_neither_worker_nor_transport() -> None:
    first, second, cycle = cycle_spans(S, FIRST, SECOND)
    (found,) = reporting_of(first, second._replace(result=-5), cycle).each_cycle
    assert (found.reports, found.pages, found.transport_ns) == (1, pages_in(FIRST), TRANSPORT_NS)
    assert found.wall_ns == found.worker_ns + 2 * TRANSPORT_NS


def test_without_cycles_there_are_totals() -> None:
    probe = {"function": Function.VIRTBALLOON_FREE_PAGE_REPORT.symbol, "status": "attached"}
    found = reporting_of(report_span(S, FIRST), probes=[probe])
    assert found.each_cycle == ()
    pages = quantity(found, "pages")
    assert (pages.total, pages.cycle_min, pages.cycle_median, pages.cycle_max) == (
        pages_in(FIRST), None, None, None,
    )  # fmt: skip
    assert "worker_ns" not in {each.name for each in found.quantities}


def test_pages_that_nobody_told_are_no_zero() -> None:
    silent, cycle = cycle_spans(S, FIRST)
    found = reporting_of(silent._replace(flags=silent.flags & ~SpanFlag.PAGES, passes=0), cycle)
    assert (found.pages, found.each_cycle[0].pages, found.each_cycle[0].blocks) == (None, None, None)
    assert "pages" not in {each.name for each in found.quantities}
    assert quantity(found, "transport_ns").cycle_max == TRANSPORT_NS


def with_host(*, lost: int) -> PageReporting:
    """Three cycles of two reports each, of which the host's first `lost` are missing."""
    flow = flow_of()
    found, raw, spans = batches(flow), [], []
    for number in range(1, 4):
        start_ns = flow.now + number * 10**8
        pair = [report_span(start_ns + at, BLOCKS)._replace(duration_ns=200_000) for at in (1_000, 5_000_000)]
        spans += [*pair, Span(start_ns, 6_000_000, pair[0].tid, function=Function.PAGE_REPORTING_PROCESS)]
        raw += [discard(each.start_ns + OFFSET_NS + 70_000, calls=13, size=4 * MIB) for each in pair]
    flow.spans += spans
    host = host_recording(found, raw=b"".join([*map(pack_batch, found), *raw[lost:]]))
    reporting = analyse(guest_recording(flow), host).page_reporting
    assert reporting is not None
    return reporting


def test_the_host_s_part_of_each_cycle() -> None:
    """A buffer takes 50 us, 20 us of them inside calls."""
    found = with_host(lost=0)
    assert [(each.host_c_ns, each.host_d_ns) for each in found.each_cycle] == [(60_000, 40_000)] * 3
    assert (found.host_c_ns, found.host_d_ns) == (180_000, 120_000)
    assert quantity(found, "host_d_ns").total == 120_000
    assert quantity(found, "host_d_ns").cycle_median == 40_000
    assert all((each.host_c_ns or 0) + (each.host_d_ns or 0) < each.transport_ns for each in found.each_cycle)


def test_a_cycle_of_which_the_host_was_not_seen_whole_has_no_host_s_part() -> None:
    found = with_host(lost=1)
    assert [each.host_d_ns for each in found.each_cycle] == [None, 40_000, 40_000]
    assert found.host_d_ns is None
    assert "host_d_ns" not in {each.name for each in found.quantities}


def test_it_is_a_table() -> None:
    report = report_of(*cycle_spans(S, FIRST, SECOND), *cycle_spans(3 * S))
    text = blocks_text.text_of(describe_report(report))
    assert max(map(len, text.splitlines())) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["reporting"] == ["total", "a", "minute", "a", "cycle:", "min", "median", "max"]
    assert rows["worker"][:2] == ["8.00", "us"]
    assert rows["transport"][-2:] == ["60.0", "us"]
    assert rows["memory"][:2] == ["136", "MiB"]
    assert "; 1 cycle without a report" in text


def test_csv_has_a_row_a_cycle() -> None:
    report = report_of(*cycle_spans(S, FIRST, SECOND), *cycle_spans(3 * S))
    rows = list(csv.DictReader(io.StringIO(render_csv(report))))
    cycles = [row for row in rows if row["level"] == "report_cycle"]
    assert [(row["started_ns"], row["reports"], row["host_d_ns"]) for row in cycles] == [
        (str(S), "2", ""), (str(3 * S), "0", ""),
    ]  # fmt: skip
    total = sum(int(row["worker_ns"]) for row in cycles)
    (worker,) = [row for row in rows if row["name"] == "page_reporting.quantities.worker_ns.total"]
    assert float(worker["value"]) == total


def test_a_minute_of_no_time_is_not_measured() -> None:
    found = report_of(*cycle_spans(S, FIRST), started={"realtime_ns": 1})
    assert found.recorded_ns is None
    assert found.page_reporting is not None
    assert {each.per_minute for each in found.page_reporting.quantities} == {None}
    assert found.page_reporting.pages == pages_in(FIRST)

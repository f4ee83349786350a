# SPDX-License-Identifier: GPL-2.0-or-later
"""The patched driver's operations: what is building, what sending, and how often in mid-window."""

from __future__ import annotations

import pytest
from flows import Expected
from patched_flows import PatchedFlow
from report_checks import assert_adds_up, assert_is, report_of

from balloontrace.format.vocabulary import Function, SpanFlag

GIB_PAGES = 1 << 18


@pytest.mark.parametrize("sends_of_windows", [(1,), (3,), (1, 2, 1)])
@pytest.mark.parametrize("bitmap_is_symbol", [True, False])
def test_known_times_come_back_exactly(sends_of_windows: tuple[int, ...], *, bitmap_is_symbol: bool) -> None:
    flow = PatchedFlow(sends_of_windows=sends_of_windows, bitmap_is_symbol=bitmap_is_symbol)
    flow.resize(GIB_PAGES)
    flow.migrate()
    flow.resize(100)
    report = report_of(flow)
    assert len(report.operations) == 2
    for operation, expected in zip(report.operations, flow.expected, strict=True):
        assert_is(operation, expected)
        assert operation.outcome == "reached"
    assert_adds_up(report)
    outside = {each.what: each.calls for each in report.outside}
    assert outside == {"virtballoon_migratepage (page compaction)": 1, "send of virtballoon_migratepage": 2}


def test_pages_are_those_of_the_whole_operation() -> None:
    flow = PatchedFlow(sends_of_windows=(1, 1))
    flow.resize(GIB_PAGES)
    report = report_of(flow)
    assert report.operations[0].pages == GIB_PAGES
    assert all(check.agrees for check in report.checks)


def test_passes_windows_and_sends_are_counted() -> None:
    flow = PatchedFlow(sends_of_windows=(1, 3), bitmaps=4)
    flow.resize(GIB_PAGES)
    (operation,) = report_of(flow).operations
    use = operation.bitmap
    assert use is not None
    assert (use.windows, use.passes, use.bitmaps, use.mid_window_sends) == (2, 2, 4, 2)
    assert use.bytes_sent == 4 * 640
    assert any("goes on reading them" in sentence for sentence in operation.verdict)


def test_one_bitmap_cannot_be_read_after_it_was_freed() -> None:
    flow = PatchedFlow(sends_of_windows=(2,), bitmaps=1)
    flow.resize(GIB_PAGES)
    (operation,) = report_of(flow).operations
    assert not any("goes on reading" in sentence for sentence in operation.verdict)


def test_what_was_not_traced_is_not_measured() -> None:
    flow = PatchedFlow(bitmap_is_symbol=False)
    flow.resize(GIB_PAGES)
    (operation,) = report_of(flow).operations
    assert operation.bitmap is not None
    assert (operation.bitmap.passes, operation.bitmap.bitmaps) == (None, None)
    assert operation.bitmap.windows == 1


def test_waiting_for_memory_is_seen_whatever_the_size() -> None:
    flow = PatchedFlow()
    expected = Expected(0, "inflate", flow.now)
    flow.interrupt(GIB_PAGES)
    flow.work(expected, granted=(100_000,), max_items=1)
    (operation,) = report_of(flow).operations
    assert operation.outcome == "stalled"
    assert operation.short_work_items == 1


@pytest.mark.parametrize("target_pages", [GIB_PAGES, 0], ids=["inflate", "deflate"])
def test_where_no_call_has_a_queue_the_size_tells_the_direction(target_pages: int) -> None:
    """Of a compiler's variant of send_resp_data the arguments are not known, nor was the queue around it."""
    flow = PatchedFlow(sends_of_windows=(2, 1))
    for size_pages in (GIB_PAGES // 2, target_pages):
        flow.resize(size_pages)
    flow.spans = [span._replace(flags=span.flags & ~SpanFlag.QUEUE) for span in flow.spans]
    flow.drop(Function.LEAK_BALLOON)
    report = report_of(flow)
    last = report.operations[-1]
    assert (last.kind, last.outcome) == ("inflate" if target_pages else "deflate", "reached")
    assert (last.pages, last.sends) == (GIB_PAGES // 2, 3)
    # How large the balloon was before the first one, nothing in the recording says.
    assert len(report.operations) == 1


def test_without_send_resp_data_the_windows_stand_in_for_sends() -> None:
    flow = PatchedFlow(sends_of_windows=(2, 1))
    flow.resize(GIB_PAGES)
    flow.drop(Function.SEND_RESP_DATA)
    report = report_of(flow)
    assert_adds_up(report)
    (operation,) = report.operations
    assert operation.sends == 2
    sending = next(row for row in operation.stages if row.stage == "b+c+d")
    records_ns = 3 * flow.times.records  # what was written between the sends cannot be told from them
    assert sending.total_ns == flow.expected[0].bcd_ns + records_ns
    assert operation.pages == GIB_PAGES


def test_without_extend_page_bitmap_its_time_is_in_a_all_the_same() -> None:
    flow = PatchedFlow()
    flow.resize(GIB_PAGES)
    flow.drop(Function.EXTEND_PAGE_BITMAP)
    (operation,) = report_of(flow).operations
    assert [row.stage for row in operation.stages][:2] == ["a", "b.build"]
    assert operation.stages[0].total_ns == flow.expected[0].a_ns


def test_pages_that_nothing_tells_are_not_measured() -> None:
    flow = PatchedFlow()
    flow.resize(GIB_PAGES)
    flow.silence(SpanFlag.PAGES | SpanFlag.RESULT)
    (operation,) = report_of(flow).operations
    assert (operation.pages, operation.rate_bytes_per_s, operation.actual_before_pages) == (None, None, None)
    assert operation.actual_after_pages == GIB_PAGES


def without_the_first_send(flow: PatchedFlow) -> PatchedFlow:
    first = next(span for span in flow.spans if span.function == Function.SEND_RESP_DATA)
    flow.spans.remove(first)
    return flow


def test_a_window_without_a_send_is_no_send() -> None:
    flow = PatchedFlow(sends_of_windows=(1, 1, 2))
    flow.resize(GIB_PAGES)
    report = report_of(without_the_first_send(flow))
    assert_adds_up(report)
    (operation,) = report.operations
    assert operation.sends == 3
    assert operation.bitmap is not None
    assert (operation.bitmap.windows, operation.bitmap.mid_window_sends) == (3, 1)
    sending = next(row for row in operation.stages if row.stage == "b+c+d")
    assert sending.total_ns == flow.expected[0].bcd_ns - flow.times.send


def test_an_operation_that_sends_nothing_is_one() -> None:
    flow = PatchedFlow()
    flow.resize(1)
    without_the_first_send(flow)
    flow.resize(100)
    report = report_of(flow)
    assert_adds_up(report)
    first, second = report.operations
    assert (first.kind, first.outcome, first.pages, first.sends) == ("inflate", "reached", 1, 0)
    assert first.bitmap is not None
    assert (first.bitmap.windows, first.bitmap.mid_window_sends) == (1, 0)
    assert (second.pages, second.sends) == (99, 1)

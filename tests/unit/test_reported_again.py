# SPDX-License-Identifier: GPL-2.0-or-later
"""Free memory reported again: pages of captured reports that an earlier one had named."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import pytest
import synthetic
from flows import Flow, Payload
from page_reporting import TID, TRANSPORT_NS, WORK_NS, cycle_spans, pages_in

from balloontrace.analysis.make_report import Examined, examine
from balloontrace.export.event_rows import described_events
from balloontrace.format.balloon_size import kernel_page_in_pages
from balloontrace.format.vocabulary import Function
from balloontrace.render import blocks_text
from balloontrace.render.report.sections import describe_report
from balloontrace.results.page_reporting import PageReporting

REPORT = Function.VIRTBALLOON_FREE_PAGE_REPORT
ORIGIN = 1 << 42
Blocks = Sequence[tuple[int, int]]  # first page, order


def pack_blocks(blocks: Blocks) -> bytes:
    return b"".join(struct.pack("<QII", ORIGIN + page, 4096 << order, 0) for page, order in blocks)


def flow_of(*cycles: Sequence[Blocks]) -> Flow:
    """A cycle every two seconds, with reports of these blocks."""
    flow = Flow()
    for number, reports in enumerate(cycles):
        start_ns = (2 * number + 1) * 10**9
        flow.spans += cycle_spans(start_ns, *(orders_of(blocks) for blocks in reports))
        for place, blocks in enumerate(reports):
            entered_ns = start_ns + WORK_NS + place * (TRANSPORT_NS + WORK_NS)
            flow.payloads.append(Payload(entered_ns, TID, REPORT, pack_blocks(blocks)))
    return flow


def orders_of(blocks: Blocks) -> Mapping[int, int]:
    orders = [order for _, order in blocks]
    return {order: orders.count(order) for order in orders}


def examined_of(flow: Flow, **changes: object) -> Examined:
    return examine(synthetic.recording(flow, changes=changes))


def reporting_of(flow: Flow, **changes: object) -> PageReporting:
    found = examined_of(flow, **changes).report.page_reporting
    assert found is not None
    return found


def not_measured(flow: Flow, **changes: object) -> list[str]:
    said = examined_of(flow, **changes).report.not_measured
    return [each for each in said if each.startswith("which free memory was reported again")]


def test_nothing_is_reported_again_the_first_time() -> None:
    found = reporting_of(flow_of([[(0, 9), (512, 9)], [(4096, 10)]], [[(2048, 9)]]))
    assert (found.pages_again, found.again_ratio, found.cycles_again) == (0, 0.0, 0)


def test_the_same_block_twice() -> None:
    found = reporting_of(flow_of([[(0, 9), (512, 9)]], [[(512, 9), (1024, 9)]], []))
    assert (found.pages_again, found.again_ratio) == (512, 512 / found.pages if found.pages else None)
    assert (found.cycles_again, found.cycles) == (1, 3)


def test_blocks_that_have_grown_together_or_come_apart() -> None:
    """A block of order 10 over one of order 9; small ones in and beside a large one, before the first too."""
    grown = reporting_of(flow_of([[(512, 9)]], [[(0, 10)]]))
    assert grown.pages_again == 512
    apart = reporting_of(flow_of([[(1024, 10)]], [[(1024, 0), (2047, 0), (2048, 0), (-1, 0)]]))
    assert apart.pages_again == 2


def test_a_page_reported_three_times_counts_twice() -> None:
    assert reporting_of(flow_of([[(0, 4)], [(0, 4)]], [[(0, 4)]])).pages_again == 32


def test_pages_of_64_kib() -> None:
    """Numbers of pages and lengths are in pages of the kernel's size."""
    flow = flow_of([[(0, 5), (2, 5)]])
    flow.spans[0] = flow.spans[0]._replace(pages=64)
    found = reporting_of(flow, machine={"page_size_bytes": 65536})
    assert found.pages_again == 0
    flow.payloads[0] = Payload(*flow.payloads[0][:3], pack_blocks([(0, 5), (1, 5)]))
    assert reporting_of(flow, machine={"page_size_bytes": 65536}).pages_again == 16


@pytest.mark.parametrize("page_bytes", [1 << 21, 1 << 32, 1 << 62])
def test_a_page_size_of_no_kernel_is_not_known(page_bytes: int) -> None:
    """Then pages are taken for 4 KiB, as where the recording names none."""
    found = reporting_of(flow_of([[(0, 9)], [(0, 9)]]), machine={"page_size_bytes": page_bytes})
    assert (found.pages, found.pages_again) == (1024, 512)
    assert kernel_page_in_pages(page_bytes) is None
    assert kernel_page_in_pages(1 << 18) == 64


def test_a_report_that_failed_named_nothing() -> None:
    flow = flow_of([[(0, 9)], [(0, 9)]])
    flow.spans[0] = flow.spans[0]._replace(result=-5)
    found = reporting_of(flow)
    assert (found.failed, found.pages, found.pages_again) == (1, 512, 0)


def test_without_capture_it_is_said_how() -> None:
    flow = flow_of([[(0, 9)]])
    flow.payloads.clear()
    found = reporting_of(flow)
    assert (found.pages_again, found.again_ratio, found.cycles_again) == (None, None, None)
    assert not_measured(flow) == ["which free memory was reported again: record --capture payload tells"]
    (said,) = not_measured(flow, capture="payload", layout={"offsets_bytes": {}})
    assert "scatterlist.page_link" in said


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pack_blocks([(0, 9)])[:-4],
        pack_blocks([(0, 9), (512, 9)]),
        pack_blocks([(0, 8)]),
        pack_blocks([(1 << 60, 9)]),
        struct.pack("<QII", ORIGIN, 4095, 0),
    ],
    ids=["none", "half a block", "too many", "too few pages", "no page", "half a page"],
)
def test_what_cannot_be_the_report_makes_nothing_known(data: bytes) -> None:
    flow = flow_of([[(0, 9)], [(0, 9)]])
    flow.payloads[0] = Payload(*flow.payloads[0][:3], data)
    assert reporting_of(flow).pages_again is None
    assert not_measured(flow) == ["which free memory was reported again: 1 report was not captured whole"]


def test_cycles_that_were_not_traced() -> None:
    flow = flow_of([[(0, 9)], [(0, 9)]])
    flow.spans = [span for span in flow.spans if span.function == REPORT]
    found = reporting_of(flow)
    assert (found.pages_again, found.cycles_again) == (512, None)


def test_sends_are_told_apart_from_reports() -> None:
    """Payloads of reports alone say nothing of what sends named."""
    flow = flow_of([[(0, 9)]])
    flow.resize(512)
    report = examined_of(flow).report
    assert [each.payload for each in report.operations] == [None]
    assert [each for each in report.not_measured if each.startswith("what sends named")]
    assert not [each for each in report.warnings if "payloads" in each]


def test_a_report_says_it_in_words() -> None:
    report = examined_of(flow_of([[(0, 10)]], [[(0, 10), (4096, 10)]])).report
    shown = blocks_text.text_of(describe_report(report))
    assert "reported again: 4.00 MiB (33.3 %), in 1 of 2 cycles" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_export_has_each_report() -> None:
    examined = examined_of(flow_of([[(0, 9)]], [[(0, 10)]]))
    rows = [each for each in described_events(examined) if each["type"] == "payload"]
    told = [(row["function"], row["state"], row["pages"], row["new_pages"]) for row in rows]
    assert told == [(REPORT.symbol, "whole", 512, 512), (REPORT.symbol, "whole", 1024, 512)]
    assert [(row["operation"], row["first_pfn"]) for row in rows] == [(None, None)] * 2
    assert pages_in({9: 1}) == rows[0]["pages"]

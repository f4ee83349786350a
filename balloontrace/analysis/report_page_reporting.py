# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page reporting: reports to the host, and the cycles of the guest's kernel around them.

It moves no balloon and has no target, so it is part of no operation and of no stage.
"""

from __future__ import annotations

from typing import TypedDict

from balloontrace.analysis.columns import Mask, Spans
from balloontrace.analysis.guest_side import GuestEvents, GuestRecording, captures
from balloontrace.analysis.metadata import integer, mapping
from balloontrace.analysis.page_reports import blocks_by_order, blocks_of, reported
from balloontrace.analysis.reporting_cycles import (
    NS_PER_MINUTE,
    HostOfReports,
    find_cycles,
    sum_up_quantities,
)
from balloontrace.format.balloon_size import kernel_page_in_pages
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.results.page_reporting import OrderOfBlocks, PageReporting


def measure_reporting(
    guest: GuestRecording,
    events: GuestEvents,
    recorded_ns: int | None,
    host_ns: tuple[int | None, int | None] = (None, None),
    host: HostOfReports | None = None,
) -> PageReporting | None:
    """What was reported in `recorded_ns`; None where reports were not traced.

    `host_ns` are c and d of all of it, `host` has them of each report.
    """
    if Function.VIRTBALLOON_FREE_PAGE_REPORT not in guest.traced:
        return None
    spans, nesting = events.spans, events.operations.nesting
    all_reports, answered = spans.of(Function.VIRTBALLOON_FREE_PAGE_REPORT), reported(spans)
    transport_ns, blocks = int(spans.int64("duration_ns")[answered].sum()), blocks_of(spans)[answered]
    known = bool(spans.has(SpanFlag.PAGES)[answered].all())
    pages = int(spans.measured("pages", SpanFlag.PAGES)[answered].sum()) if known else None
    again = _again(guest, events, pages)
    # A report is made in a cycle. Where none is here, its span is lost, or it was under way at the end.
    cycles_seen = spans.of(Function.PAGE_REPORTING_PROCESS).any() or not answered.any()
    traced = Function.PAGE_REPORTING_PROCESS in guest.traced and bool(cycles_seen)
    cycles = find_cycles(spans, nesting, host, events.reports if again else None) if traced else ()
    worker_ns = sum(cycle.worker_ns for cycle in cycles) if traced else None
    totals = {
        "reports": int(answered.sum()),
        "pages": pages,
        "worker_ns": worker_ns,
        "transport_ns": transport_ns,
        "host_c_ns": host_ns[0],
        "host_d_ns": host_ns[1],
        "pages_again": again.get("pages_again"),
    }
    settings = mapping(guest.recording.metadata, "page_reporting")
    return PageReporting(
        reports=int(answered.sum()),
        failed=int(all_reports.sum()) - int(answered.sum()),
        blocks=int(blocks.sum()) if blocks.all() else None,
        pages=pages,
        pages_per_minute=pages * NS_PER_MINUTE / recorded_ns if pages is not None and recorded_ns else None,
        transport_ns=transport_ns,
        cycles=len(cycles) if traced else None,
        cycles_ns=sum(cycle.wall_ns for cycle in cycles) if traced else None,
        worker_ns=worker_ns,
        from_order=integer(settings, "order"),
        delay_ms=integer(settings, "delay_ms"),
        orders=_orders(guest, spans, answered, pages),
        host_c_ns=host_ns[0],
        host_d_ns=host_ns[1],
        **again,
        quantities=sum_up_quantities(totals, cycles, recorded_ns),
        each_cycle=cycles,
    )


class _Again(TypedDict, total=False):
    pages_again: int
    again_ratio: float | None
    cycles_again: int


def _again(guest: GuestRecording, events: GuestEvents, pages: int | None) -> _Again:
    """What was reported again; nothing where that is not known."""
    reports = events.reports
    if not captures(guest) or not reports.are_whole or pages is None:
        return {}
    again = int(reports.pages_again.sum())
    found: _Again = {"pages_again": again, "again_ratio": again / pages if pages else None}
    if Function.PAGE_REPORTING_PROCESS in guest.traced:
        found["cycles_again"] = reports.cycles_again(events.operations.nesting)
    return found


def _orders(
    guest: GuestRecording, spans: Spans, answered: Mask, pages: int | None
) -> tuple[OrderOfBlocks, ...]:
    """Blocks by order; none where they do not add up to the pages."""
    unit_pages = kernel_page_in_pages(guest.header.machine.page_size_bytes) or 1
    counts = blocks_by_order(spans, answered).sum(axis=0).tolist()
    found = tuple(
        OrderOfBlocks(order, blocks, (blocks << order) * unit_pages)
        for order, blocks in enumerate(counts)
        if blocks
    )
    return found if pages == sum(each.pages for each in found) else ()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Cycles of free page reporting with known answers, as spans beside those of a flow."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from flows import Span

from balloontrace.format.vocabulary import Function, SpanFlag

TRANSPORT_NS, WORK_NS = 30_000, 2_000
TID = 90
Orders = Mapping[int, int]


def report_span(start_ns: int, orders: Orders, *, result: int = 0, tid: int = TID) -> Span:
    """One report of so many blocks of each order, answered after TRANSPORT_NS."""
    counts = bytes(orders.get(order, 0) for order in range(16))
    target_pages, actual_pages, config_ns = struct.unpack("<IIQ", counts)
    return Span(
        start_ns,
        TRANSPORT_NS,
        tid,
        function=Function.VIRTBALLOON_FREE_PAGE_REPORT,
        flags=SpanFlag.DEVICE | SpanFlag.PAGES | SpanFlag.RESULT,
        pages=pages_in(orders),
        result=result,
        target_pages=target_pages,
        actual_pages=actual_pages,
        config_ns=config_ns,
        passes=sum(orders.values()),
    )


def cycle_spans(start_ns: int, *reports: Orders, tid: int = TID) -> list[Span]:
    """A cycle with these reports; WORK_NS of work before each and at its end."""
    spans, now_ns = [], start_ns + WORK_NS
    for orders in reports:
        spans.append(report_span(now_ns, orders, tid=tid))
        now_ns += TRANSPORT_NS + WORK_NS
    function = Function.PAGE_REPORTING_PROCESS
    return [*spans, Span(start_ns, now_ns - start_ns, tid, function=function)]


def pages_in(orders: Orders) -> int:
    """Pages of blocks by order."""
    return sum(blocks << order for order, blocks in orders.items())

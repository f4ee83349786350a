# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that moved while a guest was recorded, by the kernel's own count, and were not seen by the probes.

Probes may be attached and never run: kernel.ftrace_enabled=0, kprobes disarmed. Nothing but a count from
elsewhere tells (`moved`). Pages are balloon pages, of 4 KiB.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from balloontrace.format.guest_counters import Counters
from balloontrace.format.guest_layout import RING_HEADER_BYTES, SPAN
from balloontrace.format.moved_pages import Moved
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES, Function, SpanFlag, Status
from balloontrace.system.kernel import Layout
from balloontrace.trace.guest.plan import GuestPlan

UNIT_PAGES = max(1, os.sysconf("SC_PAGE_SIZE") // BALLOON_PAGE_BYTES)
"""Balloon pages in one page of this kernel, which is what /proc/vmstat counts."""

SEND_PAGES = 256
"""VIRTIO_BALLOON_ARRAY_PFNS_MAX: what the stock driver can have moved and not sent yet."""

_COUNTING = (Function.TELL_HOST, Function.SET_PAGE_BITMAP)
# What a page cannot move without.
_MOVING = (
    Function.UPDATE_BALLOON_SIZE_FUNC, Function.FILL_BALLOON, Function.LEAK_BALLOON, Function.TELL_HOST,
    Function.SEND_RESP_DATA, Function.SET_PAGE_BITMAP,
)  # fmt: skip
_HOLDING = (Function.UPDATE_BALLOON_SIZE_FUNC, Function.LEAK_BALLOON)


def seen_by_probes(
    counters: Counters, plan: GuestPlan, layout: Layout, moved: Moved, missed: Mapping[Function, int | None]
) -> int | None:
    """Pages the programs have counted; None where the driver's structures do not show them.

    A call that was seen in part, or that the kernel says it `missed`, counts as a lost event: it may have
    sent as much as a send does.
    """
    functions = counters.functions
    if not any(functions[each].entries or functions[each].returns for each in _MOVING):
        return 0
    attached = {
        probe.function for probe in plan.probes if probe.status is Status.ATTACH and probe.arguments_trusted
    }
    wanted = set(_COUNTING) if plan.patched else {Function.TELL_HOST}
    if not wanted <= attached or layout.get("virtio_balloon", "num_pfns") is None:
        return None
    in_part = {each: functions[each].no_state + functions[each].overwritten for each in _COUNTING}
    lost = {each: calls + (missed.get(each) or 0) for each, calls in in_part.items()}
    if lost[Function.SET_PAGE_BITMAP]:
        return None
    pages = sum(functions[each].pages for each in _COUNTING) + SEND_PAGES * lost[Function.TELL_HOST]
    if functions[Function.SEND_RESP_DATA].entries:
        return pages  # a migration is sent without tell_host
    migrated = min(moved.migrated, functions[Function.VIRTBALLOON_MIGRATEPAGE].returns * UNIT_PAGES)
    return max(0, pages - 2 * migrated)  # each is sent both ways


def under_way(counters: Counters, plan: GuestPlan, devices: int, *, moving: bool) -> int | None:
    """Pages that a call under way can have moved: of the page-bitmap driver any number, which is None.

    `moving` tells that pages moved after the counters had been read.
    """
    held = any(counters.functions[each].entries > counters.functions[each].returns for each in _HOLDING)
    if held and plan.patched:
        return None
    return SEND_PAGES * max(1, devices) if held or moving else 0


def migrations_given_up(counters: Counters, moved: Moved) -> int:
    """At most so many pages of migrations that ended otherwise than as one."""
    returned = counters.functions[Function.VIRTBALLOON_MIGRATEPAGE].returns * UNIT_PAGES
    return max(0, returned - moved.migrated)


def pages_of_spans(raw: bytes | memoryview) -> int:
    """The pages that spans as drained say were sent: for those that could not be written."""
    stride = RING_HEADER_BYTES + SPAN.size_bytes
    total = 0
    for start in range(0, len(raw) - stride + 1, stride):
        (span,) = SPAN.rows(raw[start + RING_HEADER_BYTES : start + stride])
        if span["function"] in _COUNTING and span["flags"] & SpanFlag.PAGES:
            total += span["pages"]
    return total

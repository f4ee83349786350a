# SPDX-License-Identifier: GPL-2.0-or-later
"""The one line a terminal shows while recording either side, from two looks at the shared counters."""

from __future__ import annotations

from balloontrace.format.guest_counters import Counters, DeviceState
from balloontrace.format.host_counters import HostCounters
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES, Function
from balloontrace.units import name_of_many

_MIB_PAGES = (1 << 20) // BALLOON_PAGE_BYTES


def progress_line(before: Counters, now: Counters, elapsed_ns: int) -> str:
    """What moved between two looks `elapsed_ns` apart, and where the driver's time went since the start."""
    device = max(now.devices, key=lambda state: state.changed_ns)
    work = now.functions[Function.UPDATE_BALLOON_SIZE_FUNC]
    if not work.returns:
        return "waiting for the balloon to move"
    # With the page-bitmap patch tell_host is what leads to sends, and counts no pages.
    by_bitmap = now.functions[Function.SEND_RESP_DATA].returns > 0
    send = now.functions[Function.SEND_RESP_DATA if by_bitmap else Function.TELL_HOST]
    rate = (_moved_pages(now) - _moved_pages(before)) / _MIB_PAGES / (elapsed_ns / 1e9) if elapsed_ns else 0.0
    share = f"{100 * send.duration_ns / work.duration_ns:.0f} %" if work.duration_ns else "-"
    sends = f"{send.returns} {name_of_many(send.returns, 'send')}"
    return f"{_position(device)}, {rate:.0f} MiB/s, {sends}; time from sending to going on: {share}"


def _moved_pages(counters: Counters) -> int:
    return sum(counters.functions[each].pages for each in (Function.TELL_HOST, Function.SET_PAGE_BITMAP))


def _position(device: DeviceState) -> str:
    if not device.changed_ns:
        return "balloon moving"
    actual, target = device.actual_pages // _MIB_PAGES, device.target_pages // _MIB_PAGES
    return f"balloon {actual} MiB, target {target} MiB"


def host_progress_line(before: HostCounters, now: HostCounters, elapsed_ns: int) -> str:
    """What a process gave back between two looks `elapsed_ns` apart, and how long it was at it."""
    if not now.all_calls:
        return "waiting for the process to serve its balloon"
    calls = now.all_calls - before.all_calls
    duration_ns = sum(now.calls[call].duration_ns - before.calls[call].duration_ns for call in now.calls)
    gib = sum(sums.bytes for sums in now.calls.values()) / (1 << 30)
    share = f"{100 * duration_ns / elapsed_ns:.0f} %" if elapsed_ns else "-"
    buffers = f"{now.batches} {name_of_many(now.batches, 'buffer')} served"
    made = f"{now.all_calls} {name_of_many(now.all_calls, 'call')} (+{calls})"
    return f"{buffers}, {made} on {gib:.2f} GiB; time in calls: {share}"


def all_progress_line(vms: int, batches: int, calls: int, new_calls: int) -> str:
    """What many processes have served so far; `new_calls` are those since the last look."""
    served = f"{batches} {name_of_many(batches, 'buffer')} served"
    return f"{vms} {name_of_many(vms, 'VM')}: {served}, {calls} {name_of_many(calls, 'call')} (+{new_calls})"

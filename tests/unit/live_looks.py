# SPDX-License-Identifier: GPL-2.0-or-later
"""What was seen at a moment of a balloon that moves, for views to be made of."""

from __future__ import annotations

from dataclasses import replace

from balloontrace.format.guest_counters import Counters, DeviceState, FunctionCounts
from balloontrace.format.guest_layout import BUCKETS, DEVICES, LIVE
from balloontrace.format.host_counters import CallSums, HostCounters
from balloontrace.format.live_counters import (
    LiveBatches,
    LiveDevice,
    LiveSums,
    parse_live,
)
from balloontrace.format.vocabulary import Call, Function
from balloontrace.live.make_views import (
    GuestLook,
    HostLook,
)

S_NS = 1_000_000_000
MIB_PAGES = 256
NOWHERE = DeviceState(0, 0, 0, 0, False)
NOTHING = FunctionCounts(0, 0, 0, 0, 0, 0, 0, 0)
EMPTY = parse_live(bytes(LIVE.size_bytes))
NO_CALL = CallSums(0, 0, 0, 0, 0, 0, (0,) * BUCKETS)
TITLE = "balloontrace top: guest"


def guest_look(
    time_s: float, mib: int | None, live: LiveSums = EMPTY, lost: int = 0, **more: int
) -> GuestLook:
    """The balloon at `mib` MiB, `live` summed up by then."""
    functions = dict.fromkeys(Function, NOTHING)
    functions[Function.TELL_HOST] = replace(NOTHING, entries=live.sends + lost, no_state=lost)
    states = [NOWHERE] * DEVICES
    if live.items:
        states[4] = DeviceState(live.devices[4].target_pages, 0, 0, int(time_s * S_NS), True)
    pages = None if mib is None else mib * MIB_PAGES
    return GuestLook(int(time_s * S_NS), Counters(functions, tuple(states)), live, pages, more.get("bpf_ns"))


def moved(mib: int, target_mib: int, **more: int) -> LiveSums:
    """The sums after `mib` MiB were inflated in as many work items of 1 ms: 600 us a, 300 us b+c+d."""
    devices = list(EMPTY.devices)
    devices[4] = LiveDevice(more.pop("entered_ns", 0), 0, target_mib * MIB_PAGES)
    buckets = dict(EMPTY.buckets)
    buckets[Function.TELL_HOST] = tuple(mib if bucket == 18 else 0 for bucket in range(BUCKETS))
    summed = {
        "items": mib,
        "item_ns": mib * 1_000_000,
        "allocate_ns": mib * 600_000,
        "send_ns": mib * 300_000,
        "requeue_ns": mib * 10_000,
        "sends": mib,
        "inflated_pages": mib * MIB_PAGES,
        **more,
    }
    return replace(EMPTY, devices=tuple(devices), buckets=buckets, **summed)


def host_look(time_s: float, pages: int, *, errors: int = 0, punched: int = 0) -> HostLook:
    """One process after `pages` calls of madvise, 2 us each, in buffers of 256 which took 1 ms each."""
    calls = dict.fromkeys(Call, NO_CALL)
    buckets = tuple(pages if bucket == 10 else 0 for bucket in range(BUCKETS))
    if pages:
        calls[Call.MADVISE_DONTNEED] = CallSums(pages, pages * 4096, pages * 2000, errors, 0, 0, buckets)
    if punched:
        calls[Call.FALLOCATE_PUNCH_HOLE] = CallSums(punched, punched * 4096, punched * 2000, 0, 0, 0, buckets)
    buffers = pages // 256
    counters = HostCounters(buffers, 0, 0, 0, 0, 0, calls)
    batches = LiveBatches(buffers, buffers * 1_000_000, buffers * 512_000, 1_000_000)
    return HostLook(int(time_s * S_NS), counters, batches, pages * 100)

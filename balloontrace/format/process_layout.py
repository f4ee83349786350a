# SPDX-License-Identifier: GPL-2.0-or-later
"""Where many processes at once have what one has in `format/host_layout`.

Mirrored from bpf/balloon_batches.h. Each has slots, eventfds and sums of its own; batches say whose they are.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from balloontrace.format.guest_layout import RING_HEADER_BYTES
from balloontrace.format.host_counters import (
    CallSums,
    HostCounters,
    parse_host_counters,
    unfinished_batches,
    used_slots,
)
from balloontrace.format.host_layout import BATCH, EVENTFD, LIVE_BATCHES, THREAD
from balloontrace.format.struct_layout import lay_out

PROCESS_SLOTS = 32
PROCESS_EVENTFDS = 32

_EVENTFDS = lay_out(("at", EVENTFD, PROCESS_EVENTFDS), "u32 last_number", "u32 reserved")
PROCESS = lay_out(
    "u64 calls", "u32 number", "u32 reserved", ("eventfds", _EVENTFDS, 1),
    ("live", LIVE_BATCHES, PROCESS_SLOTS), ("slots", THREAD, PROCESS_SLOTS),
)  # fmt: skip
"""What each process has of its own: `struct bt_process`."""

PROCESS_BATCH = lay_out(("batch", BATCH, 1), "u32 process", "u32 reserved")

TRACED, TRACED_WAYS = 4096, 4
TRACED_PROCESS = lay_out("u32 pid", "u32 place")
TRACED_BYTES = TRACED * TRACED_PROCESS.size_bytes

PROCESS_FIELD = ("process", "u32", PROCESS_BATCH.offsets["process"])
"""The field of a batch that says whose it is."""

PROCESS_BATCH_LAYOUT: Mapping[str, object] = {
    "stride_bytes": RING_HEADER_BYTES + PROCESS_BATCH.size_bytes,
    "header_bytes": RING_HEADER_BYTES,
    "fields": [
        *(list(field) for field in BATCH.fields),
        ["process", "u32", PROCESS_BATCH.offsets["process"]],
    ],
}
"""`batch_layout` of a recording of many processes."""

_NOTHING_COUNTED = bytes(THREAD.size_bytes - THREAD.offsets["batches"])
_HEADER = struct.Struct("=II")
_OF_PROCESS = struct.Struct("=II")


def counting_slots(raw: bytes) -> bytes:
    """Of slots of `struct bt_thread` those that have counted anything; a vCPU that serves nothing has not."""
    used, size_bytes, counts_at = used_slots(raw), THREAD.size_bytes, THREAD.offsets["batches"]
    slots = (used[at : at + size_bytes] for at in range(0, len(used), size_bytes))
    return b"".join(slot for slot in slots if slot[counts_at:] != _NOTHING_COUNTED)


def unfinished_of_process(raw: bytes, number: int) -> bytes:
    """`host_counters.unfinished_batches` of one process's slots, as records that say whose they are."""
    stride = _HEADER.size + BATCH.size_bytes
    single = unfinished_batches(raw)
    records = (single[at + _HEADER.size : at + stride] for at in range(0, len(single), stride))
    header, process = _HEADER.pack(PROCESS_BATCH.size_bytes, 0), _OF_PROCESS.pack(number, 0)
    return b"".join(header + record + process for record in records)


NO_COUNTERS = parse_host_counters(b"")
"""Those of a process that has done nothing yet."""


def added(one: HostCounters, other: HostCounters) -> HostCounters:
    """The sums of two processes together."""
    return HostCounters(
        one.batches + other.batches,
        one.lost + other.lost,
        one.unmatched_returns + other.unmatched_returns,
        one.overwritten + other.overwritten,
        one.no_state + other.no_state,
        one.thp_splits + other.thp_splits,
        {call: _added_sums(sums, other.calls[call]) for call, sums in one.calls.items()},
    )


def _added_sums(one: CallSums, other: CallSums) -> CallSums:
    return CallSums(
        one.calls + other.calls,
        one.bytes + other.bytes,
        one.duration_ns + other.duration_ns,
        one.errors + other.errors,
        one.no_bytes + other.no_bytes,
        one.freed_nothing + other.freed_nothing,
        tuple(map(sum, zip(one.buckets, other.buckets, strict=True))),
        one.freed_bytes + other.freed_bytes,
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""The sums that BPF programs keep where nothing is recorded, of either side."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from balloontrace.format.guest_layout import BUCKETS, LIVE, LIVE_DEVICE
from balloontrace.format.host_layout import LIVE_BATCHES
from balloontrace.format.vocabulary import Function

_BUCKETS = struct.Struct(f"={BUCKETS}Q")


@dataclass(frozen=True)
class LiveDevice:
    """`struct bt_live_device`: where the work item of a device stands."""

    entered_ns: int
    left_ns: int
    target_pages: int
    inflates: int = 0
    is_short: int = 0


@dataclass(frozen=True)
class LiveSums:
    """One look at `struct bt_live`: stages over the work items that ended, calls by how long they took."""

    items: int
    item_ns: int
    allocate_ns: int
    build_ns: int
    send_ns: int
    requeue_ns: int
    sends: int
    inflated_pages: int
    deflated_pages: int
    unknown_sends: int
    failed_allocations: int
    run_delay_ns: int
    run_delay_items: int
    woken_ns: int
    woken_sends: int
    oom_pages: int
    superseded: int
    devices: tuple[LiveDevice, ...]
    buckets: dict[Function, tuple[int, ...]]


def parse_live(raw: bytes) -> LiveSums:
    """Decode `struct bt_live` of this machine's byte order."""
    devices_at, buckets_at = LIVE.offsets["devices"], LIVE.offsets["buckets"]
    devices = LIVE_DEVICE.rows(raw[devices_at:buckets_at])
    rows = list(_BUCKETS.iter_unpack(raw[buckets_at : LIVE.size_bytes]))
    (sums,) = LIVE.rows(raw[: LIVE.size_bytes])
    return LiveSums(
        devices=tuple(LiveDevice(**device) for device in devices),
        buckets={function: tuple(rows[function]) for function in Function},
        **sums,
    )


@dataclass(frozen=True)
class LiveBatches:
    """`struct bt_live_batches`, over all slots: buffers of which kick and completion were seen."""

    delimited: int
    served_ns: int
    calls_ns: int
    longest_ns: int


def parse_live_batches(raw: bytes) -> LiveBatches:
    """Add up the slots of `struct bt_live_slots`, in this machine's byte order."""
    slot_bytes = LIVE_BATCHES.size_bytes
    rows = list(LIVE_BATCHES.decoder.iter_unpack(raw[: len(raw) // slot_bytes * slot_bytes]))
    delimited, served_ns, calls_ns, longest_ns = zip(*rows, strict=True) if rows else ((), (), (), ())
    return LiveBatches(sum(delimited), sum(served_ns), sum(calls_ns), max(longest_ns, default=0))

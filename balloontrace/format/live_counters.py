# SPDX-License-Identifier: GPL-2.0-or-later
"""The sums that BPF programs keep where nothing is recorded, of either side."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from balloontrace.format.guest_layout import (
    BUCKETS,
    DEVICES,
    FUNCTIONS,
    LIVE_BUCKETS_OFFSET,
    LIVE_BYTES,
    LIVE_DEVICE_BYTES,
    LIVE_DEVICES_OFFSET,
    LIVE_FIELDS,
)
from balloontrace.format.host_layout import LIVE_BATCHES_BYTES
from balloontrace.format.vocabulary import Function

_SUMS = struct.Struct(f"={len(LIVE_FIELDS)}Q")
_DEVICE = struct.Struct("=QQII")
_BUCKETS = struct.Struct(f"={BUCKETS}Q")
_BATCHES = struct.Struct("=4Q")

assert _DEVICE.size == LIVE_DEVICE_BYTES
assert _BATCHES.size == LIVE_BATCHES_BYTES


@dataclass(frozen=True)
class LiveDevice:
    """`struct bt_live_device`: where the work item of a device stands."""

    entered_ns: int
    left_ns: int
    target_pages: int


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
    devices: tuple[LiveDevice, ...]
    buckets: dict[Function, tuple[int, ...]]


def parse_live(raw: bytes) -> LiveSums:
    """Decode `struct bt_live` of this machine's byte order."""
    devices = tuple(
        LiveDevice(entered_ns, left_ns, target_pages)
        for entered_ns, left_ns, target_pages, _ in _DEVICE.iter_unpack(
            raw[LIVE_DEVICES_OFFSET : LIVE_DEVICES_OFFSET + DEVICES * LIVE_DEVICE_BYTES]
        )
    )
    rows = list(_BUCKETS.iter_unpack(raw[LIVE_BUCKETS_OFFSET:LIVE_BYTES]))
    assert len(rows) == FUNCTIONS
    buckets = {function: tuple(rows[function]) for function in Function}
    sums = {name: value for (name, _, _), value in zip(LIVE_FIELDS, _SUMS.unpack_from(raw), strict=True)}
    return LiveSums(devices=devices, buckets=buckets, **sums)


@dataclass(frozen=True)
class LiveBatches:
    """`struct bt_live_batches`, over all slots: buffers of which kick and completion were seen."""

    delimited: int
    served_ns: int
    calls_ns: int
    longest_ns: int


def parse_live_batches(raw: bytes) -> LiveBatches:
    """Add up the slots of `struct bt_live_slots`, in this machine's byte order."""
    rows = list(_BATCHES.iter_unpack(raw[: len(raw) // _BATCHES.size * _BATCHES.size]))
    delimited, served_ns, calls_ns, longest_ns = zip(*rows, strict=True) if rows else ((), (), (), ())
    return LiveBatches(sum(delimited), sum(served_ns), sum(calls_ns), max(longest_ns, default=0))

# SPDX-License-Identifier: GPL-2.0-or-later
"""The sums that the host's BPF program keeps by thread, as the recorder reads and a recording keeps them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from balloontrace.events import BatchFlag, Call
from balloontrace.hostlayout import (
    BATCH_BYTES,
    BATCH_FIELDS,
    BUCKETS,
    CALL_SUMS_BYTES,
    THREAD_BATCH_OFFSET,
    THREAD_BYTES,
    THREAD_FIELDS,
    THREAD_SUMS_OFFSET,
)

_SUMS = struct.Struct(f"=QQII{BUCKETS}I")
_FIELD_CODES = {"u16": "H", "u32": "I", "u64": "Q"}
_FIRST_CALL = struct.Struct("=Q")
_FLAGS = struct.Struct("=H")
_OFFSETS = {name: offset for name, _, offset in BATCH_FIELDS}

assert _SUMS.size == CALL_SUMS_BYTES


@dataclass(frozen=True)
class CallSums:
    """`struct bt_call_sums`, over all threads."""

    calls: int  # that returned
    bytes: int
    duration_ns: int
    errors: int
    no_bytes: int
    buckets: tuple[int, ...]


@dataclass(frozen=True)
class HostCounters:
    """One look at the sums of all threads since the programs were attached."""

    batches: int
    lost: int
    unmatched_returns: int
    overwritten: int
    no_state: int
    thp_splits: int
    calls: dict[Call, CallSums]

    @property
    def all_calls(self) -> int:
        """Calls of every kind that returned."""
        return sum(sums.calls for sums in self.calls.values())

    @property
    def calls_by_system_call(self) -> dict[str, int]:
        """Calls that returned, by the system call's name."""
        totals = {"process_madvise": 0, "madvise": 0, "fallocate": 0}
        for call, sums in self.calls.items():
            name = next(name for name in totals if call.name.startswith(name.upper()))
            totals[name] += sums.calls
        return totals


def used_slots(raw: bytes) -> bytes:
    """Of `struct bt_threads` the slots that some thread has used, one after the other."""
    return b"".join(slot for slot in _slots(raw) if any(slot[:8]))


def parse_host_counters(raw: bytes) -> HostCounters:
    """Add up slots in this machine's byte order, all of them or only those in use."""
    totals = dict.fromkeys((name for name, _, _ in THREAD_FIELDS), 0)
    sums = [[0] * (4 + BUCKETS) for _ in Call]
    for slot in _slots(raw):
        for name, kind, offset in THREAD_FIELDS:
            totals[name] += struct.unpack_from(f"={_FIELD_CODES[kind]}", slot, offset)[0]
        for call in Call:
            row = _SUMS.unpack_from(slot, THREAD_SUMS_OFFSET + call * CALL_SUMS_BYTES)
            sums[call] = [total + value for total, value in zip(sums[call], row, strict=True)]
    return HostCounters(
        batches=totals["batches"],
        lost=totals["lost"],
        unmatched_returns=totals["unmatched_returns"],
        overwritten=totals["overwritten"],
        no_state=totals["no_state"],
        thp_splits=totals["thp_splits"],
        calls={call: _call_sums(sums[call]) for call in Call},
    )


def _call_sums(row: list[int]) -> CallSums:
    total_bytes, duration_ns, errors, no_bytes, *buckets = row
    return CallSums(sum(buckets), total_bytes, duration_ns, errors, no_bytes, tuple(buckets))


def unfinished_batches(raw: bytes) -> bytes:
    """The batches still under way in the slots, as records of the ring buffer, flagged as unfinished."""
    records = []
    for slot in _slots(raw):
        batch = bytearray(slot[THREAD_BATCH_OFFSET : THREAD_BATCH_OFFSET + BATCH_BYTES])
        if _FIRST_CALL.unpack_from(batch, _OFFSETS["first_call_ns"])[0]:
            (flags,) = _FLAGS.unpack_from(batch, _OFFSETS["flags"])
            _FLAGS.pack_into(batch, _OFFSETS["flags"], flags | BatchFlag.UNFINISHED)
            records.append(struct.pack("=II", BATCH_BYTES, 0) + bytes(batch))
    return b"".join(records)


def _slots(raw: bytes) -> Iterator[bytes]:
    """Whole slots only."""
    return (raw[end - THREAD_BYTES : end] for end in range(THREAD_BYTES, len(raw) + 1, THREAD_BYTES))

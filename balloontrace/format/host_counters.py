# SPDX-License-Identifier: GPL-2.0-or-later
"""The sums that the host's BPF program keeps by thread, as the recorder reads and a recording keeps them."""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from balloontrace.format.guest_layout import TableLayout
from balloontrace.format.host_layout import (
    BATCH,
    EVENTFD,
    EVENTFDS,
    KICK_TIMES,
    PROVEN,
    THREAD,
    SumsLayout,
    parse_sums_layout,
)
from balloontrace.format.struct_layout import TYPE_CODES, sums_since
from balloontrace.format.vocabulary import BatchFlag, Call

MOST_SLOTS = 4096
_ID_BYTES = _COUNT_BYTES = 8
_NOBODY = bytes(_ID_BYTES)
_FIRST_CALL = struct.Struct("=Q")
_FLAGS = struct.Struct("=H")
_FAULTS = struct.Struct("=6Q2I")  # struct bt_fault_slot
_FAULT_SUMS = ("faults", "fault_ns", "huge", "untimed")
_TODAY = parse_sums_layout(None)
_KICKS = struct.Struct(f"=8xII4xI{8 * KICK_TIMES}x")  # struct bt_eventfd: number, left and kicks
_KICKED = struct.Struct("=II")
_TIMES = struct.Struct(f"={KICK_TIMES}Q")

SYSTEM_CALLS = ("process_madvise", "madvise", "fallocate")
"""What gives memory back or takes it; the first one that a call's name starts with is its own."""
_SYSTEM_CALL = {
    call: next(name for name in SYSTEM_CALLS if call.name.startswith(name.upper())) for call in Call
}


@dataclass(frozen=True)
class CallSums:
    """`struct bt_call_sums`, over all threads."""

    calls: int  # that returned
    bytes: int
    duration_ns: int
    errors: int
    no_bytes: int
    freed_nothing: int  # 0 unless that was counted
    buckets: tuple[int, ...]
    freed_bytes: int = 0


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
        totals = dict.fromkeys(SYSTEM_CALLS, 0)
        for call, sums in self.calls.items():
            totals[_SYSTEM_CALL[call]] += sums.calls
        return totals


def used_slots(raw: bytes) -> bytes:
    """Of `struct bt_threads` the slots that some thread has used, one after the other."""
    size_bytes = THREAD.size_bytes
    used = (at for at in range(0, len(raw), size_bytes) if raw[at : at + _ID_BYTES] != _NOBODY)
    return b"".join(raw[at : at + size_bytes] for at in used)


def slots_since(raw: bytes, before: bytes) -> bytes:
    """All slots with the sums that came after an earlier look at them; what is under way in them stays."""
    counts, sums = slice(THREAD.offsets["batches"], THREAD.offsets["freed_bytes"]), THREAD.offsets["sums"]
    found = []
    for slot, earlier in zip(_slots(raw, THREAD.size_bytes), _slots(before, THREAD.size_bytes), strict=True):
        if any(earlier):
            since = sums_since(slot[counts], earlier[counts]), sums_since(slot[sums:], earlier[sums:])
            slot = slot[: counts.start] + since[0] + slot[counts.stop : sums] + since[1]
        found.append(slot)
    return b"".join(found)


def moved_sums(raw: bytes) -> bytes:
    """What changes in the slots with each call and each buffer, and with nothing else a process does."""
    at, sums_at = THREAD.offsets["batches"], THREAD.offsets["sums"]
    found = ((slot[at : at + _COUNT_BYTES], slot[sums_at:]) for slot in _slots(raw, THREAD.size_bytes))
    return b"".join(batches + sums for batches, sums in found if any(batches) or any(sums))


def proven_kicks(raw: bytes) -> bytes:
    """What changes in `struct bt_eventfds` with each buffer of a balloon, and with none of a disk.

    Where calls are sampled nothing else tells them apart, and that only after a sample inside a call.
    """
    known = _KICKS.iter_unpack(raw[: EVENTFDS * EVENTFD.size_bytes])
    return b"".join(_KICKED.pack(number, kicks) for number, left, kicks in known if left == PROVEN)


def sum_faults(raw: bytes) -> dict[str, int]:
    """`faults`, `fault_ns`, `huge` and `untimed` of `struct bt_faults`, over all slots."""
    values = _FAULTS.iter_unpack(raw)
    return dict(zip(_FAULT_SUMS, map(sum, zip(*(row[2:6] for row in values), strict=True)), strict=True))


def parse_host_counters(raw: bytes, layout: SumsLayout = _TODAY) -> HostCounters:
    """Add up slots in this machine's byte order, all of them or only those in use."""
    totals: dict[str, int] = {}
    found: dict[int, tuple[dict[str, int], list[int]]] = {}  # of the kinds that some thread called: few
    counts, nothing = struct.Struct(f"={layout.buckets}I"), bytes(layout.sums.stride_bytes)
    for slot in _slots(raw, layout.slots.stride_bytes):
        _add(totals, slot, layout.slots, 0)
        for call in range(layout.sums.rows or 0):
            at = layout.sums.offset_bytes + call * layout.sums.stride_bytes
            if slot[at : at + len(nothing)] == nothing:
                continue
            sums, buckets = found.setdefault(call, ({}, [0] * layout.buckets))
            _add(sums, slot, layout.sums, at)
            row = counts.unpack_from(slot, at + layout.buckets_offset_bytes)
            buckets[:] = map(operator.add, buckets, row)
    none = _call_sums({}, [0] * layout.buckets)
    return HostCounters(
        batches=totals.get("batches", 0),
        lost=totals.get("lost", 0),
        unmatched_returns=totals.get("unmatched_returns", 0),
        overwritten=totals.get("overwritten", 0),
        no_state=totals.get("no_state", 0),
        thp_splits=totals.get("thp_splits", 0),
        calls={call: _call_sums(*found[call]) if call in found else none for call in Call},
    )


def _add(totals: dict[str, int], slot: bytes, table: TableLayout, at: int) -> None:
    for name, kind, offset in table.fields:
        (value,) = struct.unpack_from(f"={TYPE_CODES[kind]}", slot, at + offset)
        totals[name] = totals.get(name, 0) + value


def _call_sums(row: dict[str, int], buckets: list[int]) -> CallSums:
    return CallSums(
        calls=sum(buckets),
        bytes=row.get("bytes", 0),
        duration_ns=row.get("duration_ns", 0),
        errors=row.get("errors", 0),
        no_bytes=row.get("no_bytes", 0),
        freed_nothing=row.get("freed_nothing", 0),
        freed_bytes=row.get("freed_bytes", 0),
        buckets=tuple(buckets),
    )


def unfinished_batches(raw: bytes) -> bytes:
    """The batches still under way in the slots, as records of the ring buffer, flagged as unfinished."""
    records = []
    for slot in _slots(raw, THREAD.size_bytes):
        at = THREAD.offsets["batch"]
        batch = bytearray(slot[at : at + BATCH.size_bytes])
        if _FIRST_CALL.unpack_from(batch, BATCH.offsets["first_call_ns"])[0]:
            (flags,) = _FLAGS.unpack_from(batch, BATCH.offsets["flags"])
            _FLAGS.pack_into(batch, BATCH.offsets["flags"], flags | BatchFlag.UNFINISHED)
            records.append(struct.pack("=II", BATCH.size_bytes, 0) + bytes(batch))
    return b"".join(records)


def _slots(raw: bytes, slot_bytes: int) -> Iterator[bytes]:
    """Whole slots only, and no more than a recorder may have in any version."""
    most_bytes = min(len(raw), MOST_SLOTS * slot_bytes)
    return (raw[end - slot_bytes : end] for end in range(slot_bytes, most_bytes + 1, slot_bytes))


def describe_eventfds(raw: bytes, places: int = EVENTFDS) -> list[dict[str, object]]:
    """`struct bt_eventfds`: those that were read, as a recording keeps them; `times_ns` in order."""
    eventfds = raw[: places * EVENTFD.size_bytes]
    found: dict[int, dict[str, object]] = {}
    for place, row in enumerate(EVENTFD.rows(eventfds)):
        if row["kicks"]:
            times_ns = _TIMES.unpack_from(eventfds, place * EVENTFD.size_bytes + EVENTFD.offsets["kick_ns"])
            known = {name: row[name] for name in ("number", "tid", "kicks")}
            found[row["number"]] = {**known, "times_ns": sorted(times_ns[: row["kicks"]])}
    return [found[number] for number in sorted(found)]

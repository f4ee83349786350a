# SPDX-License-Identifier: GPL-2.0-or-later
"""Where each field lies in what the host's BPF program writes: mirrored from bpf/balloon_batches.h.

Plain data, as `format/guest_layout` has it for the guest's side; a unit test compares it with what a C
compiler makes of the header. A recording carries both tables, as `batch_layout` and `counters_layout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from balloontrace.format.guest_layout import (
    BUCKETS,
    RING_HEADER_BYTES,
    SpanLayout,
    TableLayout,
    parse_fields,
    parse_integer,
    parse_mapping,
    parse_record_layout,
)
from balloontrace.format.struct_layout import TYPE_BYTES, lay_out

CALLS = 8
SLOTS = 256
_MAX_SLOT_BYTES = 1 << 16

BATCH = lay_out(
    "u64 kick_ns", "u64 first_call_ns", "u64 last_return_ns", "u64 done_ns", "u64 calls_ns",
    "u64 madvise_bytes", "u64 fallocate_bytes", *(f"u32 calls_{call}" for call in range(CALLS)), "u32 tid",
    "u32 errors", "u32 thp_splits", "u16 last_errno", "u16 flags", "u32 kicked_by", "u32 file",
    "u64 address",
)  # fmt: skip
"""`calls_N` are the batch's calls of kind N, one of `vocabulary.Call`."""

SAMPLED_BATCH = lay_out(
    "u64 kick_ns", "u64 first_call_ns", "u64 last_return_ns", "u64 done_ns", "u64 samples", "u64 idle_ns",
    "u64 discarded_bytes", *(f"u32 samples_{call}" for call in range(CALLS)), "u32 tid", "u32 place",
    "u32 thp_splits", "u16 splitting", "u16 flags", "u32 kicked_by", "u32 discards",
    "u64 address",
)  # fmt: skip
"""The same where calls are sampled: `samples_N` of `samples` were inside calls of kind N.

`discards` are ranges that KVM was told to take from the guest; 0 unless `sampling` says what counted them.
"""

CALL_SUMS = lay_out(
    "u64 bytes", "u64 duration_ns", "u32 errors", "u32 no_bytes", "u32 freed_nothing", "u32 reserved",
    "u64 freed_bytes", ("buckets", "u32", BUCKETS),
)  # fmt: skip
THREAD = lay_out(
    "u64 id", "u64 entry_ns", "u64 length", "u32 call", "u32 in_run", ("batch", BATCH, 1), "u64 batches",
    "u64 lost", "u64 unmatched_returns", "u64 overwritten", "u64 no_state", "u64 thp_splits",
    "u64 freed_bytes", "u64 let_go", "u64 idle_ns", ("sums", CALL_SUMS, CALLS),
)  # fmt: skip
THREADS_BYTES = SLOTS * THREAD.size_bytes

EVENTFDS, KICK_TIMES, PROVEN = 256, 32, 0xFFFFFFFF
EVENTFD = lay_out(
    "u64 file", "u32 number", "u32 left", "u32 tid", "u32 kicks", ("kick_ns", "u64", KICK_TIMES)
)
EVENTFDS_BYTES = EVENTFDS * EVENTFD.size_bytes + 2 * TYPE_BYTES["u32"]

MOST_MEMORY_SLOTS = 128
MEMORY_SLOT = lay_out("u64 address", "u64 pages", "u64 guest_page")
MEMORY_SLOTS = lay_out(
    "u64 asked_by", "u32 count", "u32 left_out", ("at", MEMORY_SLOT, MOST_MEMORY_SLOTS)
)  # fmt: skip

FAULT_SLOT = lay_out(
    "u64 id", "u64 entry_ns", "u64 faults", "u64 fault_ns", "u64 huge", "u64 untimed", "u32 maps_huge",
    "u32 reserved",
)  # fmt: skip
FAULTS_BYTES = SLOTS * FAULT_SLOT.size_bytes

LIVE_BATCHES = lay_out("u64 delimited", "u64 served_ns", "u64 calls_ns", "u64 longest_ns")
LIVE_SLOTS_BYTES = SLOTS * LIVE_BATCHES.size_bytes

TAKING_BACK_S = 5.0
"""For how long after the last call readings go on, as pages come back: what an operation costs later."""

FREED_COUNTS = "freed"
"""`freed_counts` of a recording asked for what calls freed: calls by which no page became free are counted.

Recordings without it that have `freed_by` counted calls that took no page out of an address space or file.
"""

BATCH_LAYOUT: Mapping[str, object] = {
    "stride_bytes": RING_HEADER_BYTES + BATCH.size_bytes,
    "header_bytes": RING_HEADER_BYTES,
    "fields": [list(field) for field in BATCH.fields],
}
"""`batch_layout` of a recording's metadata; offsets count from the end of the ring buffer's header."""

SAMPLED_LAYOUT: Mapping[str, object] = {
    **BATCH_LAYOUT,
    "fields": [list(field) for field in SAMPLED_BATCH.fields],
}
"""`sampled_layout` of a recording whose calls were sampled."""

COUNTERS_LAYOUT: Mapping[str, object] = {
    "slot_stride_bytes": THREAD.size_bytes,
    "slot_fields": [list(field) for field in THREAD.fields],
    "batch_offset_bytes": THREAD.offsets["batch"],
    "sums_offset_bytes": THREAD.offsets["sums"],
    "sums_stride_bytes": CALL_SUMS.size_bytes,
    "sums_fields": [list(field) for field in CALL_SUMS.fields],
    "buckets_offset_bytes": CALL_SUMS.offsets["buckets"],
    "buckets": BUCKETS,
    "calls": CALLS,
}
"""`counters_layout` of a host recording: one row per slot in use, each with sums by kind of call."""


@dataclass(frozen=True, slots=True)
class SumsLayout:
    """Slots of one size, each with fields, then sums of equal size by kind of call, each with buckets."""

    slots: TableLayout
    sums: TableLayout
    buckets_offset_bytes: int
    buckets: int


def parse_sums_layout(value: object) -> SumsLayout:
    """Check a host's `counters_layout`; a missing one means today's. RecordingError as for spans."""
    table = parse_mapping(COUNTERS_LAYOUT if value is None else value, "counters_layout")
    slot_bytes = parse_integer(table, "slot_stride_bytes", 1, _MAX_SLOT_BYTES)
    calls = parse_integer(table, "calls", 1, CALLS)
    sums_bytes = parse_integer(table, "sums_stride_bytes", 1, slot_bytes // calls)
    sums_at = parse_integer(table, "sums_offset_bytes", 0, slot_bytes - calls * sums_bytes)
    buckets_at = parse_integer(table, "buckets_offset_bytes", 0, sums_bytes)
    buckets = parse_integer(table, "buckets", 0, (sums_bytes - buckets_at) // TYPE_BYTES["u32"])
    return SumsLayout(
        TableLayout(slot_bytes, 0, None, parse_fields(table.get("slot_fields"), sums_at, THREAD.fields)),
        TableLayout(
            sums_bytes, sums_at, calls, parse_fields(table.get("sums_fields"), buckets_at, CALL_SUMS.fields)
        ),
        buckets_at,
        buckets,
    )


def parse_batch_layout(value: object) -> SpanLayout:
    """Check a recording's `batch_layout`; a missing one means today's. RecordingError as for spans."""
    return parse_record_layout(BATCH_LAYOUT if value is None else value, "batch_layout", BATCH.fields)


def parse_sampled_layout(value: object) -> SpanLayout:
    """The same of `sampled_layout`."""
    known = SAMPLED_LAYOUT if value is None else value
    return parse_record_layout(known, "sampled_layout", SAMPLED_BATCH.fields)

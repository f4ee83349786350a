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
    TYPE_BYTES,
    SpanLayout,
    TableLayout,
    parse_fields,
    parse_integer,
    parse_mapping,
    parse_record_layout,
)

CALLS = 8
SLOTS = 256
_MAX_SLOT_BYTES = 1 << 16

BATCH_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("kick_ns", "u64", 0),
    ("first_call_ns", "u64", 8),
    ("last_return_ns", "u64", 16),
    ("done_ns", "u64", 24),
    ("calls_ns", "u64", 32),
    ("madvise_bytes", "u64", 40),
    ("fallocate_bytes", "u64", 48),
    *((f"calls_{call}", "u32", 56 + 4 * call) for call in range(CALLS)),
    ("tid", "u32", 88),
    ("errors", "u32", 92),
    ("thp_splits", "u32", 96),
    ("last_errno", "u16", 100),
    ("flags", "u16", 102),
)
"""`calls_N` are the batch's calls of kind N, one of `vocabulary.Call`."""
BATCH_BYTES = 104

THREAD_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("id", "u64", 0),
    ("entry_ns", "u64", 8),
    ("length", "u64", 16),
    ("call", "u32", 24),
    ("in_run", "u32", 28),
    ("batches", "u64", 136),
    ("lost", "u64", 144),
    ("unmatched_returns", "u64", 152),
    ("overwritten", "u64", 160),
    ("no_state", "u64", 168),
    ("thp_splits", "u64", 176),
    ("freed_bytes", "u64", 184),
    ("let_go", "u64", 192),
)
THREAD_BATCH_OFFSET = 32
THREAD_SUMS_OFFSET = 200

CALL_SUMS_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("bytes", "u64", 0),
    ("duration_ns", "u64", 8),
    ("errors", "u32", 16),
    ("no_bytes", "u32", 20),
    ("freed_nothing", "u32", 24),
    ("reserved", "u32", 28),
    ("freed_bytes", "u64", 32),
)
CALL_BUCKETS_OFFSET = 40
CALL_SUMS_BYTES = CALL_BUCKETS_OFFSET + 4 * BUCKETS
THREAD_BYTES = THREAD_SUMS_OFFSET + CALLS * CALL_SUMS_BYTES
THREADS_BYTES = SLOTS * THREAD_BYTES

LIVE_BATCHES_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("delimited", "u64", 0),
    ("served_ns", "u64", 8),
    ("calls_ns", "u64", 16),
    ("longest_ns", "u64", 24),
)
LIVE_BATCHES_BYTES = 32
LIVE_SLOTS_BYTES = SLOTS * LIVE_BATCHES_BYTES

FREED_COUNTS = "freed"
"""`freed_counts` of a recording asked for what calls freed: calls by which no page became free are counted.

Recordings without it that have `freed_by` counted calls that took no page out of an address space or file.
"""

BATCH_LAYOUT: Mapping[str, object] = {
    "stride_bytes": RING_HEADER_BYTES + BATCH_BYTES,
    "header_bytes": RING_HEADER_BYTES,
    "fields": [list(field) for field in BATCH_FIELDS],
}
"""`batch_layout` of a recording's metadata; offsets count from the end of the ring buffer's header."""

COUNTERS_LAYOUT: Mapping[str, object] = {
    "slot_stride_bytes": THREAD_BYTES,
    "slot_fields": [list(field) for field in THREAD_FIELDS],
    "batch_offset_bytes": THREAD_BATCH_OFFSET,
    "sums_offset_bytes": THREAD_SUMS_OFFSET,
    "sums_stride_bytes": CALL_SUMS_BYTES,
    "sums_fields": [list(field) for field in CALL_SUMS_FIELDS],
    "buckets_offset_bytes": CALL_BUCKETS_OFFSET,
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
        TableLayout(slot_bytes, 0, None, parse_fields(table.get("slot_fields"), sums_at, THREAD_FIELDS)),
        TableLayout(
            sums_bytes, sums_at, calls, parse_fields(table.get("sums_fields"), buckets_at, CALL_SUMS_FIELDS)
        ),
        buckets_at,
        buckets,
    )


def parse_batch_layout(value: object) -> SpanLayout:
    """Check a recording's `batch_layout`; a missing one means today's. RecordingError as for spans."""
    return parse_record_layout(BATCH_LAYOUT if value is None else value, "batch_layout", BATCH_FIELDS)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Where each field lies in the bytes that BPF writes, as plain data: mirrored from bpf/balloon_events.h.

A recording carries these tables (`span_layout`, `counters_layout`), so that any later reader decodes it by
field name. `record` writes them and `analysis/columns` decodes with them; a unit test compares them with what
a C compiler makes of the header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from balloontrace.errors import RecordingError

TYPE_BYTES: Mapping[str, int] = {"u8": 1, "u16": 2, "u32": 4, "s32": 4, "u64": 8, "s64": 8}

RING_HEADER_BYTES = 8
"""Each record in a BPF ring buffer follows a u32 length with two flag bits and a u32 page offset."""

SPAN_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("start_ns", "u64", 0),
    ("duration_ns", "u64", 8),
    ("tid", "u32", 16),
    ("cpu", "u16", 20),
    ("function", "u8", 22),
    ("flags", "u8", 23),
    ("device", "u16", 24),
    ("queue", "u16", 26),
    ("pages", "u32", 28),
    ("result", "s32", 32),
    ("config_calls", "u32", 36),
    ("target_pages", "u32", 40),
    ("actual_pages", "u32", 44),
    ("config_ns", "u64", 48),
    ("bytes", "u32", 56),
    ("passes", "u16", 60),
    ("bitmaps", "u16", 62),
)
SPAN_BYTES = 64

PAYLOAD_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("start_ns", "u64", 0),
    ("tid", "u32", 8),
    ("total_bytes", "u32", 12),
    ("offset_bytes", "u32", 16),
    ("bytes", "u16", 20),
    ("function", "u8", 22),
)
PAYLOAD_HEADER_BYTES = 24
PAYLOAD_DATA_BYTES = 1024
PAYLOAD_BYTES = PAYLOAD_HEADER_BYTES + PAYLOAD_DATA_BYTES

FUNCTION_COUNTER_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("entries", "u64", 0),
    ("returns", "u64", 8),
    ("unmatched_returns", "u64", 16),
    ("lost", "u64", 24),
    ("no_state", "u64", 32),
    ("overwritten", "u64", 40),
    ("duration_ns", "u64", 48),
    ("pages", "u64", 56),
)
FUNCTION_COUNTER_BYTES = 64
FUNCTIONS = 16

DEVICE_STATE_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("target_pages", "u32", 0),
    ("actual_pages", "u32", 4),
    ("operations", "u64", 8),
    ("changed_ns", "u64", 16),
    ("moving", "u32", 24),
)
DEVICE_STATE_BYTES = 32
DEVICES = 8

LIVE_DEVICE_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("entered_ns", "u64", 0),
    ("left_ns", "u64", 8),
    ("target_pages", "u32", 16),
)
LIVE_DEVICE_BYTES = 24

LIVE_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("items", "u64", 0),
    ("item_ns", "u64", 8),
    ("allocate_ns", "u64", 16),
    ("build_ns", "u64", 24),
    ("send_ns", "u64", 32),
    ("requeue_ns", "u64", 40),
    ("sends", "u64", 48),
    ("inflated_pages", "u64", 56),
    ("deflated_pages", "u64", 64),
    ("unknown_sends", "u64", 72),
    ("failed_allocations", "u64", 80),
)
BUCKETS = 32
LIVE_DEVICES_OFFSET = 96
LIVE_BUCKETS_OFFSET = LIVE_DEVICES_OFFSET + DEVICES * LIVE_DEVICE_BYTES
LIVE_BYTES = LIVE_BUCKETS_OFFSET + FUNCTIONS * BUCKETS * 8

SPAN_LAYOUT: Mapping[str, object] = {
    "stride_bytes": RING_HEADER_BYTES + SPAN_BYTES,
    "header_bytes": RING_HEADER_BYTES,
    "fields": [list(field) for field in SPAN_FIELDS],
}
"""`span_layout` of a recording's metadata; offsets count from the end of the ring buffer's header."""

PAYLOAD_LAYOUT: Mapping[str, object] = {
    "stride_bytes": RING_HEADER_BYTES + PAYLOAD_BYTES,
    "header_bytes": RING_HEADER_BYTES,
    "fields": [list(field) for field in PAYLOAD_FIELDS],
    "data_offset_bytes": PAYLOAD_HEADER_BYTES,
}
"""`payload_layout` of a recording's metadata: as for spans; captured bytes from `data_offset_bytes` on."""

COUNTERS_LAYOUT: Mapping[str, object] = {
    "functions": FUNCTIONS,
    "function_stride_bytes": FUNCTION_COUNTER_BYTES,
    "function_fields": [list(field) for field in FUNCTION_COUNTER_FIELDS],
    "devices": DEVICES,
    "devices_offset_bytes": FUNCTIONS * FUNCTION_COUNTER_BYTES,
    "device_stride_bytes": DEVICE_STATE_BYTES,
    "device_fields": [list(field) for field in DEVICE_STATE_FIELDS],
}
"""`counters_layout` of a recording's metadata: a table of functions, then one of devices."""

_MAX_STRIDE_BYTES = 4096
# What every recorder has written takes more; smaller records would only make more of them.
_MIN_STRIDE_BYTES = 32
_MIN_PAYLOAD_STRIDE_BYTES = 256
_MAX_FIELDS = 256
_MAX_ROWS = 1024


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Rows of equal stride from `offset_bytes` on; each field is (name, type, offset inside the row)."""

    stride_bytes: int
    offset_bytes: int
    rows: int | None
    fields: tuple[tuple[str, str, int], ...]

    @property
    def end_bytes(self) -> int:
        """First byte after the table; only for tables with a known number of rows."""
        return self.offset_bytes + self.stride_bytes * (self.rows or 0)


@dataclass(frozen=True, slots=True)
class SpanLayout:
    """One record as drained from the ring buffer: its header, then the fields."""

    stride_bytes: int
    header_bytes: int
    fields: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class PayloadLayout:
    """One piece of a payload as drained from the ring buffer: its fields, then the captured bytes."""

    records: SpanLayout
    data_offset_bytes: int


@dataclass(frozen=True, slots=True)
class CountersLayout:
    """Both tables of the counters piece."""

    functions: TableLayout
    devices: TableLayout


def parse_span_layout(value: object) -> SpanLayout:
    """Check a recording's `span_layout`; a missing one means today's. RecordingError when it is invalid.

    Fields of unknown names are kept out: a later version appended them and this one has no use for them.
    """
    return parse_record_layout(SPAN_LAYOUT if value is None else value, "span_layout", SPAN_FIELDS)


def parse_payload_layout(value: object) -> PayloadLayout:
    """Check a recording's `payload_layout`; a missing one means today's. RecordingError as for spans."""
    table = parse_mapping(PAYLOAD_LAYOUT if value is None else value, "payload_layout")
    records = parse_record_layout(table, "payload_layout", PAYLOAD_FIELDS)
    ends = [offset + TYPE_BYTES[kind] for _, kind, offset in records.fields]
    room_bytes = records.stride_bytes - records.header_bytes
    if records.stride_bytes < _MIN_PAYLOAD_STRIDE_BYTES:
        raise RecordingError(
            "the recording describes pieces of payloads that no recorder writes; it is unusable"
        )
    return PayloadLayout(records, parse_integer(table, "data_offset_bytes", max(ends, default=0), room_bytes))


def parse_counters_layout(value: object) -> CountersLayout:
    """Check a recording's `counters_layout`; a missing one means today's. RecordingError as for spans."""
    table = parse_mapping(COUNTERS_LAYOUT if value is None else value, "counters_layout")
    function_stride = parse_integer(table, "function_stride_bytes", 1, _MAX_STRIDE_BYTES)
    functions = TableLayout(
        function_stride,
        0,
        parse_integer(table, "functions", 1, _MAX_ROWS),
        parse_fields(table.get("function_fields"), function_stride, FUNCTION_COUNTER_FIELDS),
    )
    device_stride = parse_integer(table, "device_stride_bytes", 1, _MAX_STRIDE_BYTES)
    devices = TableLayout(
        device_stride,
        parse_integer(table, "devices_offset_bytes", functions.end_bytes, _MAX_STRIDE_BYTES * _MAX_ROWS),
        parse_integer(table, "devices", 0, _MAX_ROWS),
        parse_fields(table.get("device_fields"), device_stride, DEVICE_STATE_FIELDS),
    )
    return CountersLayout(functions, devices)


def parse_record_layout(value: object, name: str, known: tuple[tuple[str, str, int], ...]) -> SpanLayout:
    """Check the layout of a ring buffer's records with the fields `known`. RecordingError as for spans."""
    table = parse_mapping(value, name)
    stride_bytes = parse_integer(table, "stride_bytes", _MIN_STRIDE_BYTES, _MAX_STRIDE_BYTES)
    header_bytes = parse_integer(table, "header_bytes", 0, stride_bytes)
    fields = parse_fields(table.get("fields"), stride_bytes - header_bytes, known)
    if header_bytes not in (0, RING_HEADER_BYTES) or stride_bytes % 8:
        raise RecordingError("the recording describes records that no ring buffer holds; it is unusable")
    return SpanLayout(stride_bytes, header_bytes, fields)


def parse_fields(
    value: object, room_bytes: int, known: tuple[tuple[str, str, int], ...]
) -> tuple[tuple[str, str, int], ...]:
    """Fields this version knows, each checked to lie inside its row, to be named once and not to overlap."""
    if not isinstance(value, list) or len(value) > _MAX_FIELDS:
        raise RecordingError("the recording's description of its records is damaged; nothing can be decoded")
    known_names = {name for name, _, _ in known}
    fields = [field for field in map(_field, value) if field[0] in known_names]
    fields.sort(key=lambda field: field[2])
    end_bytes = 0
    for name, kind, offset in fields:
        if offset < end_bytes or offset + TYPE_BYTES[kind] > room_bytes:
            raise RecordingError(
                f"the recording puts its field {name} at an impossible place; it is unusable"
            )
        end_bytes = offset + TYPE_BYTES[kind]
    if len({name for name, _, _ in fields}) != len(fields):
        raise RecordingError("the recording names a field of its records twice; it is unusable")
    return tuple(fields)


def _field(value: object) -> tuple[str, str, int]:
    match value:
        case [str(name), str(kind), int(offset)] if kind in TYPE_BYTES and not isinstance(offset, bool):
            if 0 <= offset < _MAX_STRIDE_BYTES:
                return name, kind, offset
    raise RecordingError("the recording describes a field in a way this version cannot read; it is unusable")


def parse_mapping(value: object, name: str) -> Mapping[str, object]:
    """A table of a recording's metadata. RecordingError when it is none."""
    if not isinstance(value, Mapping):
        raise RecordingError(f"the recording's {name} is damaged; nothing can be decoded")
    return value


def parse_integer(table: Mapping[str, object], name: str, low: int, high: int) -> int:
    """A number of such a table, within limits. RecordingError when it is not there or beyond them."""
    value = table.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RecordingError(f"the recording's {name} is missing or impossible; nothing can be decoded")
    return value

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
from balloontrace.format.struct_layout import TYPE_BYTES, Field, lay_out

RING_HEADER_BYTES = 8
"""Each record in a BPF ring buffer follows a u32 length with two flag bits and a u32 page offset."""

FUNCTIONS = 32
DEVICES = 8
BUCKETS = 32
PAYLOAD_DATA_BYTES = 1024

SPAN = lay_out(
    "u64 start_ns", "u64 duration_ns", "u32 tid", "u16 cpu", "u16 function", "u16 device", "u16 queue",
    "u32 pages", "s32 result", "u16 config_calls", "u16 flags", "u32 target_pages", "u32 actual_pages",
    "u64 config_ns", "u32 bytes", "u16 passes", "u16 bitmaps", "u64 wait_ns",
)  # fmt: skip
PAYLOAD = lay_out(
    "u64 start_ns", "u32 tid", "u32 total_bytes", "u32 offset_bytes", "u16 bytes", "u8 function",
    "u8 padding", ("data", "u8", PAYLOAD_DATA_BYTES),
)  # fmt: skip
BLOCK = lay_out("u64 first_page", "u32 bytes", "u32 padding")
FUNCTION_COUNTERS = lay_out(
    "u64 entries", "u64 returns", "u64 unmatched_returns", "u64 lost", "u64 no_state", "u64 overwritten",
    "u64 duration_ns", "u64 pages", "u64 summed", "u64 summed_ns", "u64 summed_pages",
)  # fmt: skip
DEVICE_STATE = lay_out(
    "u32 target_pages", "u32 actual_pages", "u64 operations", "u64 changed_ns", "u32 moving"
)
COUNTERS = lay_out(("functions", FUNCTION_COUNTERS, FUNCTIONS), ("devices", DEVICE_STATE, DEVICES))
LIVE_DEVICE = lay_out(
    "u64 entered_ns", "u64 left_ns", "u32 target_pages", "u16 inflates", "u16 is_short",
)  # fmt: skip
LIVE = lay_out(
    "u64 items", "u64 item_ns", "u64 allocate_ns", "u64 build_ns", "u64 send_ns", "u64 requeue_ns",
    "u64 sends", "u64 inflated_pages", "u64 deflated_pages", "u64 unknown_sends", "u64 failed_allocations",
    "u64 run_delay_ns", "u64 run_delay_items", "u64 woken_ns", "u64 woken_sends", "u64 oom_pages",
    "u64 superseded",
    ("devices", LIVE_DEVICE, DEVICES), ("buckets", "u64", FUNCTIONS * BUCKETS),
)  # fmt: skip

SPAN_LAYOUT: Mapping[str, object] = {
    "stride_bytes": RING_HEADER_BYTES + SPAN.size_bytes,
    "header_bytes": RING_HEADER_BYTES,
    "fields": [list(field) for field in SPAN.fields],
}
"""`span_layout` of a recording's metadata; offsets count from the end of the ring buffer's header."""

PAYLOAD_LAYOUT: Mapping[str, object] = {
    "stride_bytes": RING_HEADER_BYTES + PAYLOAD.size_bytes,
    "header_bytes": RING_HEADER_BYTES,
    "fields": [list(field) for field in PAYLOAD.fields],
    "data_offset_bytes": PAYLOAD.offsets["data"],
}
"""`payload_layout` of a recording's metadata: as for spans; captured bytes from `data_offset_bytes` on."""

COUNTERS_LAYOUT: Mapping[str, object] = {
    "functions": FUNCTIONS,
    "function_stride_bytes": FUNCTION_COUNTERS.size_bytes,
    "function_fields": [list(field) for field in FUNCTION_COUNTERS.fields],
    "devices": DEVICES,
    "devices_offset_bytes": COUNTERS.offsets["devices"],
    "device_stride_bytes": DEVICE_STATE.size_bytes,
    "device_fields": [list(field) for field in DEVICE_STATE.fields],
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
    fields: tuple[Field, ...]

    @property
    def end_bytes(self) -> int:
        """First byte after the table; only for tables with a known number of rows."""
        return self.offset_bytes + self.stride_bytes * (self.rows or 0)


@dataclass(frozen=True, slots=True)
class SpanLayout:
    """One record as drained from the ring buffer: its header, then the fields."""

    stride_bytes: int
    header_bytes: int
    fields: tuple[Field, ...]


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
    return parse_record_layout(SPAN_LAYOUT if value is None else value, "span_layout", SPAN.fields)


def parse_payload_layout(value: object) -> PayloadLayout:
    """Check a recording's `payload_layout`; a missing one means today's. RecordingError as for spans."""
    table = parse_mapping(PAYLOAD_LAYOUT if value is None else value, "payload_layout")
    records = parse_record_layout(table, "payload_layout", PAYLOAD.fields)
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
        parse_fields(table.get("function_fields"), function_stride, FUNCTION_COUNTERS.fields),
    )
    device_stride = parse_integer(table, "device_stride_bytes", 1, _MAX_STRIDE_BYTES)
    devices = TableLayout(
        device_stride,
        parse_integer(table, "devices_offset_bytes", functions.end_bytes, _MAX_STRIDE_BYTES * _MAX_ROWS),
        parse_integer(table, "devices", 0, _MAX_ROWS),
        parse_fields(table.get("device_fields"), device_stride, DEVICE_STATE.fields),
    )
    return CountersLayout(functions, devices)


def parse_record_layout(value: object, name: str, known: tuple[Field, ...]) -> SpanLayout:
    """Check the layout of a ring buffer's records with the fields `known`. RecordingError as for spans."""
    table = parse_mapping(value, name)
    stride_bytes = parse_integer(table, "stride_bytes", _MIN_STRIDE_BYTES, _MAX_STRIDE_BYTES)
    header_bytes = parse_integer(table, "header_bytes", 0, stride_bytes)
    fields = parse_fields(table.get("fields"), stride_bytes - header_bytes, known)
    if header_bytes not in (0, RING_HEADER_BYTES) or stride_bytes % 8:
        raise RecordingError("the recording describes records that no ring buffer holds; it is unusable")
    return SpanLayout(stride_bytes, header_bytes, fields)


def parse_fields(value: object, room_bytes: int, known: tuple[Field, ...]) -> tuple[Field, ...]:
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


def _field(value: object) -> Field:
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

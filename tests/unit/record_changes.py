# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings with other records in them: lost, repeated, changed, in another order."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence

from mutations import join, split

from balloontrace.format.guest_layout import SPAN_LAYOUT, SpanLayout, parse_span_layout
from balloontrace.format.struct_layout import TYPE_BYTES

Fields = dict[str, int]
_VERSION_AT = 8  # behind the magic


def change_records(data: bytes, change: Callable[[list[Fields]], Sequence[Fields]]) -> bytes:
    """A guest's recording with the spans that `change` makes of its own, all in the first piece of spans.

    Each is its fields by name; sums that the recorder counted stay as they are.
    """
    pieces = split(data)
    layout = parse_span_layout(json.loads(pieces[0][2]).get("span_layout") or SPAN_LAYOUT)
    first = next(index for index, (kind, _, _) in enumerate(pieces) if kind == b"SPAN")
    spans = [
        _fields(payload[start : start + layout.stride_bytes], layout)
        for kind, _, payload in pieces
        if kind == b"SPAN"
        for start in range(0, len(payload), layout.stride_bytes)
    ]
    changed = b"".join(_record(each, layout) for each in change(spans))
    found = [
        (kind, sequence, changed if index == first else b"" if kind == b"SPAN" else payload)
        for index, (kind, sequence, payload) in enumerate(pieces)
    ]
    major, minor = struct.unpack_from("<HH", data, _VERSION_AT)
    return join(found, (major, minor))


def _fields(record: bytes, layout: SpanLayout) -> Fields:
    return {
        name: int.from_bytes(record[start : start + TYPE_BYTES[kind]], "little", signed=kind.startswith("s"))
        for name, kind, offset in layout.fields
        for start in [layout.header_bytes + offset]
    }


def _record(fields: Fields, layout: SpanLayout) -> bytes:
    record = bytearray(layout.stride_bytes)
    struct.pack_into("<I", record, 0, layout.stride_bytes - layout.header_bytes)
    for name, kind, offset in layout.fields:
        start, size = layout.header_bytes + offset, TYPE_BYTES[kind]
        record[start : start + size] = (fields[name] % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(record)

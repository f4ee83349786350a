# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings made up a piece at a time, of any size."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.record_table import span_dtype
from balloontrace.format.format_version import FORMAT_VERSION
from balloontrace.format.guest_layout import (
    COUNTERS_LAYOUT,
    PAYLOAD,
    PAYLOAD_DATA_BYTES,
    PAYLOAD_LAYOUT,
    RING_HEADER_BYTES,
    SPAN,
    SPAN_LAYOUT,
    parse_payload_layout,
    parse_span_layout,
)
from balloontrace.format.pieces import MAGIC, SYNC
from balloontrace.format.vocabulary import Function

PIECE_BYTES = 8 << 20
STARTED_NS = 1_000_000_000
Piece = tuple[bytes, bytes]
Spans = NDArray[np.void]


def write(path: Path, pieces: Iterator[Piece]) -> None:
    """A recording of these pieces, each with right checksums."""
    start = MAGIC + struct.pack("<HH", *FORMAT_VERSION)
    with path.open("wb") as stream:
        stream.write(start + struct.pack("<I", zlib.crc32(start)))
        for sequence, (kind, payload) in enumerate(pieces):
            if isinstance(kind, Raw):
                stream.write(kind)
                continue
            checked = struct.pack("<4s4sIII", SYNC, kind, sequence, len(payload), zlib.crc32(payload))
            stream.write(checked + struct.pack("<I", zlib.crc32(checked)) + payload)


def metadata_piece(**changes: object) -> Piece:
    """A guest's metadata, with these changes."""
    metadata = {
        "span_layout": dict(SPAN_LAYOUT),
        "payload_layout": dict(PAYLOAD_LAYOUT),
        "counters_layout": dict(COUNTERS_LAYOUT),
        "capture": "payload",
        "started": {"monotonic_ns": STARTED_NS, "realtime_ns": 1_700_000_000_000_000_000},
        "devices": [{"name": "virtio0", "index": 0}],
        "probes": [{"function": function.symbol, "status": "attached"} for function in Function],
        **changes,
    }
    return b"META", json.dumps(metadata).encode()


def end_piece() -> Piece:
    """The end record of a recording that ended as asked."""
    return b"ENDR", json.dumps({"clean": True, "reason": "made up"}).encode()


def split_piece(kind: bytes, raw: bytes, stride_bytes: int) -> Iterator[Piece]:
    """Records in pieces of a size that readers take."""
    step = PIECE_BYTES - PIECE_BYTES % stride_bytes
    for start in range(0, len(raw), step):
        yield kind, raw[start : start + step]


def pieces_of_spans(records: Spans, **changes: object) -> Iterator[Piece]:
    """A whole recording of nothing but spans."""
    yield metadata_piece(**changes)
    yield from span_pieces(records)
    yield end_piece()


def span_pieces(records: Spans) -> Iterator[Piece]:
    """Spans as they are in the kernel's ring buffer."""
    whole = empty_spans(records.size)
    whole[:] = records.reshape(-1)  # a copy of structures need not have their gaps
    raw = whole.view(np.uint8).reshape(-1, RING_HEADER_BYTES + SPAN.size_bytes)
    raw[:, 0] = SPAN.size_bytes
    yield from split_piece(b"SPAN", raw.tobytes(), raw.shape[1])


def empty_spans(shape: int | tuple[int, ...]) -> Spans:
    """Spans to be filled in."""
    return np.zeros(shape, dtype=span_dtype(parse_span_layout(None)))


def payload_pieces(
    start_ns: NDArray[np.int64], function: Function, payloads: NDArray[np.uint8]
) -> Iterator[Piece]:
    """Payloads as the recorder drains them, one a row, in pieces of 1 KiB."""
    count, total_bytes = payloads.shape
    pieces = -(-total_bytes // PAYLOAD_DATA_BYTES)
    layout = parse_payload_layout(None).records
    step = max(1, (PIECE_BYTES >> 1) // (pieces * PAYLOAD.size_bytes))
    for start in range(0, count, step):
        some = payloads[start : start + step]
        records = np.zeros((len(some), pieces), dtype=span_dtype(layout))
        records["start_ns"] = start_ns[start : start + len(some), None]
        records["function"], records["total_bytes"] = function, total_bytes
        records["offset_bytes"] = np.arange(pieces) * PAYLOAD_DATA_BYTES
        left_bytes = total_bytes - np.arange(pieces) * PAYLOAD_DATA_BYTES
        records["bytes"] = np.minimum(left_bytes, PAYLOAD_DATA_BYTES)
        raw = records.reshape(-1).view(np.uint8).reshape(len(some) * pieces, -1)
        raw[:, :4] = np.frombuffer(PAYLOAD.size_bytes.to_bytes(4, "little"), dtype=np.uint8)
        padded = np.zeros((len(some), pieces * PAYLOAD_DATA_BYTES), dtype=np.uint8)
        padded[:, :total_bytes] = some
        raw[:, -PAYLOAD_DATA_BYTES:] = padded.reshape(len(raw), -1)
        yield b"PAYL", raw.tobytes()


class Raw(bytes):
    """Not the type of a piece, but bytes to be written as they are."""

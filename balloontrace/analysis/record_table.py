# SPDX-License-Identifier: GPL-2.0-or-later
"""Records as drained from a ring buffer, as a table of numpy; and what no record can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.format.guest_layout import RING_HEADER_BYTES, SpanLayout

NUMPY_TYPES = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "s32": "<i4", "u64": "<u8", "s64": "<i8"}

# Two top bits of a ring buffer record's length: being written, and given up (BPF_RINGBUF_BUSY_BIT and
# _DISCARD_BIT in include/uapi/linux/bpf.h). Such a record holds no span.
_RING_FLAG_BITS = 0xC0000000

# What began so long before or after most of the recording is not of it; nor is what its clocks exclude by
# more than it takes to attach and detach probes.
MAX_APART_NS = 1 << 53
_CLOCK_SLACK_NS = 60 * 10**9
# What all records add up to fits 64 bits with this much room.
MAX_SUM = 1 << 61


@dataclass(frozen=True, slots=True)
class Recorded:
    """When a recording was made by its own clock, as far as it says."""

    began_ns: int | None = None
    ended_ns: int | None = None

    def holds(self, start_ns: NDArray[np.uint64], end_ns: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which calls can be of it, by their start and end."""
        low_ns = max(0, (self.began_ns or 0) - _CLOCK_SLACK_NS)
        held: NDArray[np.bool_] = start_ns >= np.uint64(low_ns)
        if self.ended_ns is not None:
            held &= end_ns <= np.uint64(self.ended_ns + _CLOCK_SLACK_NS)
        return held


def span_dtype(layout: SpanLayout) -> np.dtype[np.void]:
    """One record, ring buffer header included, as a numpy structure."""
    return np.dtype(
        {
            "names": [name for name, _, _ in layout.fields],
            "formats": [NUMPY_TYPES[kind] for _, kind, _ in layout.fields],
            "offsets": [layout.header_bytes + offset for _, _, offset in layout.fields],
            "itemsize": layout.stride_bytes,
        }
    )


def record_table(pieces: Sequence[bytes | memoryview], layout: SpanLayout) -> tuple[NDArray[np.uint8], int]:
    """One row of bytes a record, and how many pieces end with part of one."""
    stride = layout.stride_bytes
    torn = sum(len(piece) % stride != 0 for piece in pieces)
    whole = [
        piece[: len(piece) - len(piece) % stride] if len(piece) % stride else piece
        for piece in pieces
        if len(piece) >= stride
    ]
    return np.frombuffer(b"".join(whole), dtype=np.uint8).reshape(-1, stride), torn


def whole_records(records: NDArray[np.uint8], layout: SpanLayout) -> NDArray[np.bool_]:
    """Which records were written to their end, by the ring buffer's header."""
    if layout.header_bytes != RING_HEADER_BYTES:
        return np.ones(len(records), dtype=np.bool_)
    lengths = np.ascontiguousarray(records[:, :4]).view("<u4").reshape(-1)
    payload_bytes = layout.stride_bytes - layout.header_bytes
    # The kernel rounds each record up to 8 bytes, so a length just below the stride fills it too.
    fits = (lengths <= payload_bytes) & (lengths > payload_bytes - 8)
    return np.asarray(((lengths & _RING_FLAG_BITS) == 0) & fits)


def read_columns(
    records: NDArray[np.uint8], layout: SpanLayout, known: Sequence[tuple[str, str, int]]
) -> dict[str, NDArray[np.generic]]:
    """Every known field as an array; one the recording does not carry is all zero, hence flagged nowhere."""
    table = records.view(span_dtype(layout)).reshape(-1)
    carried = {name for name, _, _ in layout.fields}
    return {
        name: table[name] if name in carried else np.zeros(len(table), dtype=NUMPY_TYPES[kind])
        for name, kind, _ in known
    }


def below(values: NDArray[np.generic], limit: int) -> NDArray[np.bool_]:
    """Which values are; no type of numpy is too small for the limit."""
    return values.astype(np.uint64) < np.uint64(limit)


def leave_out_far(start_ns: NDArray[np.uint64], sane: NDArray[np.bool_]) -> None:
    """Takes from `sane` what began too long before or after the middle one."""
    if sane.any():
        middle_ns = int(np.median(start_ns[sane].astype(np.float64)))
        sane &= start_ns >= np.uint64(max(0, middle_ns - MAX_APART_NS))
        sane &= start_ns <= np.uint64(middle_ns + MAX_APART_NS)


def leave_out_large(values: NDArray[np.uint64], sane: NDArray[np.bool_]) -> None:
    """Takes from `sane` the largest values if all together come near to what 64 bits hold."""
    if values[sane].astype(np.float64).sum() >= MAX_SUM:
        sane &= values <= np.uint64(MAX_SUM // len(values))


def find_repeated(*keys: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Which rows have the same keys as one before them: a record that is in the file twice."""
    order = np.lexsort(keys)  # stable: of equal rows the first stays the first
    same = np.ones(max(0, len(order) - 1), dtype=np.bool_)
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    repeated = np.zeros(len(order), dtype=np.bool_)
    repeated[order[1:]] = same
    return repeated

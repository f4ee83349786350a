# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorded bytes of the host's side into columns and sums, by the layout the recording itself carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.errors import RecordingError
from balloontrace.events import BatchFlag, Call
from balloontrace.hostlayout import (
    BATCH_FIELDS,
    BATCH_LAYOUT,
    BUCKETS,
    CALL_BUCKETS_OFFSET,
    CALL_SUMS_BYTES,
    CALL_SUMS_FIELDS,
    COUNTERS_LAYOUT,
    THREAD_BYTES,
    THREAD_SUMS_OFFSET,
)
from balloontrace.layout import SpanLayout, parse_records_layout
from balloontrace.wire import Column, decode_columns

_MAX_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Batches:
    """Served buffers as columns of equal length, each field of `struct bt_batch`, in order of first calls.

    `damaged` counts records that could not be decoded.
    """

    columns: Mapping[str, NDArray[np.generic]]
    damaged: int = 0

    def __len__(self) -> int:
        return len(self.columns["first_call_ns"])

    def int64(self, name: str) -> Column:
        """A column as signed 64-bit integers."""
        return self.columns[name].astype(np.int64, copy=False)

    def has(self, flag: BatchFlag) -> NDArray[np.bool_]:
        """Which batches carry a flag."""
        found: NDArray[np.bool_] = (self.int64("flags") & int(flag)) != 0
        return found

    def calls(self, *which: Call) -> Column:
        """How many calls of some kinds each batch made."""
        total: Column = np.zeros(len(self), dtype=np.int64)
        for call in which:
            total = total + self.int64(f"calls_{int(call)}")
        return total


@dataclass(frozen=True, slots=True)
class CallTotals:
    """All calls of one kind. `buckets[i]` counts those of 2^i to 2^(i+1) - 1 ns."""

    bytes: int
    duration_ns: int
    errors: int
    no_bytes: int
    buckets: tuple[int, ...]

    @property
    def calls(self) -> int:
        """Calls that returned."""
        return sum(self.buckets)


def parse_batch_layout(value: object) -> SpanLayout:
    """Check a recording's `batch_layout`; a missing one means today's. RecordingError as for spans."""
    return parse_records_layout(BATCH_LAYOUT if value is None else value, "batch_layout", BATCH_FIELDS)


def decode_batches(pieces: Sequence[bytes | memoryview], layout: SpanLayout) -> Batches:
    """Decode the BTCH pieces of a recording; batches that end before they begin count as damaged."""
    columns, damaged = decode_columns(pieces, layout, BATCH_FIELDS)
    # Beyond _MAX_NS they become negative or large, and fail one of the comparisons.
    names = ("kick_ns", "first_call_ns", "last_return_ns", "done_ns")
    kick_ns, first_ns, last_ns, done_ns = (columns[name].astype(np.int64) for name in names)
    sane = (first_ns > 0) & (kick_ns >= 0) & (kick_ns <= first_ns) & (first_ns <= last_ns)
    sane &= (last_ns < _MAX_NS) & ((done_ns == 0) | ((done_ns >= last_ns) & (done_ns < _MAX_NS)))
    kept = np.flatnonzero(sane)
    order = kept[np.argsort(first_ns[kept], kind="stable")]
    dropped = len(first_ns) - len(kept)
    return Batches({name: column[order] for name, column in columns.items()}, damaged + dropped)


def decode_call_totals(raw: bytes | None, layout: object) -> dict[Call, CallTotals]:
    """The sums of all threads, by kind of call; empty for None. RecordingError for a layout not of today."""
    if raw is None:
        return {}
    if layout is not None and layout != dict(COUNTERS_LAYOUT):
        raise RecordingError("the recording's sums of calls are laid out in a way this version cannot read")
    slots = np.frombuffer(raw, dtype=np.uint8, count=len(raw) - len(raw) % THREAD_BYTES)
    sums = slots.reshape(-1, THREAD_BYTES)[:, THREAD_SUMS_OFFSET:]
    rows = np.ascontiguousarray(sums).reshape(-1, len(Call), CALL_SUMS_BYTES)
    return {call: _totals(np.ascontiguousarray(rows[:, int(call)])) for call in Call}


def _totals(rows: NDArray[np.uint8]) -> CallTotals:
    kinds = {"u64": "<u8", "u32": "<u4"}
    fields = {
        name: int(
            np.ascontiguousarray(rows[:, offset : offset + int(kinds[kind][-1])]).view(kinds[kind]).sum()
        )
        for name, kind, offset in CALL_SUMS_FIELDS
    }
    buckets = np.ascontiguousarray(rows[:, CALL_BUCKETS_OFFSET:]).view("<u4").reshape(-1, BUCKETS)
    return CallTotals(**fields, buckets=tuple(buckets.sum(axis=0, dtype=np.int64).tolist()))

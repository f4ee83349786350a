# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorded bytes into numpy columns, by the layout the recording itself carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.record_table import (
    MAX_APART_NS,
    MAX_SUM,
    NUMPY_TYPES,
    Recorded,
    below,
    find_repeated,
    leave_out_far,
    leave_out_large,
    read_columns,
    record_table,
    whole_records,
)
from balloontrace.analysis.unkicked_batches import part_unkicked
from balloontrace.format.guest_layout import (
    PAYLOAD,
    SPAN,
    CountersLayout,
    PayloadLayout,
    SpanLayout,
    TableLayout,
)
from balloontrace.format.host_layout import BATCH
from balloontrace.format.vocabulary import BatchFlag, Call, Function, Kind, Queue, SpanFlag

Column = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Later than 146 years of uptime, or longer than 104 days: no clock says that, so the record is damaged.
_MAX_START_NS = 1 << 62
_MAX_DURATION_NS = 1 << 53
# A device takes 32 KiB.
_MOST_PAYLOAD_BYTES = 1 << 20

_REPORT = Function.VIRTBALLOON_FREE_PAGE_REPORT
_CAPTURED = (Function.TELL_HOST, Function.SEND_RESP_DATA, _REPORT)

_GIVE_BACK = (Call.MADVISE_DONTNEED, Call.MADVISE_REMOVE, Call.MADVISE_FREE, Call.FALLOCATE_PUNCH_HOLE)

# Of each field as today's layout has it, but for 64 bits the signed type: differences are taken of those.
COLUMN_TYPES = {
    name: np.dtype("<i8" if kind == "u64" else NUMPY_TYPES[kind]) for name, kind, _ in SPAN.fields
}


@dataclass(frozen=True, slots=True)
class Spans:
    """Completed calls as columns of equal length, in order of start; a longer call before the one inside it.

    `columns` holds every field of `struct bt_span` under its own name, of the type in `COLUMN_TYPES`.
    `damaged` counts records that could not be decoded or have impossible values, `unknown` those of functions
    that only a newer version traces. `contradictory` counts those left out because others contradict them,
    `beyond` those left out because there are too many.
    """

    columns: Mapping[str, NDArray[np.generic]]
    damaged: int = 0
    unknown: int = 0
    contradictory: int = 0
    beyond: int = 0

    def without(self, left_out: Mask) -> Spans:
        """The same without some of them, which are not counted here."""
        columns = {name: values[~left_out] for name, values in self.columns.items()}
        return replace(self, columns=columns)

    def __len__(self) -> int:
        return len(self.columns["start_ns"])

    def int64(self, name: str) -> Column:
        """A column as signed 64-bit integers, so that sums and differences are safe."""
        return self.columns[name].astype(np.int64, copy=False)

    @property
    def end_ns(self) -> Column:
        """When each call returned."""
        ends: Column = self.int64("start_ns") + self.int64("duration_ns")
        return ends

    def of(self, *functions: Function) -> Mask:
        """Which spans are calls of one of `functions`."""
        column = self.columns["function"]
        found: Mask = np.logical_or.reduce([column == function for function in functions])
        return found

    def has(self, flag: SpanFlag) -> Mask:
        """Which spans carry the optional field that `flag` stands for."""
        flags = self.columns["flags"].astype(np.uint16, copy=False)
        found: Mask = (flags & np.uint16(flag)) != 0
        return found

    @property
    def directions(self) -> Column:
        """Which way pages on each call's queue go: 1 into the balloon, -1 out of it, 0 on other queues."""
        queue = self.columns["queue"]
        ways = [(queue == Queue[kind.name]) * kind.direction for kind in Kind]
        directions: Column = np.add.reduce(ways).astype(np.int64)
        return directions

    def measured(self, name: str, flag: SpanFlag) -> Column:
        """A column where it was measured, and 0 elsewhere: for sums."""
        return np.where(self.has(flag), self.int64(name), 0)


def decode_spans(
    pieces: Sequence[bytes | memoryview], layout: SpanLayout, recorded: Recorded | None = None
) -> Spans:
    """Decode the SPAN pieces of a recording.

    Records with a wrong ring buffer header or impossible values are counted as damaged; so are the bytes at
    the end of a piece that make no whole record. Impossible are times that no clock shows or that lie outside
    the recording, and a configuration access longer than its call. So are calls that together take longer
    than 64 bits hold, and numbers that no call can have, which a wider member of an older layout may hold.
    """
    records, torn = record_table(pieces, layout)
    whole = whole_records(records, layout)
    columns = read_columns(records, layout, SPAN.fields)
    sane = whole & below(columns["start_ns"], _MAX_START_NS) & below(columns["duration_ns"], _MAX_DURATION_NS)
    _leave_out_impossible(columns, sane, recorded or Recorded())
    known = sane & np.isin(columns["function"], [int(function) for function in Function])
    order = _start_order(columns, known)
    return Spans(
        {name: values[order].astype(COLUMN_TYPES[name], copy=False) for name, values in columns.items()},
        damaged=int(np.count_nonzero(~sane)) + torn,
        unknown=int(np.count_nonzero(sane)) - int(np.count_nonzero(known)),
    )


def _leave_out_impossible(columns: Mapping[str, NDArray[np.generic]], sane: Mask, recorded: Recorded) -> None:
    """Takes from `sane` the spans with impossible values."""
    start_ns, duration_ns = (columns[name].astype(np.uint64) for name in ("start_ns", "duration_ns"))
    sane &= recorded.holds(start_ns, start_ns + duration_ns)
    leave_out_far(start_ns, sane)
    for name, values in columns.items():
        kept = COLUMN_TYPES[name]
        if name != "function" and values.dtype.itemsize > kept.itemsize:  # older layouts have wider members
            sane &= values == values.astype(kept)
    flags = columns["flags"].astype(np.uint16)
    for name, told in (("config_ns", SpanFlag.CONFIG), ("wait_ns", SpanFlag.ACK)):
        sane &= ~(((flags & np.uint16(told)) != 0) & (columns[name].astype(np.uint64) > duration_ns))
    leave_out_large(duration_ns, sane)


@dataclass(frozen=True, slots=True)
class Payload:
    """What one send carried; `data` is what was captured of it, without a gap from its start on."""

    start_ns: int
    tid: int
    function: Function
    total_bytes: int
    data: bytes

    @property
    def cut(self) -> bool:
        """Whether less was captured than was sent."""
        return len(self.data) < self.total_bytes


@dataclass(frozen=True, slots=True)
class Payloads:
    """Captured payloads in order of start; `damaged` counts records that could not be decoded.

    `found` are those of sends; `of_reports` are the blocks of reports of free pages.
    """

    found: tuple[Payload, ...] = ()
    damaged: int = 0
    of_reports: tuple[Payload, ...] = ()


def decode_payloads(pieces: Sequence[bytes | memoryview], layout: PayloadLayout) -> Payloads:
    """Join the records of the PAYL pieces of a recording into payloads, one a send or report.

    Of one that is longer than any device takes the first part is kept.
    """
    records, torn = record_table(pieces, layout.records)
    columns = read_columns(records, layout.records, PAYLOAD.fields)
    room_bytes = layout.records.stride_bytes - layout.records.header_bytes - layout.data_offset_bytes
    sane = whole_records(records, layout.records) & below(columns["start_ns"], _MAX_START_NS)
    sane &= below(columns["bytes"], room_bytes + 1)
    sane &= np.isin(columns["function"], _CAPTURED)
    rows = np.flatnonzero(sane)
    data = records[:, layout.records.header_bytes + layout.data_offset_bytes :]
    names = ("start_ns", "tid", "function", "total_bytes", "offset_bytes", "bytes")
    joined: dict[tuple[int, int, int], tuple[int, bytearray]] = {}
    for row, start_ns, tid, function, total_bytes, offset_bytes, count in zip(
        rows.tolist(), *(columns[name][rows].tolist() for name in names), strict=True
    ):
        _, so_far = joined.setdefault((start_ns, tid, function), (total_bytes, bytearray()))
        if offset_bytes == len(so_far) < _MOST_PAYLOAD_BYTES:
            so_far += data[row, :count].tobytes()
    found = [
        Payload(start_ns, tid, Function(function), total_bytes, bytes(so_far[:total_bytes]))
        for (start_ns, tid, function), (total_bytes, so_far) in joined.items()
    ]
    found.sort(key=lambda payload: payload.start_ns)
    return Payloads(
        tuple(payload for payload in found if payload.function is not _REPORT),
        len(records) - len(rows) + torn,
        tuple(payload for payload in found if payload.function is _REPORT),
    )


@dataclass(frozen=True, slots=True)
class Batches:
    """Buffers served by the host as columns of equal length, in order of their first call.

    `columns` holds every field of `struct bt_batch` under the name `format/host_layout` has for it; times and
    bytes are signed 64-bit integers. `damaged` counts records that could not be decoded. Where calls were
    sampled, `analysis/sampled_batches` says what the columns hold, and which buffers are `left_out` as no
    balloon's. So many were `parted`: two of one that was recorded. `splits_counted` tells whether a probe was
    there that counts huge pages that were split.
    """

    columns: Mapping[str, NDArray[np.generic]]
    damaged: int = 0
    left_out: int = 0
    parted: int = 0
    splits_counted: bool = True

    @property
    def sampled(self) -> bool:
        """Whether there are samples of calls in place of calls."""
        return "samples" in self.columns

    @property
    def counts_discards(self) -> bool:
        """Whether what was taken from the guest was counted beside samples."""
        return "discards" in self.columns

    def __len__(self) -> int:
        return len(self.columns["first_call_ns"])

    def int64(self, name: str) -> Column:
        """A column as signed 64-bit integers, so that sums and differences are safe."""
        return self.columns[name].astype(np.int64, copy=False)

    def has(self, flag: BatchFlag) -> Mask:
        """Which batches carry `flag`."""
        found: Mask = (self.columns["flags"].astype(np.uint16, copy=False) & np.uint16(flag)) != 0
        return found

    def calls(self, *kinds: Call) -> Column:
        """Calls of these kinds in each batch, failed ones too; or samples inside them."""
        total = np.zeros(len(self), dtype=np.int64)
        for kind in kinds:
            total += self.int64(f"calls_{int(kind)}")
        return total

    @property
    def queue(self) -> Column:
        """The queue each buffer came from, as its calls tell: giving back is inflating; -1 if they do not."""
        gives, takes = self.calls(*_GIVE_BACK), self.calls(Call.MADVISE_WILLNEED)
        if self.sampled:
            # An eventfd kicks one queue: what a buffer's own samples do not show, those of others do.
            source = self.int64("kicked_by")
            alone = (source == 0) | (gives > 0) | (takes > 0)
            # Numbers in the file may be any; their places are not.
            _, place = np.unique(source, return_inverse=True)
            gives, takes = (
                np.where(alone, count, np.bincount(place, count)[place]) for count in (gives, takes)
            )
        return np.where(
            (gives > 0) & (takes == 0),
            Queue.INFLATE,
            np.where((takes > 0) & (gives == 0), Queue.DEFLATE, -1),
        ).astype(np.int64)


def decode_batches(
    pieces: Sequence[bytes | memoryview], layout: SpanLayout, recorded: Recorded | None = None
) -> Batches:
    """Decode the BTCH pieces of a recording; impossible ones are counted as damaged, as for spans.

    A batch begins with its kick, if that was seen, and ends with its completion; its calls lie between its
    first and its last, one after the other. What came before a buffer without a kick is a batch of its own.
    """
    records, torn = record_table(pieces, layout)
    columns = read_columns(records, layout, BATCH.fields)
    times = ("kick_ns", "first_call_ns", "last_return_ns", "done_ns")
    sane = whole_records(records, layout) & below(columns["calls_ns"], _MAX_DURATION_NS)
    for name in times:
        sane &= below(columns[name], _MAX_START_NS)
    _leave_out_impossible_batches(columns, sane, recorded or Recorded())
    kept = np.flatnonzero(sane)
    order = kept[np.argsort(columns["first_call_ns"][kept].astype(np.int64), kind="stable")]
    again = find_repeated(columns["first_call_ns"][order], columns["tid"][order])
    sane[order[again]] = False
    order = order[~again]
    found = {name: values[order].astype(_safe_type(values), copy=False) for name, values in columns.items()}
    parted = part_unkicked(found)
    return Batches(
        parted,
        damaged=int(np.count_nonzero(~sane)) + torn,
        parted=len(parted["first_call_ns"]) - len(order),
    )


def _leave_out_impossible_batches(
    columns: Mapping[str, NDArray[np.generic]], sane: Mask, recorded: Recorded
) -> None:
    """Takes from `sane` the batches with impossible values."""
    names = ("kick_ns", "first_call_ns", "last_return_ns", "done_ns", "calls_ns")
    kick_ns, first_ns, last_ns, done_ns, calls_ns = (columns[name].astype(np.uint64) for name in names)
    flags = columns["flags"].astype(np.uint16)
    kicked, done = ((flags & np.uint16(flag)) != 0 for flag in (BatchFlag.KICK_SEEN, BatchFlag.DONE_SEEN))
    # Of one that was under way no call may have returned.
    last_ns = np.where((last_ns == 0) & ((flags & np.uint16(BatchFlag.UNFINISHED)) != 0), first_ns, last_ns)
    sane &= (first_ns <= last_ns) & (calls_ns <= np.maximum(last_ns, first_ns) - first_ns)
    sane &= ~(kicked & (kick_ns > first_ns)) & ~(done & (done_ns < last_ns))
    sane &= recorded.holds(first_ns, last_ns)
    leave_out_far(first_ns, sane)
    for each in (kick_ns, done_ns):
        apart = np.where(each > first_ns, each - first_ns, first_ns - each)
        sane &= (each == 0) | (apart <= np.uint64(MAX_APART_NS))
    leave_out_large(calls_ns, sane)
    for name in ("madvise_bytes", "fallocate_bytes"):
        leave_out_large(columns[name].astype(np.uint64), sane)


def _safe_type(values: NDArray[np.generic]) -> np.dtype[np.generic]:
    """Its own type, but for 64 bits the signed one."""
    return np.dtype(np.int64) if values.dtype.itemsize == 8 else values.dtype


def decode_counters(raw: bytes, layout: CountersLayout) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """Rows of both tables: functions by number, devices by index. A piece cut short gives fewer rows."""
    return _rows(raw, layout.functions), _rows(raw, layout.devices)


def _start_order(columns: Mapping[str, NDArray[np.generic]], keep: Mask) -> NDArray[np.intp]:
    """Indices of the records to keep, in order of start; of two that start together the longer one first."""
    kept = np.flatnonzero(keep)
    start_ns = columns["start_ns"][kept].astype(np.int64)
    # They arrive in order of return, nearly sorted, which a stable sort makes use of.
    order = np.argsort(start_ns, kind="stable")
    ordered_ns = start_ns[order]
    if np.any(ordered_ns[1:] == ordered_ns[:-1]):
        longest_first = -columns["duration_ns"][kept].astype(np.int64)
        # Of two that also end together, the one inside returned first, so it arrived first.
        order = np.lexsort((-np.arange(len(kept)), longest_first, start_ns))
    return kept[order]


def _rows(raw: bytes, layout: TableLayout) -> list[dict[str, int]]:
    rows = []
    for index in range(layout.rows or 0):
        start = layout.offset_bytes + index * layout.stride_bytes
        row = raw[start : start + layout.stride_bytes]
        if len(row) < layout.stride_bytes:
            break
        values = {name: _integer(row, kind, offset) for name, kind, offset in layout.fields}
        # What no counter reaches was not counted.
        rows.append({name: value for name, value in values.items() if value < MAX_SUM})
    return rows


def _integer(row: bytes, kind: str, offset: int) -> int:
    return int(np.frombuffer(row, dtype=NUMPY_TYPES[kind], count=1, offset=offset)[0])

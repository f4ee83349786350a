# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that no recorder writes, made to cost their reader as much as they can, each of a size asked for."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.record_table import span_dtype
from balloontrace.format.guest_layout import (
    PAYLOAD,
    RING_HEADER_BYTES,
    SPAN,
)
from balloontrace.format.host_layout import BATCH, BATCH_LAYOUT, parse_batch_layout
from balloontrace.format.host_layout import COUNTERS_LAYOUT as HOST_COUNTERS_LAYOUT
from balloontrace.format.pieces import SYNC
from balloontrace.format.vocabulary import BatchFlag, Function, Queue, SpanFlag
from bench.made_recordings import (
    STARTED_NS,
    Piece,
    Raw,
    Spans,
    empty_spans,
    end_piece,
    metadata_piece,
    payload_pieces,
    pieces_of_spans,
    span_pieces,
    split_piece,
)

SEND_PAGES = 256
BITMAP_BYTES = 32 << 10

_Words = NDArray[np.uint64]


def _span_count(size_bytes: int) -> int:
    return size_bytes // (RING_HEADER_BYTES + SPAN.size_bytes)


def sends(size_bytes: int) -> Iterator[Piece]:
    """What an honest recorder writes too: a work item with one send after the other."""
    yield from pieces_of_spans(_work_items(_span_count(size_bytes) // 2, turns=7168))


def _work_items(count: int, turns: int) -> Spans:
    """Work items of one send each; the balloon turns round after so many."""
    records = empty_spans((count, 2))
    send, work = records[:, 0], records[:, 1]
    step = np.arange(count) % turns + 1
    inflating = np.arange(count) // turns % 2 == 0
    start_ns = STARTED_NS + 1000 * np.arange(1, count + 1)
    send["start_ns"], send["duration_ns"], send["pages"] = start_ns + 100, 700, SEND_PAGES
    send["function"], send["queue"] = Function.TELL_HOST, ~inflating
    send["flags"] = SpanFlag.DEVICE | SpanFlag.QUEUE | SpanFlag.PAGES
    work["start_ns"], work["duration_ns"] = start_ns, 900
    work["function"], work["config_calls"], work["config_ns"] = Function.UPDATE_BALLOON_SIZE_FUNC, 2, 50
    work["flags"] = SpanFlag.DEVICE | SpanFlag.TARGET | SpanFlag.ACTUAL | SpanFlag.CONFIG
    work["target_pages"] = np.where(inflating, turns * SEND_PAGES, 0)
    work["actual_pages"] = np.where(inflating, step, turns - step) * SEND_PAGES
    return records


def operations(size_bytes: int) -> Iterator[Piece]:
    """Each work item is an operation of its own."""
    records = _work_items(_span_count(size_bytes), turns=1)
    yield from pieces_of_spans(records[:, 1].copy())


def operations_sent(size_bytes: int) -> Iterator[Piece]:
    """Each send is an operation of its own."""
    yield from pieces_of_spans(_work_items(_span_count(size_bytes) // 2, turns=1))


def threads(size_bytes: int) -> Iterator[Piece]:
    """Each call is of a thread of its own, and of one of as many devices as there can be."""
    records = _work_items(_span_count(size_bytes) // 2, turns=3)
    for each in (records[:, 0], records[:, 1]):
        each["tid"] = np.arange(len(records)) + 1
        each["device"] = np.arange(len(records)) % 65536
    yield from pieces_of_spans(records)


def moments(size_bytes: int) -> Iterator[Piece]:
    """Interrupts and shortages of memory only."""
    records = _work_items(_span_count(size_bytes), turns=3)[:, 1].copy()
    records["function"] = Function.VIRTBALLOON_CHANGED
    records["function"][::2] = Function.VIRTIO_BALLOON_OOM_NOTIFY
    yield from pieces_of_spans(records)


def overlapping(size_bytes: int) -> Iterator[Piece]:
    """Calls of one thread that all overlap."""
    records = _work_items(_span_count(size_bytes) // 2, turns=3)
    records["duration_ns"] += (np.arange(len(records)) * 1000 % 99_000_000).astype(np.uint64)[:, None]
    yield from pieces_of_spans(records)


def nested(size_bytes: int) -> Iterator[Piece]:
    """Calls of one thread, each inside the one before."""
    records = _work_items(_span_count(size_bytes), turns=3)[:, 1].copy()
    records["duration_ns"] = (2 * len(records) - 2 * np.arange(len(records))) * 1000
    yield from pieces_of_spans(records)


def windows(size_bytes: int) -> Iterator[Piece]:
    """Windows of bitmaps, each in an operation of its own."""
    records = _work_items(_span_count(size_bytes) // 2, turns=1)
    records[:, 0]["function"] = Function.SET_PAGE_BITMAP
    records[:, 0]["bitmaps"], records[:, 0]["passes"] = 2, 1
    yield from pieces_of_spans(records)


def small_records(size_bytes: int) -> Iterator[Piece]:
    """Records as small as a layout can have them."""
    layout = {
        "stride_bytes": 16,
        "header_bytes": 0,
        "fields": [["start_ns", "u64", 0], ["function", "u8", 8]],
    }
    records = np.zeros((size_bytes // 16, 2), dtype="<u8")
    records[:, 0] = np.arange(len(records)) + STARTED_NS
    records[:, 1] = Function.UPDATE_BALLOON_SIZE_FUNC
    yield metadata_piece(span_layout=layout)
    yield from split_piece(b"SPAN", records.tobytes(), 16)
    yield end_piece()


def _bitmap_payloads(count: int, heads: _Words, words: _Words | None) -> NDArray[np.uint8]:
    """`count` payloads of 32 KiB of records with these first and second words."""
    columns = [heads] if words is None else [heads, words]
    table = np.stack([column.reshape(count, -1) for column in columns], axis=2)
    return table.reshape(count, -1).astype("<u8").view(np.uint8)


def _with_payloads(payloads: NDArray[np.uint8], function: Function, per_item: int) -> Iterator[Piece]:
    """Work items of `per_item` sends that carry these payloads, one a row."""
    count, total_bytes = payloads.shape
    items = -(-count // per_item)
    work, sent = empty_spans(items), empty_spans(count)
    work["start_ns"] = STARTED_NS + np.arange(items) * 10_000 * (per_item + 1)
    work["duration_ns"], work["function"] = 9_000 * (per_item + 1), Function.UPDATE_BALLOON_SIZE_FUNC
    work["flags"] = SpanFlag.DEVICE | SpanFlag.TARGET | SpanFlag.ACTUAL
    inflating = np.arange(items) % 2 == 0
    work["target_pages"] = work["actual_pages"] = np.where(inflating, 1 << 30, 0)
    of_item = np.arange(count) // per_item
    sent["start_ns"] = work["start_ns"][of_item] + (1 + np.arange(count) % per_item).astype(np.uint64) * 9_000
    sent["duration_ns"], sent["function"] = 5_000, function
    sent["queue"] = np.where(inflating[of_item], Queue.INFLATE, Queue.DEFLATE)
    sent["bytes"] = total_bytes
    sent["flags"] = SpanFlag.DEVICE | SpanFlag.QUEUE | SpanFlag.BYTES
    yield metadata_piece()
    together = empty_spans(items + count)
    together[:items], together[items:] = work, sent
    yield from span_pieces(together)
    yield from payload_pieces(sent["start_ns"], function, payloads)
    yield end_piece()


def alternating_bits(size_bytes: int, per_item: int = 1 << 30) -> Iterator[Piece]:
    """Every other page of as much memory as bitmap words of this size can name."""
    count = max(1, size_bytes * 29 // 30 // BITMAP_BYTES)
    heads = np.arange(count * BITMAP_BYTES // 16, dtype=np.uint64) * np.uint64(64)
    heads |= np.uint64(12 << 52 | 8 << 58)
    words = np.full(len(heads), 0x5555_5555_5555_5555, dtype=np.uint64)
    yield from _with_payloads(
        _bitmap_payloads(count, heads, words), Function.SEND_RESP_DATA, min(per_item, count)
    )


def alternating_again(size_bytes: int) -> Iterator[Piece]:
    """The same, each send an operation of its own, inflates and deflates in turn."""
    yield from alternating_bits(size_bytes, per_item=1)


def random_words(size_bytes: int) -> Iterator[Piece]:
    """Bitmap words at random places, overlapping each other."""
    count = max(1, size_bytes * 29 // 30 // BITMAP_BYTES)
    chance = np.random.default_rng(11)
    heads = chance.integers(0, 1 << 34, count * BITMAP_BYTES // 16, dtype=np.uint64)
    heads |= np.uint64(12 << 52 | 8 << 58)
    words = chance.integers(0, 1 << 64, len(heads), dtype=np.uint64)
    yield from _with_payloads(_bitmap_payloads(count, heads, words), Function.SEND_RESP_DATA, count)


def extreme_runs(size_bytes: int) -> Iterator[Piece]:
    """Plain runs of every size from every place, and what is refused."""
    count = max(1, size_bytes * 29 // 30 // BITMAP_BYTES)
    chance = np.random.default_rng(12)
    rows = count * BITMAP_BYTES // 8
    heads = chance.integers(0, 1 << 52, rows, dtype=np.uint64)
    heads |= chance.integers(0, 64, rows, dtype=np.uint64) << np.uint64(52)
    heads[::97] |= chance.integers(0, 1 << 63, len(heads[::97]), dtype=np.uint64)
    yield from _with_payloads(_bitmap_payloads(count, heads, None), Function.SEND_RESP_DATA, count)


def page_numbers(size_bytes: int) -> Iterator[Piece]:
    """The stock driver's page numbers in no order, as many as fit."""
    count = max(1, size_bytes // (PAYLOAD.size_bytes + 80))
    pfns = np.random.default_rng(13).integers(0, 1 << 32, (count, 256), dtype=np.uint32)
    yield from _with_payloads(pfns.astype("<u4").view(np.uint8), Function.TELL_HOST, 1)


def tiny_payloads(size_bytes: int) -> Iterator[Piece]:
    """One page number a send, each a work item that turns round."""
    count = max(1, size_bytes // (PAYLOAD.size_bytes + 160))
    pfns = np.arange(count, dtype="<u4").reshape(count, 1)
    yield from _with_payloads(pfns.view(np.uint8), Function.TELL_HOST, 1)


def batches(size_bytes: int) -> Iterator[Piece]:
    """Buffers served by a host, each in a thread of its own."""
    count = size_bytes // (RING_HEADER_BYTES + BATCH.size_bytes)
    records = np.zeros(count, dtype=span_dtype(parse_batch_layout(None)))
    start_ns = STARTED_NS + np.arange(count) * 1000
    for name, offset_ns in (
        ("kick_ns", 0),
        ("first_call_ns", 100),
        ("last_return_ns", 800),
        ("done_ns", 900),
    ):
        records[name] = start_ns + offset_ns
    records["calls_ns"], records["calls_0"], records["madvise_bytes"] = 300, 256, 1 << 20
    records["tid"], records["flags"] = np.arange(count), BatchFlag.KICK_SEEN | BatchFlag.DONE_SEEN
    raw = records.view(np.uint8).reshape(count, -1)
    raw[:, 0] = BATCH.size_bytes
    yield _host()
    yield from split_piece(b"BTCH", raw.tobytes(), raw.shape[1])
    yield end_piece()


def _host(**changes: object) -> Piece:
    changes = {"batch_layout": dict(BATCH_LAYOUT), "counters_layout": dict(HOST_COUNTERS_LAYOUT), **changes}
    return metadata_piece(side="host", **changes)


def host_sums(size_bytes: int) -> Iterator[Piece]:
    """Sums of as many threads as a piece can hold, in slots as small as they can be."""
    layout = {**HOST_COUNTERS_LAYOUT, "slot_stride_bytes": 16, "slot_fields": [["id", "u64", 0]], "calls": 1}
    layout |= {"sums_offset_bytes": 8, "sums_stride_bytes": 8, "sums_fields": [], "buckets_offset_bytes": 0}
    yield _host(counters_layout={**layout, "buckets": 2})
    for _ in range(max(1, size_bytes // (16 << 20))):
        yield b"CNTR", b"\1" * min(size_bytes, 16 << 20)
    yield end_piece()


def tiny_pieces(size_bytes: int) -> Iterator[Piece]:
    """Pieces of one byte."""
    yield metadata_piece()
    for _ in range(size_bytes // 25):
        yield b"SPAN", b"\0"
    yield end_piece()


def empty_pieces(size_bytes: int) -> Iterator[Piece]:
    """Empty pieces, of unknown types and in no order."""
    yield metadata_piece()
    for number in range(size_bytes // 24):
        yield b"X%03d" % (number % 1000), b""


def markers(size_bytes: int) -> Iterator[Piece]:
    """Bytes that look like the beginning of a piece everywhere, with a header behind each that is whole."""
    yield metadata_piece()
    checked = struct.pack("<4s4sIII", SYNC, b"SPAN", 7, 16 << 20, 0)
    lying = checked + struct.pack("<I", zlib.crc32(checked))
    yield b"SPAN", lying * (min(size_bytes, 16 << 20) // len(lying))
    yield b"LOST", b""
    # Behind a header that promises more than there is, all the rest is searched.
    yield Raw(lying * (size_bytes // 2 // len(lying)) + SYNC * (size_bytes // 8)), b""


def lists(size_bytes: int) -> Iterator[Piece]:
    """Metadata of 4 MiB whose lists refer to each other, and end records of as much, all different."""
    room = min(size_bytes, 4 << 20) - (64 << 10)
    names = [f"{number:04}" for number in range(4096)]
    probe_bytes = room // 2 // 4096 - 120
    probes = [
        {"function": name, "status": "missing", "stands_in_for": ", ".join("x" * (probe_bytes // 3))}
        for name in names
    ]
    devices = [
        {"name": name, "index": index, "features": ["A" * (room // 4 // 4096)]}
        for index, name in enumerate(names)
    ]
    yield metadata_piece(probes=probes, devices=devices)
    for number in range(max(1, size_bytes // (4 << 20))):
        losses = {f"{number}-{index}": {"entries": 2**62, "lost": 2**62} for index in range(room // 80)}
        yield b"ENDR", json.dumps({"clean": True, "losses": losses}).encode()[: 4 << 20]
    yield b"ENDR", json.dumps({"clean": True, "vmstat": {str(n): n for n in range(room // 20)}}).encode()


def numbers(size_bytes: int) -> Iterator[Piece]:
    """Numbers no one means, in JSON that nests."""
    room = min(size_bytes, 4 << 20) - (1 << 20)
    text = "[1e999,-1e999,NaN,Infinity,-Infinity," + ",".join(["9" * 4000] * (room // 8002)) + "]"
    deep = "[" * 400 + "]" * 400
    many = "{" + ",".join(f'"{number}":[{{}},[]]' for number in range(room // 40)) + "}"
    head = metadata_piece()[1].decode()[:-1]
    yield b"META", f'{head},"odd":{text},"deep":{deep},"many":{many}}}'.encode()
    yield from span_pieces(_work_items(1000, turns=7))
    yield end_piece()


def repeated(size_bytes: int) -> Iterator[Piece]:
    """The same calls again and again, in pieces of their own."""
    raw = next(span_pieces(_work_items(4000, turns=7)))[1]
    yield metadata_piece()
    for _ in range(size_bytes // len(raw)):
        yield b"SPAN", raw


FILES: Mapping[str, Callable[[int], Iterator[Piece]]] = {
    each.__name__: each
    for each in (
        sends,
        operations,
        operations_sent,
        threads,
        moments,
        overlapping,
        nested,
        windows,
        small_records,
        alternating_bits,
        alternating_again,
        random_words,
        extreme_runs,
        page_numbers,
        tiny_payloads,
        batches,
        host_sums,
        tiny_pieces,
        empty_pieces,
        markers,
        lists,
        numbers,
        repeated,
    )
}

# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of a `Flow`: its sends as a process would have served them, with known times."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from flows import PAGES_PER_SEND, Flow
from patched_flows import PatchedFlow

from balloontrace.format.host_layout import (
    BATCH,
    BATCH_LAYOUT,
    CALL_SUMS,
    COUNTERS_LAYOUT,
    SAMPLED_BATCH,
    SAMPLED_LAYOUT,
    THREAD,
)
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.recording_writer import RecordingWriter
from balloontrace.format.vocabulary import BatchFlag, Call, Function, Queue

_CODES = {"u16": "<H", "u32": "<I", "u64": "<Q"}
OFFSET_NS = 77_000_000_000_000
FREED_NOTHING = 3
REALTIME_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class HostTimes:
    """How a send's time is spent on the host's side; the rest of it is the way back.

    `lead` is the part of `translate` before the first call, `tail` the one after the last.
    """

    to_host: int = 20_000
    translate: int = 30_000
    call: int = 700
    spread: int = 130  # how much the way to the host differs from send to send, in 7919 ns
    lead: int = 21_000
    tail: int = 4_000


@dataclass(frozen=True)
class Batch:
    """One buffer as it was served."""

    kick_ns: int
    done_ns: int
    calls_ns: int
    pages: int
    queue: int
    lead_ns: int = 10  # from the kick to the first call
    tail_ns: int = 10  # from the return of the last call to the completion


def batches(flow: Flow, times: HostTimes | None = None, *, offset_ns: int = OFFSET_NS) -> list[Batch]:
    """A batch for each send of a flow, in their order."""
    times = times or HostTimes()
    sending = Function.SEND_RESP_DATA if isinstance(flow, PatchedFlow) else Function.TELL_HOST
    found = []
    for span in flow.spans:
        start_ns, function, queue, pages = span.start_ns, span.function, span.queue, span.pages
        if function != sending:
            continue
        # Some way to the host differs from send to send, so that they can be told apart.
        kick_ns = start_ns + times.to_host + start_ns % 7919 * times.spread
        calls_ns = times.call * (pages or PAGES_PER_SEND)
        done_ns = kick_ns + times.translate + calls_ns
        found.append(
            Batch(
                *(kick_ns + offset_ns, done_ns + offset_ns, calls_ns, pages or PAGES_PER_SEND, queue),
                *(times.lead, times.tail),
            )
        )
    return found


def _pack(fields: tuple[tuple[str, str, int], ...], size_bytes: int, values: Mapping[str, int]) -> bytearray:
    raw = bytearray(size_bytes)
    assert set(values) <= {name for name, _, _ in fields}
    for name, kind, offset in fields:
        struct.pack_into(_CODES[kind], raw, offset, values.get(name, 0))
    return raw


def batch(**fields: int) -> bytes:
    """A `struct bt_batch`."""
    return bytes(_pack(BATCH.fields, BATCH.size_bytes, fields))


def record(**fields: int) -> bytes:
    """The same as in the kernel's ring buffer."""
    return struct.pack("<II", BATCH.size_bytes, 0) + batch(**fields)


def sampled_record(**fields: int) -> bytes:
    """A `struct bt_sampled_batch` in the kernel's ring buffer."""
    packed = _pack(SAMPLED_BATCH.fields, SAMPLED_BATCH.size_bytes, fields)
    return struct.pack("<II", SAMPLED_BATCH.size_bytes, 0) + packed


def pack_sampled(found: list[Batch], period_ns: int) -> bytes:
    """The same buffers as samples show them, one each `period_ns` of their thread; calls are in one piece.

    Each page that is given back was taken from the guest by one discard.
    """
    records, clock_ns = [], 0
    for number, batch in enumerate(found):
        call = Call.MADVISE_DONTNEED if batch.queue == Queue.INFLATE else Call.MADVISE_WILLNEED
        wall_ns = batch.done_ns - batch.kick_ns
        at_ns = range(-clock_ns % period_ns, wall_ns, period_ns)
        first_ns = batch.lead_ns
        inside = [batch.kick_ns + at for at in at_ns if first_ns <= at < first_ns + batch.calls_ns]
        clock_ns += wall_ns
        discards = batch.pages if call is Call.MADVISE_DONTNEED else 0
        records.append(
            sampled_record(
                kick_ns=batch.kick_ns,
                done_ns=batch.done_ns,
                first_call_ns=inside[0] if inside else 0,
                last_return_ns=inside[-1] if inside else 0,
                idle_ns=found[number - 1].done_ns if number else 0,
                samples=len(at_ns),
                kicked_by=1 + batch.queue,
                tid=4242,
                flags=BatchFlag.KICK_SEEN | BatchFlag.DONE_SEEN,
                discards=discards,
                discarded_bytes=discards * 4096,
                **{f"samples_{int(call)}": len(inside)},
            )
        )
    return b"".join(records)


def sampled_recording(
    found: list[Batch], period_ns: int, raw: bytes | None = None, **options: Any
) -> Recording:
    """A whole recording of these batches whose calls were sampled, with the options of `sampled_stream`."""
    return read_recording(sampled_stream(found, period_ns, raw, **options))


def sampled_stream(
    found: list[Batch],
    period_ns: int,
    raw: bytes | None = None,
    *,
    counts_splits: bool = False,
    discards_by: str | None = None,
    changes: Mapping[str, object] | None = None,
    **options: Any,
) -> io.BytesIO:
    """The same as a whole file, with the options of `host_stream`."""
    splits = "attached" if counts_splits else "not needed"
    changes = {
        **(changes or {}),
        "sampled_layout": dict(SAMPLED_LAYOUT),
        "sampling": {"period_ns": period_ns, "discards_by": discards_by},
        "probes": [
            {"function": "madvise", "status": "not needed"},
            {"function": "split_huge_pmd", "status": splits},
        ],
    }
    raw = pack_sampled(found, period_ns) if raw is None else raw
    return host_stream(found, raw=raw, changes=changes, sampled=True, **options)


def pack_batch(
    batch: Batch,
    *,
    flags: int = BatchFlag.KICK_SEEN | BatchFlag.DONE_SEEN,
    tid: int = 4242,
    first_call_ns: int | None = None,
    last_return_ns: int | None = None,
    kicked_by: int = 0,
    **more: int,
) -> bytes:
    """A buffer as it lies there."""
    call = Call.MADVISE_DONTNEED if batch.queue == Queue.INFLATE else Call.MADVISE_WILLNEED
    fields = {
        "kick_ns": batch.kick_ns,
        "first_call_ns": first_call_ns or batch.kick_ns + batch.lead_ns,
        "last_return_ns": last_return_ns or batch.done_ns - batch.tail_ns,
        "done_ns": batch.done_ns,
        "calls_ns": batch.calls_ns,
        "madvise_bytes": batch.pages * 4096,
        "tid": tid,
        "flags": flags,
        "kicked_by": kicked_by,
        f"calls_{int(call)}": batch.pages,
    }
    return record(**{**fields, **more})


class CallSums(NamedTuple):
    """Calls of one kind, all of the same duration."""

    call: Call
    calls: int
    bytes: int
    duration_ns: int
    freed_nothing: int = 0


def slot(thread: int, *sums: CallSums, batches: int = 1, under_way: bytes = b"") -> bytes:
    """A thread's slot with these sums, and the buffer it is serving."""
    raw = _pack(THREAD.fields, THREAD.size_bytes, {"id": thread, "batches": batches})
    raw[THREAD.offsets["batch"] : THREAD.offsets["batch"] + len(under_way)] = under_way
    for each in sums:
        fields = {name: value for name, value in each._asdict().items() if name not in ("call", "calls")}
        at = THREAD.offsets["sums"] + each.call * CALL_SUMS.size_bytes
        raw[at : at + CALL_SUMS.size_bytes] = _pack(CALL_SUMS.fields, CALL_SUMS.size_bytes, fields)
        bucket = (each.duration_ns // max(1, each.calls)).bit_length() - 1
        struct.pack_into("<I", raw, at + CALL_SUMS.offsets["buckets"] + 4 * max(0, bucket), each.calls)
    return bytes(raw)


def pack_counters(found: list[Batch]) -> bytes:
    """One slot in use, with the sums of the calls."""
    sums = []
    for call, queue in ((Call.MADVISE_DONTNEED, Queue.INFLATE), (Call.MADVISE_WILLNEED, Queue.DEFLATE)):
        mine = [each for each in found if each.queue == queue]
        pages = sum(each.pages for each in mine)
        sums.append(CallSums(call, pages, pages * 4096, sum(each.calls_ns for each in mine), FREED_NOTHING))
    return slot(4242 << 32 | 4242, *sums, batches=0)


def host_recording(found: list[Batch], **options: Any) -> Recording:
    """A whole recording of these batches, with the options of `host_stream`."""
    return read_recording(host_stream(found, **options))


def host_stream(
    found: list[Batch],
    *,
    raw: bytes | None = None,
    started_ns: int | None = None,
    ended_ns: int | None = None,
    changes: Mapping[str, object] | None = None,
    end: Mapping[str, object] | None = None,
    label: str = "host",
    sampled: bool = False,
    readings: Iterable[Mapping[str, object]] = (),
) -> io.BytesIO:
    """A whole file of these batches; `raw` in their place, for those of other flags or threads.

    `changes` are made to its metadata, `end` to its end record.
    """
    first_ns = found[0].kick_ns if found else OFFSET_NS
    last_ns = found[-1].done_ns if found else OFFSET_NS
    started_ns = first_ns - 2_000_000_000 if started_ns is None else started_ns
    return _write(
        {
            "side": "host",
            "label": label,
            "started": {
                "monotonic_ns": started_ns,
                "realtime_ns": REALTIME_NS + started_ns - OFFSET_NS - 900_000_000,
            },
            "process": {"pid": 4242, "comm": "qemu"},
            "probes": [{"function": "split_huge_pmd", "symbol": "__split_huge_pmd", "status": "attached"}],
            "batch_layout": dict(BATCH_LAYOUT),
            "counters_layout": dict(COUNTERS_LAYOUT),
            "memory": {"rss_anon_bytes": 8 << 30, "shared_files": []},
            **(changes or {}),
        },
        b"".join(map(pack_batch, found)) if raw is None else raw,
        slot(4242 << 32 | 4242) if sampled else pack_counters(found),
        {
            "clean": True,
            "reason": "interrupted",
            "ended": {"monotonic_ns": last_ns + 2_000_000_000 if ended_ns is None else ended_ns},
            "losses": {"batches": {"entries": len(found), "lost": 0}},
            "memory": {"rss_anon_bytes": 1 << 30, "shared_files": []},
            **(end or {}),
        },
        sampled=sampled,
        readings=readings,
    )


def _write(
    metadata: Mapping[str, object],
    raw: bytes,
    counters: bytes,
    end: Mapping[str, object],
    *,
    sampled: bool,
    readings: Iterable[Mapping[str, object]] = (),
) -> io.BytesIO:
    fd = os.memfd_create("host")
    try:
        writer = RecordingWriter(fd)
        writer.write_metadata(metadata)
        (writer.write_sampled if sampled else writer.write_batches)(raw)
        for each in readings:
            writer.write_reading(each)
        writer.write_counters(counters)
        writer.write_end(end)
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb", closefd=False) as stream:
            return io.BytesIO(stream.read())
    finally:
        os.close(fd)

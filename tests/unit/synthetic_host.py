# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of a `synthetic.Flow`: its sends as a process would have served them, with known times."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from synthetic import PAGES_PER_SEND, Flow, PatchedFlow

from balloontrace.format.guest_layout import BUCKETS
from balloontrace.format.host_layout import (
    BATCH_BYTES,
    BATCH_LAYOUT,
    CALL_BUCKETS_OFFSET,
    CALL_SUMS_BYTES,
    COUNTERS_LAYOUT,
    THREAD_BYTES,
    THREAD_SUMS_OFFSET,
)
from balloontrace.format.recording import Recording, RecordingWriter, read_recording
from balloontrace.format.vocabulary import BatchFlag, Call, Function, Queue

_BATCH = struct.Struct("<7Q8IIIIHH")
_RING = struct.Struct("<II")
OFFSET_NS = 77_000_000_000_000
FREED_NOTHING = 3
REALTIME_NS = 1_700_000_000_000_000_000

assert _BATCH.size == BATCH_BYTES


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


def pack_batch(
    batch: Batch,
    *,
    flags: int = BatchFlag.KICK_SEEN | BatchFlag.DONE_SEEN,
    tid: int = 4242,
    first_call_ns: int | None = None,
    last_return_ns: int | None = None,
) -> bytes:
    """A batch as it lies in the kernel's ring buffer."""
    calls = [0] * len(Call)
    calls[Call.MADVISE_DONTNEED if batch.queue == Queue.INFLATE else Call.MADVISE_WILLNEED] = batch.pages
    first_ns = first_call_ns or batch.kick_ns + batch.lead_ns
    last_ns = last_return_ns or batch.done_ns - batch.tail_ns
    record = _BATCH.pack(
        batch.kick_ns, first_ns, last_ns, batch.done_ns, batch.calls_ns, batch.pages * 4096, 0, *calls,
        tid, 0, 0, 0, flags,
    )  # fmt: skip
    return _RING.pack(BATCH_BYTES, 0) + record


def pack_counters(found: list[Batch]) -> bytes:
    """One slot in use, with the sums of the calls."""
    slot = bytearray(THREAD_BYTES)
    struct.pack_into("<Q", slot, 0, 4242 << 32 | 4242)
    for call, queue in ((Call.MADVISE_DONTNEED, Queue.INFLATE), (Call.MADVISE_WILLNEED, Queue.DEFLATE)):
        mine = [batch for batch in found if batch.queue == queue]
        at = THREAD_SUMS_OFFSET + call * CALL_SUMS_BYTES
        pages = sum(batch.pages for batch in mine)
        sums = (pages * 4096, sum(batch.calls_ns for batch in mine), 0, 0, FREED_NOTHING)
        struct.pack_into("<QQIII", slot, at, *sums)
        struct.pack_into("<I", slot, at + CALL_BUCKETS_OFFSET + 4 * 9, pages)
    assert BUCKETS > 9
    return bytes(slot)


def host_recording(
    found: list[Batch],
    *,
    raw: bytes | None = None,
    started_ns: int | None = None,
    ended_ns: int | None = None,
    changes: Mapping[str, object] | None = None,
    label: str = "host",
) -> Recording:
    """A whole recording of these batches; `raw` in their place, for those of other flags or threads."""
    stream = host_stream(
        found, raw=raw, started_ns=started_ns, ended_ns=ended_ns, changes=changes, label=label
    )
    return read_recording(stream)


def host_stream(
    found: list[Batch],
    *,
    raw: bytes | None = None,
    started_ns: int | None = None,
    ended_ns: int | None = None,
    changes: Mapping[str, object] | None = None,
    end: Mapping[str, object] | None = None,
    label: str = "host",
) -> io.BytesIO:
    """The same as it lies in a file; `end` changes its end record."""
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
        pack_counters(found),
        {
            "clean": True,
            "reason": "interrupted",
            "ended": {"monotonic_ns": last_ns + 2_000_000_000 if ended_ns is None else ended_ns},
            "losses": {"batches": {"entries": len(found), "lost": 0}},
            "memory": {"rss_anon_bytes": 1 << 30, "shared_files": []},
            **(end or {}),
        },
    )


def _write(
    metadata: Mapping[str, object], raw: bytes, counters: bytes, end: Mapping[str, object]
) -> io.BytesIO:
    fd = os.memfd_create("host")
    try:
        writer = RecordingWriter(fd)
        writer.write_metadata(metadata)
        writer.write_batches(raw)
        writer.write_counters(counters)
        writer.write_end(end)
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb", closefd=False) as stream:
            return io.BytesIO(stream.read())
    finally:
        os.close(fd)

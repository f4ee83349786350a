# SPDX-License-Identifier: GPL-2.0-or-later
"""Buffers of a host that are no sends of its guest: page reports, discards for disks, trimming."""

from __future__ import annotations

import struct

from synthetic_host import Batch, pack_batch

from balloontrace.format.guest_layout import RING_HEADER_BYTES
from balloontrace.format.host_layout import BATCH
from balloontrace.format.vocabulary import BatchFlag, Call, Queue

VMM, WORKER = 4242, 4300
MIB = 1 << 20
OFFSETS = {name: (offset, kind) for name, kind, offset in BATCH.fields}


def discard(
    at_ns: int,
    *,
    calls: int,
    size: int,
    kind: Call = Call.MADVISE_DONTNEED,
    tid: int = VMM,
    kicked: bool = True,
    kicked_by: int = 0,
    descriptor: int = -1,
    address: int = 0,
) -> bytes:
    """A buffer that is no send: so many calls of so many bytes each, in 50 us."""
    flags = BatchFlag.DONE_SEEN | (BatchFlag.KICK_SEEN if kicked else 0)
    batch = Batch(at_ns, at_ns + 50_000, 20_000, 0, Queue.INFLATE)
    raw = bytearray(pack_batch(batch, flags=flags, tid=tid, kicked_by=kicked_by, address=address))
    sizes = {"madvise_bytes": 0, "fallocate_bytes": 0}
    sizes["fallocate_bytes" if kind == Call.FALLOCATE_PUNCH_HOLE else "madvise_bytes"] = calls * size
    for name, value in {**sizes, f"calls_{int(kind)}": calls, "file": descriptor + 1}.items():
        offset, type_ = OFFSETS[name]
        struct.pack_into("<Q" if type_ == "u64" else "<I", raw, RING_HEADER_BYTES + offset, value)
    return bytes(raw)


def reports(at_ns: int) -> bytes:
    return discard(at_ns, calls=13, size=4 * MIB)


def small_reports(at_ns: int) -> bytes:
    """With page_reporting_order 3: as many pages as a send has, in fewer calls."""
    return discard(at_ns, calls=32, size=32 << 10)


def disk_of_main_loop(at_ns: int) -> bytes:
    return discard(at_ns, calls=1, size=MIB, kind=Call.FALLOCATE_PUNCH_HOLE)


def disk_of_workers(at_ns: int) -> bytes:
    kind = Call.FALLOCATE_PUNCH_HOLE
    return discard(at_ns, calls=1, size=MIB, kind=kind, tid=WORKER + at_ns % 3, kicked=False)


def trimming(at_ns: int) -> bytes:
    return discard(at_ns, calls=1, size=MIB, tid=WORKER, kicked=False)


def page_wise_worker(at_ns: int) -> bytes:
    return discard(at_ns, calls=256, size=4096, tid=WORKER)

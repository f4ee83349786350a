# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's recording of many VMs, of which each served a flow of its own."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from flows import Flow
from synthetic_host import OFFSET_NS, REALTIME_NS, Batch, batches, pack_batch, pack_counters

from balloontrace.format.host_layout import BATCH, COUNTERS_LAYOUT
from balloontrace.format.process_layout import PROCESS_BATCH, PROCESS_BATCH_LAYOUT
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.recording_writer import RecordingWriter

_HEADER_BYTES = 8


@dataclass(frozen=True)
class Vm:
    """What one of them is called, and what it served."""

    name: str | None
    flow: Flow | None
    pid: int = 4242
    has_ended: bool = True  # or the recorder was killed

    @property
    def batches(self) -> list[Batch]:
        return batches(self.flow) if self.flow else []


def pack_process_batch(batch: Batch, number: int) -> bytes:
    """A buffer as it lies in the ring, with the number of its process."""
    raw = pack_batch(batch)[_HEADER_BYTES:]
    assert len(raw) == BATCH.size_bytes
    return struct.pack("<II", PROCESS_BATCH.size_bytes, 0) + raw + struct.pack("<II", number, 0)


def recording_of(*vms: Vm) -> Recording:
    """A whole recording of them, read."""
    return read_recording(stream_of(*vms))


def pieces_of(*vms: Vm, at_ns: Sequence[int]) -> list[bytes]:
    """The files of a recorder that was to begin another one at these moments of the host's clock."""
    bounds = [0, *at_ns, 1 << 62]
    return [
        stream_of(*vms, piece=(number, *of_piece)).getvalue()
        for number, of_piece in enumerate(pairwise(bounds))
    ]


def stream_of(*vms: Vm, piece: tuple[int, int, int] | None = None, identity: str = "ab" * 16) -> io.BytesIO:
    """A whole file, with the batches of all VMs in the order of their time.

    Of a `piece` its number, and the moments in between which it has what was served.
    """
    found = sorted(
        ((batch, number) for number, vm in enumerate(vms, start=1) for batch in vm.batches),
        key=lambda each: each[0].done_ns,
    )
    first_ns = (found[0][0].kick_ns if found else OFFSET_NS) - 2_000_000_000
    last_ns = (found[-1][0].done_ns if found else OFFSET_NS) + 2_000_000_000
    of_piece: dict[str, object] = {"recording_id": identity}
    if piece is not None:
        of_piece = {"recording_id": f"{piece[0]:032}", "command_line": ["record", "--archive-every=1h"]}
        found = [each for each in found if piece[1] < each[0].done_ns <= piece[2]]
        first_ns, last_ns = max(first_ns, piece[1]), min(last_ns, piece[2])
    started, ended = (
        {"monotonic_ns": at_ns, "realtime_ns": REALTIME_NS + at_ns - OFFSET_NS - 900_000_000}
        for at_ns in (first_ns, last_ns)
    )
    fd = os.memfd_create("host")
    with os.fdopen(fd, "rb") as stream:
        writer = RecordingWriter(fd)
        writer.write_metadata(
            {
                "side": "host",
                "is_of_many": True,
                **of_piece,
                "started": started,
                "batch_layout": dict(PROCESS_BATCH_LAYOUT),
                "counters_layout": dict(COUNTERS_LAYOUT),
            }
        )
        for number, vm in enumerate(vms, start=1):
            process = {"pid": vm.pid, "comm": "qemu", "vm": vm.name}
            memory = {"rss_anon_bytes": 8 << 30, "shared_files": []}
            writer.write_process({"number": number, "came": started, "process": process, "memory": memory})
        writer.write_batches(b"".join(pack_process_batch(*each) for each in found))
        for number, vm in enumerate(vms, start=1):
            if vm.flow:
                writer.write_process_counters(number, pack_counters([]))
                writer.write_process_counters(number, pack_counters(vm.batches))
            if vm.has_ended:
                losses = {"batches": {"entries": sum(each[1] == number for each in found), "lost": 0}}
                writer.write_process(
                    {"number": number, "ended": ended, "reason": "process exited", "losses": losses}
                )
        end = {"clean": True, "reason": "interrupted", "ended": ended}
        writer.write_end({**end, "own_cost": {"cpu_ns": 1234}})
        stream.seek(0)
        return io.BytesIO(stream.read())

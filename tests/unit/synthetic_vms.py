# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's recording of many VMs, of which each served a flow of its own."""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass

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


def stream_of(*vms: Vm) -> io.BytesIO:
    """A whole file, with the batches of all VMs in the order of their time."""
    found = sorted(
        ((batch, number) for number, vm in enumerate(vms, start=1) for batch in vm.batches),
        key=lambda each: each[0].done_ns,
    )
    first_ns = (found[0][0].kick_ns if found else OFFSET_NS) - 2_000_000_000
    last_ns = (found[-1][0].done_ns if found else OFFSET_NS) + 2_000_000_000
    started = {"monotonic_ns": first_ns, "realtime_ns": REALTIME_NS + first_ns - OFFSET_NS - 900_000_000}
    fd = os.memfd_create("host")
    with os.fdopen(fd, "rb") as stream:
        writer = RecordingWriter(fd)
        writer.write_metadata(
            {
                "side": "host",
                "is_of_many": True,
                "recording_id": "ab" * 16,
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
                losses = {"batches": {"entries": len(vm.batches), "lost": 0}}
                ended = {"monotonic_ns": last_ns}
                writer.write_process(
                    {"number": number, "ended": ended, "reason": "process exited", "losses": losses}
                )
        end = {"clean": True, "reason": "interrupted", "ended": {"monotonic_ns": last_ns}}
        writer.write_end({**end, "own_cost": {"cpu_ns": 1234}})
        stream.seek(0)
        return io.BytesIO(stream.read())

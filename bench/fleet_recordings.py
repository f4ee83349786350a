# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of a fleet, made of the examples: other machines, kernels and times, the same events."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from balloontrace.format.pieces import PIECE, PREAMBLE, SYNC

EXAMPLES = Path(__file__).parent.parent / "examples"
DAY_NS = 86_400 * 10**9
KERNELS = ("6.1.0-49-amd64", "6.12.107+deb13-amd64", "6.18.9+deb14-amd64")
# Guest and host, small ones.
PAIRS = tuple(
    tuple((EXAMPLES / side / f"{side}-{number:03}-{word}.bt") for word in ("guest", "host"))
    for number in range(1, 11)
    for side in ("before", "after")
)
ALONE = tuple(EXAMPLES / f"bitmap-{kind}.bt" for kind in ("inflate", "deflate"))

Metadata = dict[str, Any]


def with_metadata(recording: bytes, change: Callable[[Metadata], None]) -> bytes:
    """The same recording after a change of what it says of itself."""
    _, _, _, length, _, _ = PIECE.unpack_from(recording, PREAMBLE.size)
    start = PREAMBLE.size + PIECE.size
    metadata: Metadata = json.loads(recording[start : start + length])
    change(metadata)
    payload = json.dumps(metadata).encode()
    head = struct.pack("<4s4sIII", SYNC, b"META", 0, len(payload), zlib.crc32(payload))
    first = head + struct.pack("<I", zlib.crc32(head)) + payload
    return recording[: PREAMBLE.size] + first + recording[start + length :]


def of_machine(name: str, kernel: str, recording_id: str, later_ns: int) -> Callable[[Metadata], None]:
    """A change: recorded on this machine, so much later."""

    def change(metadata: Metadata) -> None:
        metadata["machine"] = {**metadata["machine"], "hostname": name, "kernel_release": kernel}
        metadata["recording_id"] = recording_id
        started = metadata["started"]
        metadata["started"] = {**started, "realtime_ns": started["realtime_ns"] + later_ns}
        if "pair" in metadata:
            metadata["pair"] = recording_id.rpartition("-")[2]

    return change


def write_fleet(folder: Path, recordings: int, hosts: int, days: int) -> None:
    """So many recordings, of these hosts' VMs on these days; of four fifths the host's side is there too."""
    sources = {path: path.read_bytes() for path in (*ALONE, *(path for pair in PAIRS for path in pair))}
    for number, (name, content) in enumerate(_fleet(sources, hosts, days)):
        if number >= recordings:
            return
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _fleet(sources: dict[Path, bytes], hosts: int, days: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents, without end: hosts in turn, then days."""
    number = 0
    while True:
        host, day = number % hosts, number // hosts % days
        kernel, vm = KERNELS[(host + day // 2) % len(KERNELS)], f"vm-{number % (hosts * 7):04}"
        later_ns = day * DAY_NS + number // (hosts * days) * 60 * 10**9
        guest, of_host = PAIRS[number % len(PAIRS)]
        if number % 9 == 8:
            guest = ALONE[number % 2]
        change = of_machine(vm, kernel, f"guest-{number}", later_ns)
        yield f"host-{host:03}/run-{number}-guest.bt", with_metadata(sources[guest], change)
        if number % 9 != 8:
            change = of_machine(f"host-{host:03}", "6.12.117+deb13-amd64", f"host-{number}", later_ns)
            yield f"host-{host:03}/run-{number}-host.bt", with_metadata(sources[of_host], change)
        number += 1

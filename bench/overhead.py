# SPDX-License-Identifier: GPL-2.0-or-later
"""What recording costs the guest: an inflate with the recorder against one without, in instructions.

The guest's clock counts instructions (QEMU's -icount, 1 instruction = 1 ns), so the machine's load does not
show. What does show is work that the guest's kernel does now and then: some runs take 1.5 % longer than
others, with the recorder and without, and the first after a process has come or gone always does. So the
first run of a block does not count, and the fastest of all others with the recorder is compared with the
fastest without.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import lab
from bench.figures import Benchmark, Figure, say

GUEST_MIB = 4096
INFLATE_MIB = 3072
INFLATE_BYTES = INFLATE_MIB << 20
BLOCKS = 3
RUNS = 4  # of a block, after the one that does not count
START_S = 180
RUN_S = 180
RECORDING = "/run/bench.bt"

STOPWATCH = ["stopwatch", "--bytes", str(INFLATE_BYTES), "--timeout-s", "60", "--direction"]


def measure_guest_overhead() -> Iterator[Figure]:
    """Fastest inflate with the recorder over the fastest without, blocks of both in turn."""
    off: list[float] = []
    on: list[float] = []
    deflates: dict[bool, list[float]] = {False: [], True: []}
    with lab.solo(memory_mib=GUEST_MIB, icount=True) as guest:
        _block(guest, [], [])
        for _ in range(BLOCKS):
            _block(guest, off, deflates[False])
            with _recorder(guest):
                _block(guest, on, deflates[True])
    yield Figure("inflate_without_recorder", min(off), "s")
    yield Figure("inflate_with_recorder", min(on), "s")
    yield Figure("deflate_overhead", _percent(deflates[True], deflates[False]), "%")
    yield Figure("inflate_overhead", _percent(on, off), "%", at_most=1.0)


def _percent(on: list[float], off: list[float]) -> float:
    return 100 * (min(on) / min(off) - 1)


def _block(guest: lab.Guest, inflates: list[float], deflates: list[float]) -> None:
    """One run that does not count and RUNS that do."""
    for number in range(RUNS + 1):
        inflate_s = _timed(guest, "inflate", GUEST_MIB - INFLATE_MIB)
        deflate_s = _timed(guest, "deflate", GUEST_MIB)
        say(f"inflate {inflate_s:.4f} s, deflate {deflate_s:.4f} s{'' if number else ' (not counted)'}")
        if number:
            inflates.append(inflate_s)
            deflates.append(deflate_s)


def _timed(guest: lab.Guest, direction: str, target_mib: int) -> float:
    """Seconds of guest time between the first and the last page, interpolated between samples."""
    stopwatch = guest.start([*STOPWATCH, direction])
    stopwatch.wait_for(b"ready", stream="stdout", timeout_s=RUN_S)
    guest.set_balloon(target_mib=target_mib)
    seen = json.loads(stopwatch.wait(RUN_S, check=True).stdout.splitlines()[-1])
    guest.wait_balloon(timeout_s=RUN_S)
    first, last = seen["first_changed"], seen["last_below"]
    base_bytes = seen["start"]["total_bytes"]
    moved_bytes = abs(first["total_bytes"] - base_bytes)
    rate = abs(last["total_bytes"] - first["total_bytes"]) / (last["time_ns"] - first["time_ns"])
    left_bytes = INFLATE_BYTES - abs(last["total_bytes"] - base_bytes)
    return float(last["time_ns"] + left_bytes / rate - (first["time_ns"] - moved_bytes / rate)) / 1e9


@contextmanager
def _recorder(guest: lab.Guest) -> Iterator[None]:
    """A recorder at work in the guest; its recording must hold every send of the block."""
    process = guest.start(["balloontrace", "record", "-f", "-o", RECORDING])
    process.wait_for(b"probes attached", timeout_s=START_S)
    yield
    process.signal(signal.SIGINT)
    process.wait(RUN_S, check=True)
    done = guest.run(["balloontrace", "report", "--format", "json", RECORDING], timeout_s=RUN_S, check=True)
    operations = json.loads(done.stdout)["operations"]
    if sum(operation["sends"] for operation in operations) != 2 * (RUNS + 1) * INFLATE_MIB:
        sys.exit("bench: the recording does not hold every send of the block, so its cost means nothing")


BENCHMARKS = (
    Benchmark(
        ("inflate_without_recorder", "inflate_with_recorder", "deflate_overhead", "inflate_overhead"),
        measure_guest_overhead,
    ),
)

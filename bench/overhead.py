# SPDX-License-Identifier: GPL-2.0-or-later
"""What recording costs the guest: an inflate with the recorder against one without, in instructions.

The guest's clock counts instructions (QEMU's -icount, 1 instruction = 1 ns), so the machine's load does not
show. What would show are two things the guest's kernel does now and then, updating its statistics and
compacting memory: together up to 2.5 % of an inflate, with the recorder and without. They are switched off
for both. The state of memory after a process has come or gone shows too: the recorder has run once before
anything is measured, and the first run of each block does not count. With that, runs repeat to 0.1 %.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lab
from bench.figures import Benchmark, Figure, say
from lab.scenario import LOOK_EVERY_S
from lab.steady import STEADY

GUEST_MIB = 4096
INFLATE_MIB = 3072
INFLATE_BYTES = INFLATE_MIB << 20
BLOCKS = 3
WANTED_PERCENT = 0.6
RUNS = 4  # of a block, after the one that does not count
START_S = 180
RUN_S = 180
RECORDING = "/run/bench.bt"
SPLIT = "--split-allocation"

# Long enough, in the guest's time, for the recorder to write what it still has of the run before.
SETTLE = ["sleep", "4"]


def measure_guest_overhead() -> Iterator[Figure]:
    """Median inflate with the recorder over the median without, blocks of both in turn.

    The recorder writes what it traced once the balloon rests, which a run of less than two seconds does not
    show; its processor time, which does, comes as a figure of its own.
    """
    off: list[float] = []
    on: list[float] = []
    off_deflates: list[float] = []
    on_deflates: list[float] = []
    cpu_s = 0.0
    with lab.solo(memory_mib=GUEST_MIB, icount=True) as guest:
        guest.run(STEADY, check=True)
        with _recorder(guest):
            _block(guest, [], [])
        for _ in range(BLOCKS):
            _block(guest, off, off_deflates)
            with _recorder(guest) as pid:
                before_s = _cpu_s(guest, pid)
                _block(guest, on, on_deflates)
                cpu_s += _cpu_s(guest, pid) - before_s
    moved_s = BLOCKS * (RUNS + 1) * (statistics.median(on) + statistics.median(on_deflates))
    yield Figure("inflate_without_recorder", statistics.median(off), "s")
    yield Figure("inflate_with_recorder", statistics.median(on), "s")
    yield Figure("recorder_cpu_share", 100 * cpu_s / moved_s, "%")
    yield Figure(
        "deflate_overhead", percent_longer(on_deflates, off_deflates), "%", at_most=1.8, wanted=WANTED_PERCENT
    )
    # 1.0 before sends had the times of their interrupts; docs/overhead.md says what that costs.
    yield Figure("inflate_overhead", percent_longer(on, off), "%", at_most=1.2, wanted=WANTED_PERCENT)


def measure_top_overhead() -> Iterator[Figure]:
    """The same with `top`, which hands nothing over and looks at its sums every second instead."""
    off: list[float] = []
    on: list[float] = []
    with lab.solo(memory_mib=GUEST_MIB, icount=True) as guest:
        guest.run(STEADY, check=True)
        with _top(guest):
            _block(guest, [], [])
        for _ in range(BLOCKS):
            _block(guest, off, [])
            with _top(guest):
                _block(guest, on, [])
    yield Figure("inflate_with_top", statistics.median(on), "s")
    yield Figure("top_inflate_overhead", percent_longer(on, off), "%", at_most=1.0)


def measure_split_overhead() -> Iterator[Figure]:
    """The same with `record --split-allocation`, whose programs also run for each switch of the processor."""
    off: list[float] = []
    on: list[float] = []
    off_deflates: list[float] = []
    on_deflates: list[float] = []
    with lab.solo(memory_mib=GUEST_MIB, icount=True) as guest:
        guest.run(STEADY, check=True)
        with _recorder(guest, SPLIT):
            _block(guest, [], [])
        for _ in range(BLOCKS):
            _block(guest, off, off_deflates)
            with _recorder(guest, SPLIT):
                _block(guest, on, on_deflates)
    yield Figure("inflate_with_split", statistics.median(on), "s")
    yield Figure("split_deflate_overhead", percent_longer(on_deflates, off_deflates), "%")
    yield Figure("split_inflate_overhead", percent_longer(on, off), "%", at_most=2.0)


@contextmanager
def _top(guest: lab.Guest) -> Iterator[None]:
    """`top` at work in the guest; its lines must add up to every send of the block."""
    process = guest.start(["balloontrace", "top", "--plain"])
    process.wait_for(b"probes attached", timeout_s=START_S)
    yield
    process.signal(signal.SIGINT)
    header, *lines = process.wait(RUN_S, check=True).stdout.splitlines()
    column = header.split().index("sends")
    if sum(int(line.split()[column]) for line in lines) != 2 * (RUNS + 1) * INFLATE_MIB:
        sys.exit("bench: top has not seen every send of the block, so its cost means nothing")


def percent_longer(on: list[float], off: list[float]) -> float:
    """How much longer the median of `on` is than that of `off`, in percent."""
    return 100 * (statistics.median(on) / statistics.median(off) - 1)


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
    return time_move(guest, direction, target_mib, INFLATE_BYTES)


def time_move(
    guest: lab.Guest,
    direction: str,
    target_mib: int,
    moved_bytes: int,
    *,
    settle: Sequence[str] = SETTLE,
    words: Sequence[str] = (),
    look_every_s: float = LOOK_EVERY_S,
    timeout_s: float = RUN_S,
) -> float:
    """Seconds of guest time between the first and the last page, interpolated between samples.

    `settle` is run before, `words` are more of the stopwatch's options. Raises LabError.
    """
    guest.run(settle, timeout_s=timeout_s, check=True)
    argv = ["stopwatch", "--bytes", str(moved_bytes), "--timeout-s", "60", *words, "--direction", direction]
    stopwatch = guest.start(argv)
    stopwatch.wait_for(b"ready", stream="stdout", timeout_s=timeout_s)
    guest.set_balloon(target_mib=target_mib)
    seen = json.loads(stopwatch.wait(timeout_s, check=True).stdout.splitlines()[-1])
    guest.wait_balloon(timeout_s=timeout_s, every_s=look_every_s)
    first, last = seen["first_changed"], seen["last_below"]
    base_bytes = seen["start"]["total_bytes"]
    before_bytes = abs(first["total_bytes"] - base_bytes)
    rate = abs(last["total_bytes"] - first["total_bytes"]) / (last["time_ns"] - first["time_ns"])
    left_bytes = moved_bytes - abs(last["total_bytes"] - base_bytes)
    return float(last["time_ns"] + left_bytes / rate - (first["time_ns"] - before_bytes / rate)) / 1e9


@contextmanager
def _recorder(guest: lab.Guest, *options: str) -> Iterator[int]:
    """A recorder at work in the guest, by its pid; its recording must hold every send of the block."""
    process = guest.start(["balloontrace", "record", "-f", "-o", RECORDING, *options])
    process.wait_for(b"probes attached", timeout_s=START_S)
    yield process.pid
    process.signal(signal.SIGINT)
    process.wait(RUN_S, check=True)
    done = guest.run(["balloontrace", "report", "--format", "json", RECORDING], timeout_s=RUN_S, check=True)
    operations = json.loads(done.stdout)["operations"]
    if sum(operation["sends"] for operation in operations) != 2 * (RUNS + 1) * INFLATE_MIB:
        sys.exit("bench: the recording does not hold every send of the block, so its cost means nothing")


def _cpu_s(guest: lab.Guest, pid: int) -> float:
    """Processor time of a process so far: the first number of its schedstat, in ns."""
    return int(guest.run(["cat", f"/proc/{pid}/schedstat"], check=True).stdout.split()[0]) / 1e9


BENCHMARKS = (
    Benchmark(
        (
            "inflate_without_recorder",
            "inflate_with_recorder",
            "recorder_cpu_share",
            "deflate_overhead",
            "inflate_overhead",
        ),
        measure_guest_overhead,
    ),
    Benchmark(
        ("inflate_with_split", "split_deflate_overhead", "split_inflate_overhead"), measure_split_overhead
    ),
    Benchmark(("inflate_with_top", "top_inflate_overhead"), measure_top_overhead),
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What recording costs the page-bitmap driver, with and without capturing payloads, in instructions.

As in `overhead`, the guest's clock counts instructions. Its balloon device is a process of its own here,
and while the guest waits for one the clock of a counting guest jumps; so what is compared is the processor
time of the kernel's workers, in which the driver runs with its probes and without the waiting. The share of
the wall time is smaller still.
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
from lab.patched_driver import load_patched
from lab.steady import STEADY

GUEST_MIB = 4096
INFLATE_MIB = 3072
BLOCKS = 2
RUNS = 4  # of a block, after the one that does not count
START_S = 300
RUN_S = 180
RECORDING = "/run/bench.bt"

WORKERS = ["sh", "-c", """
for task in /proc/[0-9]*; do
    case "$(cat $task/comm)" in kworker*) read ran rest < $task/schedstat; echo $ran;; esac
done 2> /dev/null | awk '{ sum += $1 } END { printf "%d\\n", sum }'
"""]  # fmt: skip

WAYS: dict[str, Sequence[str] | None] = {"off": None, "on": (), "capture": ("--capture", "payload")}


def measure_bitmap_overhead() -> Iterator[Figure]:
    """Median processor time of an inflate, and of a deflate, with the recorder over that without."""
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with lab.solo(memory_mib=GUEST_MIB, icount=True, device="backend", page_bitmap=True) as guest:
        load_patched(guest)
        guest.run(STEADY, check=True)
        with _recorder(guest, ()):
            _block(guest)
        for _ in range(BLOCKS):
            for way, options in WAYS.items():
                if options is None:
                    took[way] += _block(guest)
                else:
                    with _recorder(guest, options):
                        took[way] += _block(guest)
    inflate = {way: statistics.median(run[0] for run in runs) for way, runs in took.items()}
    deflate = {way: statistics.median(run[1] for run in runs) for way, runs in took.items()}
    yield Figure("bitmap_inflate_without_recorder", inflate["off"], "s")
    yield Figure("bitmap_deflate_overhead", _percent(deflate, "on"), "%")
    yield Figure("bitmap_deflate_overhead_with_capture", _percent(deflate, "capture"), "%")
    yield Figure("bitmap_inflate_overhead", _percent(inflate, "on"), "%", at_most=1.0)
    yield Figure("bitmap_inflate_overhead_with_capture", _percent(inflate, "capture"), "%", at_most=3.0)


def _percent(took: dict[str, float], way: str) -> float:
    return 100 * (took[way] / took["off"] - 1)


def _block(guest: lab.Guest) -> list[tuple[float, float]]:
    """One run that does not count and RUNS that do: processor seconds of an inflate and of a deflate."""
    runs = []
    for number in range(RUNS + 1):
        run = _timed(guest, GUEST_MIB - INFLATE_MIB), _timed(guest, GUEST_MIB)
        say(f"inflate {run[0]:.4f} s, deflate {run[1]:.4f} s{'' if number else ' (not counted)'}")
        runs.append(run)
    return runs[1:]


def _timed(guest: lab.Guest, target_mib: int) -> float:
    before_ns = _workers_ns(guest)
    guest.set_balloon(target_mib=target_mib)
    guest.wait_balloon(timeout_s=RUN_S)
    return (_workers_ns(guest) - before_ns) / 1e9


def _workers_ns(guest: lab.Guest) -> int:
    """Processor time of all kernel workers so far: the first number of their schedstat."""
    return int(guest.run(WORKERS, check=True, timeout_s=RUN_S).stdout)


@contextmanager
def _recorder(guest: lab.Guest, options: Sequence[str]) -> Iterator[None]:
    """A recorder at work in the guest; its recording must hold all of the block, payloads included."""
    process = guest.start(["balloontrace", "record", "-f", "-o", RECORDING, *options])
    process.wait_for(b"probes attached", timeout_s=START_S)
    yield
    process.signal(signal.SIGINT)
    process.wait(RUN_S, check=True)
    done = guest.run(["balloontrace", "report", "--format", "json", RECORDING], timeout_s=RUN_S, check=True)
    operations = json.loads(done.stdout)["operations"]
    named = sum(each["payload"]["pages_named"] for each in operations if each["payload"])
    pages = 2 * (RUNS + 1) * INFLATE_MIB * 256
    if sum(each["pages"] for each in operations) != pages or (options and named != pages):
        sys.exit("bench: the recording does not hold all of the block, so its cost means nothing")


BENCHMARKS = (
    Benchmark(
        (
            "bitmap_inflate_without_recorder",
            "bitmap_deflate_overhead",
            "bitmap_deflate_overhead_with_capture",
            "bitmap_inflate_overhead",
            "bitmap_inflate_overhead_with_capture",
        ),
        measure_bitmap_overhead,
    ),
)

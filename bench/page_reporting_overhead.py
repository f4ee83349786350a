# SPDX-License-Identifier: GPL-2.0-or-later
"""What recording costs the guest's page reporting: processor time of its worker, in instructions.

A program frees 512 MiB and waits until they are reported, over and over, with the recorder and without. The
clock counts instructions, and kernel threads' schedstat has nanoseconds. What the worker waits for the host
is not in it, which is four fifths of a report (docs/results.md): 1.6 % of the worker are 0.3 % of reporting.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import lab
from bench.figures import Benchmark, Figure, say
from bench.overhead import START_S, percent_longer
from lab.steady import STEADY

GUEST_MIB, USED_MIB = 1024, 512
BLOCKS, ROUNDS = 3, 12
RUN_S = 600
HELD = 0.7
RECORDING = "/run/reports.bt"
# The delay of page reporting is two seconds; then the recorder writes what it has, which costs workers too.
_ROUNDS = """
import glob, json, mmap, sys, time
def workers_ns():
    total_ns = 0
    for folder in glob.glob("/proc/[0-9]*"):
        try:
            with open(folder + "/comm") as comm, open(folder + "/schedstat") as schedstat:
                if comm.read().startswith("kworker"):
                    total_ns += int(schedstat.read().split()[0])
        except OSError:  # it has just ended
            pass
    return total_ns
spent_ns = []
for _ in range(int(sys.argv[2])):
    memory = mmap.mmap(-1, int(sys.argv[1]) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, len(memory), 4096):
        memory[page] = 1
    before_ns = workers_ns()
    memory.close()
    time.sleep(4)
    spent_ns.append(workers_ns() - before_ns)
print(json.dumps(spent_ns))
"""


def measure_reporting_overhead() -> Iterator[Figure]:
    """Median time of the workers in a round, with the recorder over without, blocks of both in turn."""
    off: list[float] = []
    on: list[float] = []
    with lab.solo(memory_mib=GUEST_MIB, icount=True, balloons=[{"free-page-reporting": "on"}]) as guest:
        guest.run(STEADY, check=True)
        with _recorder(guest):
            _rounds(guest)
        for _ in range(BLOCKS):
            off += _rounds(guest)
            with _recorder(guest):
                on += _rounds(guest)
    yield Figure("reporting_worker", statistics.median(off) / 1e3, "us")
    yield Figure("reporting_worker_overhead", percent_longer(on, off), "%", at_most=2.5)


def _rounds(guest: lab.Guest) -> list[float]:
    """Nanoseconds of the workers in each round but the first."""
    done = guest.run(["python3", "-c", _ROUNDS, str(USED_MIB), str(ROUNDS)], timeout_s=RUN_S, check=True)
    spent_ns = [float(each) for each in json.loads(done.stdout)][1:]
    say(f"worker {statistics.median(spent_ns) / 1e3:.1f} us, {min(spent_ns) / 1e3:.1f} at least")
    return spent_ns


@contextmanager
def _recorder(guest: lab.Guest) -> Iterator[None]:
    """A recorder at work in the guest; its recording must hold all that was freed."""
    process = guest.start(["balloontrace", "record", "-f", "-o", RECORDING])
    process.wait_for(b"probes attached", timeout_s=START_S)
    yield
    process.signal(signal.SIGINT)
    process.wait(RUN_S, check=True)
    done = guest.run(["balloontrace", "report", "--format", "json", RECORDING], timeout_s=RUN_S, check=True)
    pages = json.loads(done.stdout)["page_reporting"]["pages"]
    # What the allocator keeps apart, or had reported before, is not reported.
    if pages * 4096 < ROUNDS * HELD * (USED_MIB << 20):
        sys.exit("bench: the recording does not hold what was freed, so its cost means nothing")


BENCHMARKS = (Benchmark(("reporting_worker", "reporting_worker_overhead"), measure_reporting_overhead),)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the probes of page reporting cost an inflate during which free memory is reported, in instructions.

A program holds memory and frees a part of it each time the balloon has taken another part, so cycles of page
reporting fall into every inflate. It is timed without a recorder, with one that leaves reporting alone, and
with one as it is: blocks in turn, there and back, on a clock that counts instructions. Linux 7 lets the delay
of reporting be short enough for several cycles in one inflate.
"""

from __future__ import annotations

import io
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lab
from balloontrace.analysis.make_report import examine
from balloontrace.analysis.page_reports import reported
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Kind
from bench.figures import Benchmark, Figure, say
from bench.overhead import SETTLE, START_S, percent_longer, time_move
from lab.kernels import IMAGES
from lab.steady import STEADY

GUEST_MIB, INFLATE_MIB = 3072, 2048
PORTIONS, PORTION_MIB, EVERY_MIB = 4, 192, 400
# The balloon takes what was freed last first, and a portion in a tenth of a second.
DELAY_MS = 10
BLOCKS, RUNS, RUN_S = 3, 4, 600
RECORDING = "/run/inflating.bt"
DELAY = "/sys/module/page_reporting/parameters/page_reporting_delay_ms"

# `record` as it is, but with rows of the table that no device makes it attach.
_BARE = """
import sys
from balloontrace.cli import main
from balloontrace.format.vocabulary import REPORTING_BIT
from balloontrace.trace.guest.probes import TABLE
for point in TABLE:
    if point.feature_bit == REPORTING_BIT:
        object.__setattr__(point, "feature_bit", 63)
main()
"""
_RECORD = ["record", "-f", "-o", RECORDING]
RECORDERS: dict[str, Sequence[str]] = {
    "bare": ["env", "PYTHONPATH=/repo", "python3", "-P", "-c", _BARE, *_RECORD],
    "whole": ["balloontrace", *_RECORD],
}
# Uses memory in parts, then frees one each time so much more has left the guest's total.
_FREEING = """
import mmap, sys, time
portions, portion_mib, every_mib = map(int, sys.argv[1:])
def total_mib():
    with open("/proc/meminfo") as meminfo:
        return int(meminfo.readline().split()[1]) // 1024
held = []
for _ in range(portions):
    memory = mmap.mmap(-1, portion_mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, len(memory), 4096):
        memory[page] = 1
    held.append(memory)
began_mib = total_mib()
print("holding", flush=True)
for number in range(1, portions + 1):
    while began_mib - total_mib() < number * every_mib:
        time.sleep(0.005)
    held.pop().close()
"""


def measure_inflate_overhead() -> Iterator[Figure]:
    """Median inflates without a recorder, with one without these probes, and with one as it is."""
    timed: dict[str, list[float]] = {"off": [], "bare": [], "whole": []}
    with lab.solo(
        memory_mib=GUEST_MIB,
        icount=True,
        spec=IMAGES["trixie-7.3"],
        balloons=[{"free-page-reporting": "on"}],
    ) as guest:
        guest.run(STEADY, check=True)
        guest.run(["sh", "-c", f"echo {DELAY_MS} > {DELAY}"], check=True)
        _block(guest, "whole")
        for number in range(BLOCKS):
            turn = list(timed)
            for arm in turn if number % 2 == 0 else reversed(turn):
                timed[arm] += _block(guest, arm)
    yield Figure("inflate_while_reporting", statistics.median(timed["off"]), "s")
    yield Figure(
        "inflate_while_reporting_overhead", percent_longer(timed["whole"], timed["off"]), "%", at_most=1.5
    )
    yield Figure("reporting_probes_overhead", percent_longer(timed["whole"], timed["bare"]), "%", at_most=0.5)


def _block(guest: lab.Guest, arm: str) -> list[float]:
    """Seconds of RUNS inflates, after one that does not count."""
    if arm == "off":
        return _runs(guest, arm)
    with _recorder(guest, arm):
        return _runs(guest, arm)


def _runs(guest: lab.Guest, arm: str) -> list[float]:
    inflates_s = []
    for number in range(RUNS + 1):
        words = [str(each) for each in (PORTIONS, PORTION_MIB, EVERY_MIB)]
        user = guest.start(["python3", "-c", _FREEING, *words])
        user.wait_for(b"holding", START_S, stream="stdout")
        seconds = time_move(guest, "inflate", GUEST_MIB - INFLATE_MIB, INFLATE_MIB << 20)
        user.wait(RUN_S, check=True)
        guest.set_balloon(target_mib=GUEST_MIB)
        guest.wait_balloon(timeout_s=RUN_S)
        guest.run(SETTLE, timeout_s=RUN_S, check=True)
        say(f"{arm}: {seconds:.4f} s{'' if number else ' (not counted)'}")
        if number:
            inflates_s.append(seconds)
    return inflates_s


@contextmanager
def _recorder(guest: lab.Guest, arm: str) -> Iterator[None]:
    """A recorder at work; its recording must hold every inflate, and reports inside each if it can."""
    process = guest.start(list(RECORDERS[arm]))
    process.wait_for(b"probes attached", timeout_s=START_S)
    yield
    process.signal(signal.SIGINT)
    process.wait(RUN_S, check=True)
    inside = _reports_inside(guest.pull(RECORDING))
    say(f"reports inside inflates: {inside}")
    if len(inside) != RUNS + 1 or (min(inside) > 0) is not (arm == "whole"):
        sys.exit("bench: the recording does not hold what it should, so its cost means nothing")


def _reports_inside(recording: bytes) -> list[int]:
    """How many reports each inflate of this size has inside."""
    examined = examine(read_recording(io.BytesIO(recording)))
    assert examined.guest is not None
    spans = examined.guest.spans
    starts_ns, ends_ns = (values[reported(spans)] for values in (spans.int64("start_ns"), spans.end_ns))
    return [
        int(((starts_ns > each.started_ns) & (ends_ns < each.started_ns + each.wall_ns)).sum())
        for each in examined.report.operations
        if each.kind == Kind.INFLATE and each.pages == INFLATE_MIB * 256
    ]


BENCHMARKS = (
    Benchmark(
        ("inflate_while_reporting", "inflate_while_reporting_overhead", "reporting_probes_overhead"),
        measure_inflate_overhead,
    ),
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What it takes to start recording, time and memory: by each engine, in a guest and on a host.

The guest's clock counts instructions, and a process there times the recorder, so the machine's load does not
matter. Caches and slow disks do not show.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import lab
from balloontrace.format.vocabulary import Side
from balloontrace.trace.engines.choose import Engine
from bench.figures import Benchmark, Figure, say

GUEST_MIB = 2048
TIMEOUT_S = 1200
RECORDING = "/run/bench.bt"
RUNS = 2
MB = 1e6
# Runs a command; writes its process id, and after how many seconds it said "probes attached".
TIMED = """
import subprocess, sys, time
started_s = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stderr=subprocess.PIPE, text=True)
for line in process.stderr:
    if "probes attached" in line:
        print(process.pid, time.monotonic() - started_s, flush=True)
sys.exit(process.wait())
"""

MOST_OF_BCC = 1 / 6
MOST_SETUP_MB = {Engine.PREBUILT: 45, Engine.BCC: None}
MOST_HELD_MB = {Engine.PREBUILT: 30, Engine.BCC: None}


@dataclass(frozen=True)
class Start:
    """Of one recorder."""

    attach_s: float
    held_bytes: int  # while it recorded
    peak_bytes: int  # of the recorder and, with bcc, of the child that sets it up


def measure_startup() -> Iterator[Figure]:
    """Best times of RUNS, the first one left out that fills Python's caches; worst memory."""
    with lab.solo(memory_mib=GUEST_MIB, icount=True) as guest:
        target = guest.start(["sleep", "100000"])
        for side in Side:
            where = ["-p", str(target.pid)] if side is Side.HOST else []
            starts = {
                engine: [_start(guest, "--engine", engine, *where) for _ in range(RUNS + 1)][1:]
                for engine in Engine
            }
            attach_s = {engine: min(run.attach_s for run in runs) for engine, runs in starts.items()}
            for engine, runs in starts.items():
                held, peak = max(run.held_bytes for run in runs), max(run.peak_bytes for run in runs)
                yield Figure(f"{side}_attach_time_{engine}", attach_s[engine], "s")
                yield Figure(f"{side}_setup_memory_{engine}", peak / MB, "MB", MOST_SETUP_MB[engine])
                yield Figure(f"{side}_held_memory_{engine}", held / MB, "MB", MOST_HELD_MB[engine])
            ratio = attach_s[Engine.PREBUILT] / attach_s[Engine.BCC]
            yield Figure(f"{side}_attach_time_over_bcc", ratio, "x", MOST_OF_BCC)


def _start(guest: lab.Guest, *options: str) -> Start:
    recorder = ["balloontrace", "record", "-f", "-o", RECORDING, *options]
    process = guest.start(["python3", "-c", TIMED, *recorder])
    written = process.wait_for(b"\n", timeout_s=TIMEOUT_S, stream="stdout")
    pid, seconds = process.read("stdout")[:written].decode().split()
    attach_s = float(seconds)
    guest.run(["sleep", "2"], check=True)
    status = guest.run(["cat", f"/proc/{pid}/status"], check=True).stdout
    guest.run(["kill", "-INT", pid], check=True)
    process.wait(TIMEOUT_S, check=True)
    report = ["balloontrace", "report", "--format", "json", RECORDING]
    cost = json.loads(guest.run(report, timeout_s=TIMEOUT_S, check=True).stdout)["own_cost"]
    held = re.search(r"^VmRSS:\s*(\d+) kB$", status, re.MULTILINE)
    assert held is not None
    peak_bytes = max(cost["peak_memory_bytes"], cost["setup_peak_memory_bytes"])
    say(f"{' '.join(options)}: {attach_s:.1f} s, {int(held[1]) / 1e3:.1f} MB, peak {peak_bytes / MB:.1f} MB")
    return Start(attach_s, int(held[1]) * 1024, peak_bytes)


_NAMES = tuple(
    f"{side}_{what}_{engine}"
    for side in Side
    for engine in Engine
    for what in ("attach_time", "setup_memory", "held_memory")
)
BENCHMARKS = (Benchmark((*_NAMES, *(f"{side}_attach_time_over_bcc" for side in Side)), measure_startup),)

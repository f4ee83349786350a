# SPDX-License-Identifier: GPL-2.0-or-later
"""What it takes to start recording, memory and time, compared with an empty bcc program."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import lab
from bench.figures import Benchmark, Figure, say

GUEST_MIB = 2048
TIMEOUT_S = 180
RECORDING = "/run/bench.bt"
RUNS = 3
MB = 1e6

EMPTY_PROGRAM = """
import resource, sys
from bcc import BPF
program = BPF(text="int on_call(void *ctx) { return 0; }")
program.attach_kprobe(event="tell_host", fn_name="on_call")
print("attached", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
"""


def measure_startup() -> Iterator[Figure]:
    """Best times of RUNS, with Python's caches warm; worst memory."""
    own, empty = [], []
    with lab.solo(memory_mib=GUEST_MIB) as guest:
        for _ in range(RUNS):
            empty.append(_start_empty(guest))
            own.append(_start_recorder(guest))
            say(f"empty bcc program {empty[-1][0]:.1f} s; recorder {own[-1][0]:.1f} s")
    yield Figure("empty_bcc_program_attach_time", min(seconds for seconds, _ in empty), "s")
    yield Figure("attach_time", min(seconds for seconds, _, _ in own), "s")
    yield Figure("empty_bcc_program_peak_memory", max(peak for _, peak in empty) / MB, "MB")
    yield Figure("recorder_peak_memory", max(peak for _, peak, _ in own) / MB, "MB", at_most=140)
    yield Figure("recorder_setup_peak_memory", max(peak for _, _, peak in own) / MB, "MB", at_most=140)


def _start_empty(guest: lab.Guest) -> tuple[float, int]:
    started_s = time.monotonic()
    done = guest.run(["python3", "-c", EMPTY_PROGRAM], timeout_s=TIMEOUT_S, check=True)
    return time.monotonic() - started_s, int(done.stdout.split()[1])


def _start_recorder(guest: lab.Guest) -> tuple[float, int, int]:
    """Seconds until attached, peak memory of the recorder and of the child that sets it up, in bytes."""
    started_s = time.monotonic()
    process = guest.start(["balloontrace", "record", "-f", "-o", RECORDING, "-d", "1"])
    process.wait_for(b"probes attached", timeout_s=TIMEOUT_S)
    attach_s = time.monotonic() - started_s
    process.wait(TIMEOUT_S, check=True)
    done = guest.run(
        ["balloontrace", "report", "--format", "json", RECORDING], timeout_s=TIMEOUT_S, check=True
    )
    cost = json.loads(done.stdout)["own_cost"]
    return attach_s, cost["peak_memory_bytes"], cost["setup_peak_memory_bytes"]


BENCHMARKS = (
    Benchmark(
        (
            "empty_bcc_program_attach_time",
            "attach_time",
            "empty_bcc_program_peak_memory",
            "recorder_peak_memory",
            "recorder_setup_peak_memory",
        ),
        measure_startup,
    ),
)

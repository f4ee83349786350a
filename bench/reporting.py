# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a large recording takes to report, and how long the command line takes to say anything."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.figures import Benchmark, Figure
from bench.large import SENDS, write_large

RUNS = 3
GB = 1e9


def measure_report() -> Iterator[Figure]:
    """`report` on a million sends: best time of RUNS, worst memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.bt"
        write_large(path)
        runs = [_run([sys.executable, "-m", "balloontrace", "report", str(path)]) for _ in range(RUNS)]
    assert SENDS == 1_000_000
    yield Figure("report_million_sends", min(seconds for seconds, _ in runs), "s", at_most=5)
    yield Figure("report_million_sends_memory", max(peak for _, peak in runs) / GB, "GB", at_most=1)


def measure_help() -> Iterator[Figure]:
    """`balloontrace --help`, best of several."""
    runs = [_run([sys.executable, "-m", "balloontrace", "--help"]) for _ in range(3 * RUNS)]
    yield Figure("help", min(seconds for seconds, _ in runs), "s", at_most=0.3)


def _run(argv: Sequence[str]) -> tuple[float, int]:
    """Wall seconds and peak memory in bytes of one command, which must succeed."""
    started_s = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with status {process.returncode}")
    return time.monotonic() - started_s, usage.ru_maxrss * 1024


BENCHMARKS = (
    Benchmark(("help",), measure_help),
    Benchmark(("report_million_sends", "report_million_sends_memory"), measure_report),
)

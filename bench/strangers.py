# SPDX-License-Identifier: GPL-2.0-or-later
"""What files made to be costly cost: the most time and memory of any command on any of 100 MB.

ONLY=strangers measures them; a file's name after `python -m bench.strangers` shows that one alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.figures import Benchmark, Figure, say
from bench.made_recordings import write
from bench.strangersfiles import FILES

SIZE_BYTES = 100_000_000
GB = 1e9
MOST_S = 120
MOST_GB = 2.0
_GIVE_UP_S = 600

COMMANDS: tuple[tuple[str, ...], ...] = (
    *(("report", "--format", form) for form in ("table", "json", "csv", "markdown", "html")),
    *(("export", "--format", form) for form in ("ndjson", "perfetto")),
    ("export", "-o", "tables"),
)


def measure_strangers(names: Sequence[str] = tuple(FILES)) -> Iterator[Figure]:
    """The most of all; each command must do its work or refuse in one sentence."""
    longest_s = most_bytes = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder) / f"{name}.bt"
            write(path, FILES[name](SIZE_BYTES))
            for command in COMMANDS:
                taken_s, peak_bytes = _run(command, path, Path(folder))
                say(f"{name:18} {' '.join(command):26} {taken_s:6.1f} s {peak_bytes / GB:5.2f} GB")
                longest_s, most_bytes = max(longest_s, taken_s), max(most_bytes, peak_bytes)
            path.unlink()
    yield Figure("strangers", longest_s, "s", at_most=MOST_S)
    yield Figure("strangers_memory", most_bytes / GB, "GB", at_most=MOST_GB)


def _run(command: Sequence[str], path: Path, folder: Path) -> tuple[float, int]:
    """Wall seconds and peak memory in bytes of one command."""
    verb, *options = command
    if "-o" in options:
        options = ["-f", "-o", str(folder / options[options.index("-o") + 1])]
    started_s = time.monotonic()
    argv = [sys.executable, "-m", "balloontrace", verb, str(path), *options]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        timer = threading.Timer(_GIVE_UP_S, process.kill)
        timer.start()
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    refused = process.returncode == 1 and said.count("\n") == 1 and said.startswith("balloontrace: ")
    if process.returncode and not refused:
        raise RuntimeError(f"{' '.join(argv)} ended with status {process.returncode}: {said[-500:]}")
    return time.monotonic() - started_s, usage.ru_maxrss * 1024


BENCHMARKS = (Benchmark(("strangers", "strangers_memory"), measure_strangers),)

if __name__ == "__main__":
    for figure in measure_strangers(sys.argv[1:] or tuple(FILES)):
        print(figure.line())

# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast recordings get into a dataset, and how long questions of it take.

Times of a question are those of a process that has its libraries already: DuckDB is connected anew each time.
FLEET_OPERATIONS=N,... takes other sizes; FLEET_FOLDER keeps what was made in a folder, and uses it the next
time.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.dataset import Dataset, read_dataset
from balloontrace.archive.storage import open_storage
from balloontrace.fleet.ask import answer
from balloontrace.fleet.question import Options
from balloontrace.fleet.questions import questions
from bench.figures import Benchmark, Figure, say
from bench.fleet_operations import OPERATIONS_A_BATCH, write_operations
from bench.fleet_recordings import KERNELS, write_fleet

RECORDINGS, HOSTS, DAYS = 10_000, 50, 10
LEAST_RATE_PER_S = 50
MOST_S, MOST_LARGE_S = 1.0, 10.0
SIZES = tuple(int(size) for size in os.environ.get("FLEET_OPERATIONS", "2,5,10,20").split(","))
RUNS = 2
# Of processor time per operation, the largest size to the smallest: more is not linear.
MOST_GROWTH = 1.5


def measure_recordings() -> Iterator[Figure]:
    """10 000 recordings of 50 hosts on 10 days: archiving, archiving again, and each question."""
    with _folder("recordings") as folder:
        storage = open_storage(str(folder / "dataset"))
        if not (folder / "recordings").exists():
            write_fleet(folder / "recordings", RECORDINGS, HOSTS, DAYS)
        if not (folder / "dataset").exists():
            started = time.perf_counter()
            written = archive([folder / "recordings"], storage).written
            yield Figure(
                "fleet_archive", written / (time.perf_counter() - started), "/s", at_least=LEAST_RATE_PER_S
            )
            started = time.perf_counter()
            again = archive([folder / "recordings"], storage).known
            yield Figure("fleet_archive_again", again / (time.perf_counter() - started), "/s")
        dataset = read_dataset(storage)
        yield Figure("fleet_bytes_per_recording", _size_bytes(folder / "dataset") / len(dataset.ranks), "B")
        for name in questions():
            yield Figure(f"fleet_{name}", _seconds(dataset, name)[0], "s", at_most=MOST_S)


def measure_operations() -> Iterator[Figure]:
    """2, 5, 10 and 20 million operations: each question, and how its time grows."""
    with _folder("operations") as folder:
        storage = open_storage(str(folder))
        for number in range(len(read_dataset(storage).batches), _batches(max(SIZES))):
            write_operations(storage, number)
        every = read_dataset(storage)
        used: dict[str, list[float]] = {name: [] for name in questions()}
        for size in SIZES:
            some = Dataset(storage, every.batches[: _batches(size)])
            for name in questions():
                seconds, of_processor = _seconds(some, name)
                used[name].append(of_processor)
                yield Figure(f"fleet_{size}m_{name}", seconds, "s", at_most=MOST_LARGE_S)
        size_bytes = _size_bytes(folder)
        yield Figure("fleet_bytes_per_operation", size_bytes / (len(every.batches) * OPERATIONS_A_BATCH), "B")
        for name, runs in used.items():
            growth = (runs[-1] / SIZES[-1]) / (runs[0] / SIZES[0])
            yield Figure(f"fleet_growth_{name}", growth, "", at_most=MOST_GROWTH)


def _batches(millions: int) -> int:
    return millions * 1_000_000 // OPERATIONS_A_BATCH


def _seconds(dataset: Dataset, name: str) -> tuple[float, float]:
    """Of the shortest of some runs, each with an engine of its own: by the clock, and of all processors."""
    options = Options(before=KERNELS[0], after=KERNELS[1]) if questions()[name].sides else Options()
    runs: list[tuple[float, float]] = []
    for _ in range(RUNS):
        gc.collect()
        started, processor = time.perf_counter(), time.process_time()
        found = answer(dataset, name, questions()[name], options, "duckdb")
        runs.append((time.perf_counter() - started, time.process_time() - processor))
    shown = ", ".join(f"{run:.2f} ({used:.2f})" for run, used in runs)
    say(f"{name}: {len(found.rows)} rows, {shown} s by the clock (of processors)")
    return min(run for run, _ in runs), min(used for _, used in runs)


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    kept = os.environ.get("FLEET_FOLDER")
    if kept:
        folder = Path(kept) / name
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


BENCHMARKS = (
    Benchmark(
        (
            *("fleet_archive", "fleet_archive_again", "fleet_bytes_per_recording"),
            *(f"fleet_{name}" for name in questions()),
        ),
        measure_recordings,
        "fleet_recordings",
    ),
    Benchmark(
        (
            *(f"fleet_{size}m_{name}" for size in SIZES for name in questions()),
            "fleet_bytes_per_operation",
            *(f"fleet_growth_{name}" for name in questions()),
        ),
        measure_operations,
        "fleet_operations",
    ),
)

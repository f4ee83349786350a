# SPDX-License-Identifier: GPL-2.0-or-later
"""How long `compare` takes for two folders of 100 recordings each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from balloontrace.analysis.record_table import span_dtype
from balloontrace.format.guest_layout import parse_span_layout
from balloontrace.format.recording import read_recording
from balloontrace.format.recording_writer import RecordingWriter
from bench.figures import Benchmark, Figure

EXAMPLES = Path(__file__).parent.parent / "examples"
RECORDINGS = 100
RUNS = 3
LIMIT_S = 10


def measure_compare() -> Iterator[Figure]:
    """100 inflates of 7 GiB against 100, of 7168 sends each."""
    with tempfile.TemporaryDirectory() as folder:
        sides = write_folders(Path(folder))
        seconds = min(_compare(*sides, RECORDINGS) for _ in range(RUNS))
    yield Figure("compare_folders", seconds, "s", LIMIT_S)


def measure_compare_pairs() -> Iterator[Figure]:
    """50 inflates of 1 GiB against 50, recorded on both sides."""
    with tempfile.TemporaryDirectory() as folder:
        sides = write_pairs(Path(folder))
        seconds = min(_compare(*sides, RECORDINGS // 2) for _ in range(RUNS))
    yield Figure("compare_folders_of_pairs", seconds, "s", LIMIT_S)


def measure_compare_payloads() -> Iterator[Figure]:
    """100 inflates of a fragmented guest against 100, with all that their sends carried."""
    with tempfile.TemporaryDirectory() as folder:
        sides = write_copies(Path(folder), "bitmap-fragmented.bt")
        seconds = min(_compare(*sides, RECORDINGS) for _ in range(RUNS))
    yield Figure("compare_folders_with_payloads", seconds, "s", LIMIT_S)


def write_folders(folder: Path) -> tuple[Path, Path]:
    """The stock driver's example a hundred times with the clock a little faster or slower, and once more."""
    sides = folder / "before", folder / "after"
    rng = np.random.default_rng(1)
    for side in sides:
        side.mkdir()
        for number, factor in enumerate(np.exp(0.05 * rng.standard_normal(RECORDINGS))):
            write_variant(EXAMPLES / "stock-inflate.bt", side / f"{number}.bt", float(factor))
    return sides


def write_variant(source: Path, target: Path, factor: float) -> None:
    """A guest's recording in which everything took `factor` times as long."""
    recording = read_recording(source)
    layout = parse_span_layout(recording.metadata.get("span_layout"))
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    writer = RecordingWriter(fd)
    writer.write_metadata(recording.metadata)
    # Views, because a copy of records leaves out what is between their fields.
    pieces = [bytearray(piece) for piece in recording.spans]
    views = [np.frombuffer(piece, dtype=span_dtype(layout)) for piece in pieces]
    first_ns = min(int(spans["start_ns"].min()) for spans in views)
    for piece, spans in zip(pieces, views, strict=True):
        start_ns = spans["start_ns"].astype(np.int64) - first_ns
        end_ns = start_ns + spans["duration_ns"].astype(np.int64)
        # Both ends are moved in the same way, so that what lay inside another call still does.
        moved_ns, moved_end_ns = (np.floor(each * factor).astype(np.int64) for each in (start_ns, end_ns))
        spans["start_ns"], spans["duration_ns"] = moved_ns + first_ns, moved_end_ns - moved_ns
        writer.write_spans(bytes(piece))
    if recording.counters is not None:
        writer.write_counters(bytes(recording.counters))
    if recording.end is not None:
        writer.write_end(recording.end)
    os.close(fd)


def write_again(source: Path, target: Path) -> None:
    """A recording as if it had been made another time: copies of one are counted once."""
    recording = read_recording(source)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    writer = RecordingWriter(fd)
    writer.write_metadata({**recording.metadata, "recording_id": f"{target.parent.name}/{target.name}"})
    for pieces, write in (
        (recording.spans, writer.write_spans),
        (recording.payloads, writer.write_payloads),
        (recording.batches, writer.write_batches),
    ):
        for piece in pieces:
            write(bytes(piece))
    if recording.counters is not None:
        writer.write_counters(bytes(recording.counters))
    if recording.end is not None:
        writer.write_end(recording.end)
    os.close(fd)


def write_copies(folder: Path, example: str) -> tuple[Path, Path]:
    """An example a hundred times, and once more."""
    sides = folder / "before", folder / "after"
    for side in sides:
        side.mkdir()
        for number in range(RECORDINGS):
            write_again(EXAMPLES / example, side / f"{number}.bt")
    return sides


def write_pairs(folder: Path) -> tuple[Path, Path]:
    """The example of both sides fifty times, and once more."""
    sides = folder / "before", folder / "after"
    for side in sides:
        side.mkdir()
        for number in range(RECORDINGS // 2):
            write_again(EXAMPLES / "nested-qemu-guest.bt", side / f"{number}-guest.bt")
            shutil.copyfile(EXAMPLES / "nested-qemu-host.bt", side / f"{number}-host.bt")
    return sides


def _compare(before: Path, after: Path, operations: int) -> float:
    """Wall seconds of one comparison, which must have compared all."""
    argv = [sys.executable, "-m", "balloontrace", "compare", str(before), str(after), "--format", "json"]
    started_s = time.monotonic()
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - started_s
    (group,) = json.loads(done.stdout)["groups"]
    if not len(group["before"]) == len(group["after"]) == operations:
        raise RuntimeError(f"{len(group['before'])} and {len(group['after'])} operations were compared")
    return seconds


BENCHMARKS = (
    Benchmark(("compare_folders",), measure_compare),
    Benchmark(("compare_folders_of_pairs",), measure_compare_pairs),
    Benchmark(("compare_folders_with_payloads",), measure_compare_payloads),
)

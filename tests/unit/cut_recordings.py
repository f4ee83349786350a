# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings cut as `record --archive-every` cuts them: what ended until a moment is in one piece."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from balloontrace.analysis.metadata import is_of_host
from balloontrace.analysis.record_table import record_table, span_dtype
from balloontrace.format.guest_layout import parse_span_layout
from balloontrace.format.host_layout import parse_batch_layout
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.recording_writer import RecordingWriter

NEXT = "the next recording goes on"


def cut(source: Path, at_ns: Sequence[int], folder: Path, *, later_ns: int = 0) -> list[Path]:
    """Write the pieces of a recording that was cut at these moments of its own clock.

    With `later_ns` as if all had been made so much later. Sums of calls, and own cost, are left out.
    """
    recording = read_recording(source)
    folder.mkdir(parents=True, exist_ok=True)
    started, ended = _clocks(recording.metadata["started"]), _clocks((recording.end or {})["ended"])
    moments = [started[0], *at_ns, ended[0]]
    assert moments == sorted(moments)
    found = []
    for number, (first_ns, last_ns) in enumerate(pairwise(moments)):
        path = folder / f"balloon-{source.stem}-{later_ns}-{number:03}.bt"
        bounds = (first_ns if number else 0, last_ns if number < len(at_ns) else 1 << 63)
        clocks = [(each, started[1] + each - started[0]) for each in (first_ns, last_ns)]
        if number == len(at_ns):
            clocks[1] = ended
        _write(recording, path, bounds, clocks, later_ns, is_last=number == len(at_ns))
        found.append(path)
    return found


def _clocks(table: Any) -> tuple[int, int]:
    return table["monotonic_ns"], table["realtime_ns"]


def _write(
    recording: Recording,
    path: Path,
    bounds: tuple[int, int],
    clocks: Sequence[tuple[int, int]],
    later_ns: int,
    *,
    is_last: bool,
) -> None:
    started, ended = (
        {"monotonic_ns": each[0] + later_ns, "realtime_ns": each[1] + later_ns} for each in clocks
    )
    raw, functions = _records(recording, bounds, later_ns)
    identity = hashlib.sha256(f"{recording.metadata['recording_id']} {path.name}".encode()).hexdigest()[:32]
    command: Any = recording.metadata["command_line"]
    end: Any = recording.end
    with path.open("wb") as file:
        writer = RecordingWriter(file.fileno())
        writer.write_metadata(
            {
                **recording.metadata,
                "recording_id": identity,
                "command_line": [*command, "--archive-every", "1h"],
                "started": started,
                "vmstat": {},
                "balloons": [],
            }
        )
        if is_of_host(recording):
            writer.write_batches(raw)
        else:
            writer.write_spans(raw)
        for reading in recording.readings:
            at_ns: Any = reading["monotonic_ns"]
            if bounds[0] < at_ns <= bounds[1] and not later_ns:
                writer.write_reading(reading)
        losses = {name: {**counts, **functions.get(name, {})} for name, counts in end["losses"].items()}
        changes: dict[str, object] = {
            "losses": losses,
            "ended": ended,
            "own_cost": None,
            "vmstat": {},
            "vmstat_traced": {},
            "balloons": [],
        }
        writer.write_end({**end, **changes, **({} if is_last else {"reason": NEXT})})


def _records(
    recording: Recording, bounds: tuple[int, int], later_ns: int
) -> tuple[bytes, dict[str, dict[str, int]]]:
    """Records that ended within bounds, and what was counted of them."""
    of_host = is_of_host(recording)
    parse = parse_batch_layout if of_host else parse_span_layout
    layout = parse(recording.metadata.get("batch_layout" if of_host else "span_layout"))
    records, _ = record_table(recording.batches if of_host else recording.spans, layout)
    records = records.copy()
    table = records.view(span_dtype(layout)).reshape(-1)
    if of_host:
        ends = np.maximum(table["done_ns"], table["last_return_ns"])
    else:
        ends = table["start_ns"] + table["duration_ns"]
    mine = (ends > bounds[0]) & (ends <= bounds[1])
    for name in ("kick_ns", "first_call_ns", "last_return_ns", "done_ns", "idle_ns", "start_ns"):
        if name in (table.dtype.names or ()):
            table[name] += np.where(table[name] > 0, np.uint64(later_ns), np.uint64(0)).astype(np.uint64)
    raw = records[mine].tobytes()  # headers of the ring included, which no field covers
    if of_host:
        return raw, {"batches": {"entries": int(mine.sum())}}
    names: Any = recording.metadata["functions"]
    numbers, counts = np.unique(table["function"][mine], return_counts=True)
    made = dict.fromkeys(names.values(), 0)
    made |= {
        names[str(number)]: count for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    }
    end: Any = recording.end
    return raw, {
        name: {"entries": count}
        if end["losses"].get(name, {}).get("returns") is None
        else {"entries": count, "returns": count}
        for name, count in made.items()
    }

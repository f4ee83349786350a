# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording of the host's side from start to end, on a collector that is a script of what it drains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from synthetic_host import CallSums, batch, record, slot

from balloontrace.analysis.columns import decode_batches
from balloontrace.console.progress import host_progress_line
from balloontrace.errors import UsageError
from balloontrace.format.host_counters import moved_sums
from balloontrace.format.host_layout import parse_batch_layout
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import Call
from balloontrace.system.vmm import Process, read_process
from balloontrace.trace.engines.request import Loaded
from balloontrace.trace.host.call_cost import CallCost
from balloontrace.trace.host.collector import HostCollector
from balloontrace.trace.host.memory_slots import MemorySlot
from balloontrace.trace.host.probes import make_host_plan
from balloontrace.trace.host.process_watch import ProcessWatch
from balloontrace.trace.host.session import HostSession
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.session import Ending, SessionResult

pytestmark = pytest.mark.usefixtures("signals_as_before")


class ScriptedCollector:
    """Has one batch to drain, and one under way."""

    filled = 0.0
    cpu_ns_before = 0
    timing = False
    call_cost = CallCost(500.0, 200.0)
    timed: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.plan = make_host_plan(())
        self.loaded = Loaded({}, {}, [], {"madvise": "refused"}, "bcc", "0.31.0", 9_000, 100 << 20, 9_000)
        self.timings: list[bool] = []
        self._waiting = [record(first_call_ns=5, last_return_ns=6, calls_0=3)]

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def drain(self, take: Callable[[memoryview], object]) -> int:
        count = len(self._waiting)
        for raw in self._waiting:
            take(memoryview(raw))
        self._waiting.clear()
        return count

    def read_counters(self) -> bytes:
        return slot(
            7,
            CallSums(Call.MADVISE_DONTNEED, 2000, 4096, 2000 * 1024),
            under_way=batch(first_call_ns=9, calls_0=1),
        )

    def read_moved(self, counters: bytes | None = None) -> bytes:
        return moved_sums(self.read_counters() if counters is None else counters)

    def read_missed(self) -> int:
        return 11

    def read_program_costs(self, calls: Mapping[str, int]) -> list[dict[str, object]]:
        return [{"program": "fexit_madvise", "runs": calls["madvise"]}]

    def read_memory_slots(self) -> tuple[MemorySlot, ...]:
        return (MemorySlot(1 << 30, 4096, 0),)

    def read_eventfds(self) -> list[dict[str, object]]:
        return [{"number": 1, "tid": 7, "kicks": 2, "times_ns": [3, 4]}]

    def read_faults(self) -> dict[str, int]:
        return {"faults": 5}

    def set_timing(self, on: bool) -> None:
        self.timing = on
        self.timings.append(on)

    def detach(self) -> None:
        pass


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])


def run(
    tmp_path: Path, process: Process, options: TraceOptions, meanwhile: Callable[[], object] = lambda: None
) -> tuple[SessionResult, Recording, ScriptedCollector]:
    path = tmp_path / "host.bt"
    collector = ScriptedCollector()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with closing(ProcessWatch(process)) as watch:
        session = HostSession(cast(HostCollector, collector), process, watch, fd, options, say=lambda _: None)
        session.write_start()
        meanwhile()
        result = session.run()
    os.close(fd)
    return result, read_recording(path), collector


def test_the_end_of_the_process_ends_the_recording(tmp_path: Path) -> None:
    child = sleeper()
    process = read_process(child.pid)
    result, recording, collector = run(tmp_path, process, TraceOptions(), child.kill)
    child.wait()
    assert (result.ending, result.records, result.what) == (Ending.PROCESS_EXITED, 1, ("batch", "batches"))
    assert recording.complete
    assert recording.end is not None
    assert (recording.end["reason"], recording.end["clean"]) == ("process exited", True)
    assert recording.end["own_cost"]["bpf"][0]["runs"] == 2000  # type: ignore[index]
    assert recording.metadata["process"]["pid"] == child.pid  # type: ignore[index]
    assert recording.metadata["boundaries"] == {"kick": None, "completion": None}
    assert result.losses["calls"]["missed"] == 11
    batches = decode_batches(recording.batches, parse_batch_layout(recording.metadata["batch_layout"]))
    assert batches.int64("first_call_ns").tolist() == [5, 9]
    assert collector.timings == [True, False]


def test_it_ends_as_asked_and_holds_the_memory_of_the_process(tmp_path: Path) -> None:
    child = sleeper()
    result, recording, _ = run(tmp_path, read_process(child.pid), TraceOptions(duration_s=0.1))
    child.kill()
    child.wait()
    assert result.ending is Ending.DURATION
    assert recording.end is not None
    assert recording.end["memory"]["rss_anon_bytes"] > 0  # type: ignore[index]
    assert recording.end["eventfds"] == [{"number": 1, "tid": 7, "kicks": 2, "times_ns": [3, 4]}]
    assert isinstance(recording.end["regions"], list)


def test_a_reading_that_shows_more_than_was_seen_to_move_is_not_kept(tmp_path: Path) -> None:
    process, collector = read_process(os.getpid()), ScriptedCollector()
    with closing(ProcessWatch(process)) as watch, (tmp_path / "x").open("wb") as out:
        session = HostSession(
            cast(HostCollector, collector), process, watch, out.fileno(), TraceOptions(), say=lambda _: None
        )
        session._activity(collector.read_counters())
        first = session._read_state(moving=False)
        second = session._read_state(moving=False)
        assert first["monotonic_ns"] != second["monotonic_ns"]
        # A call between the look at the counters and the reading.
        session._activity(slot(7, CallSums(Call.MADVISE_DONTNEED, 1999, 4096, 1999 * 1024)))
        assert session._read_state(moving=False) == second


def test_a_process_that_is_gone_cannot_be_watched() -> None:
    child = sleeper()
    process = read_process(child.pid)
    child.kill()
    child.wait()
    with pytest.raises(UsageError, match=f"process {process.pid} cannot be watched"):
        ProcessWatch(process)


def test_the_line_a_terminal_shows() -> None:
    from balloontrace.format.host_counters import parse_host_counters

    nothing = parse_host_counters(b"")
    assert host_progress_line(nothing, nothing, 1) == "waiting for the process to serve its balloon"
    now = parse_host_counters(slot(7, CallSums(Call.MADVISE_DONTNEED, 1000, 3 << 30, 1000 * 1024)))
    line = host_progress_line(nothing, now, 4_096_000)
    assert line == "1 buffer served, 1000 calls (+1000) on 3.00 GiB; time in calls: 25 %"

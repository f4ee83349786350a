# SPDX-License-Identifier: GPL-2.0-or-later
"""One recording from start to end, on a collector that is only a script of what it drains."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from fake_system import FakeSystem, lay_out_bcc, limited_to

from balloontrace.analysis.metadata import parse_driver_gaps
from balloontrace.commands.record import _require_progress
from balloontrace.errors import MissingProbeError, UsageError
from balloontrace.format.guest_counters import Counters
from balloontrace.format.guest_layout import (
    COUNTERS,
    FUNCTION_COUNTERS,
    FUNCTIONS,
    RING_HEADER_BYTES,
    SPAN,
)
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.system.kernel import read_balloon_devices
from balloontrace.trace.attached_programs import parse_fdinfo
from balloontrace.trace.engines.request import Loaded
from balloontrace.trace.guest.collector import Collector
from balloontrace.trace.guest.diagnosis import Diagnosis, diagnose
from balloontrace.trace.guest.driver_watch import DriverState, DriverWatch
from balloontrace.trace.guest.session import Session
from balloontrace.trace.guest.unseen_pages import UNIT_PAGES
from balloontrace.trace.session import Ending, SessionOptions, SessionResult, protect_from_oom_killer

RECORD = struct.pack("II", SPAN.size_bytes, 0) + bytes(SPAN.size_bytes)
COUNTERS_BYTES = COUNTERS.size_bytes
OPERATIONS_OFFSET = FUNCTIONS * FUNCTION_COUNTERS.size_bytes + 8


def counters(operations: int = 0) -> bytes:
    raw = bytearray(COUNTERS_BYTES)
    struct.pack_into("Q", raw, OPERATIONS_OFFSET, operations)
    return bytes(raw)


class ScriptedCollector:
    """Drains `drains` one after the other, then nothing; counts operations as it goes."""

    def __init__(
        self, diagnosis: Diagnosis, drains: Sequence[bytes] = (), operations: Sequence[int] = ()
    ) -> None:
        self.plan = diagnosis.plan
        self.loaded = Loaded({}, {}, [], {}, "0.31.0", 9_000, 100 << 20, 9_000)
        self.detached = False
        self.drains_after_detaching = 0
        self._drains = list(drains)
        self._operations = list(operations)

    timing = False
    filled = 0.0
    captures = False

    def set_timing(self, on: bool) -> None:
        self.timing = on

    @property
    def waiting(self) -> int:
        return len(self._drains[0]) // len(RECORD) if self._drains else 0

    def drain(self, take: Callable[[memoryview], object]) -> int:
        self.drains_after_detaching += self.detached
        count = len(self._drains) if self.detached else 1
        raw = b"".join(self._drains[:count])
        del self._drains[:count]
        if raw:
            take(memoryview(raw))
        return len(raw) // len(RECORD)

    def drain_payloads(self, _take: Callable[[memoryview], object]) -> int:
        return 0

    def read_counters(self) -> bytes:
        if len(self._operations) > 1:
            return counters(self._operations.pop(0))
        return counters(*self._operations)

    def read_program_costs(self, _counters: Counters) -> list[dict[str, object]]:
        return [{"program": "fentry_tell_host", "runs": 7, "timed_runs": 7, "run_time_ns": 700}]

    def read_missed(self) -> dict[Function, int | None]:
        return {Function.TELL_HOST: 3}

    def detach(self) -> None:
        self.detached = True


@pytest.fixture
def diagnosis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Diagnosis:
    monkeypatch.syspath_prepend(lay_out_bcc(tmp_path / "python"))
    system = FakeSystem(tmp_path / "root")
    # Without a driver in it nothing of the real system is watched for going away.
    system.kallsyms(
        line.partition("\t")[0] for line in (system.root / "proc/kallsyms").read_text().splitlines()
    )
    system.device("virtio3", 5, (1, 32), driver=None)
    return diagnose(system.root)


@pytest.fixture(autouse=True)
def _signals_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("balloontrace.trace.session._WAKE_UP_S", 0.02)
    monkeypatch.setattr("balloontrace.trace.session._WAKE_UP_WATCHED_S", 0.01)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Run:
    """A session that has run: its result, its recording, what it said."""

    def __init__(
        self,
        tmp_path: Path,
        diagnosis: Diagnosis,
        options: SessionOptions,
        drains: Sequence[bytes] = (),
        operations: Sequence[int] = (),
    ) -> None:
        self.collector = ScriptedCollector(diagnosis, drains, operations)
        self.said: list[str] = []
        path = tmp_path / "out.bt"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self.result = run_session(self.collector, diagnosis, fd, options, self.said.append)
        finally:
            os.close(fd)
        self.recording = read_recording(path)


def run_session(
    collector: ScriptedCollector,
    diagnosis: Diagnosis,
    fd: int,
    options: SessionOptions,
    say: Callable[[str], None] = lambda _: None,
) -> SessionResult:
    session = Session(
        cast(Collector, collector), diagnosis, fd, options, started_ns=time.monotonic_ns(), say=say
    )
    session.write_start()
    return session.run()


def vmstat_of(inflated: Sequence[int]) -> Callable[[], dict[str, int]]:
    looks = [{"balloon_inflate": pages // UNIT_PAGES, "balloon_deflate": 0} for pages in inflated]
    return lambda: looks.pop(0)


def spans_in(recording: Recording) -> int:
    return sum(len(piece) for piece in recording.spans) // (RING_HEADER_BYTES + SPAN.size_bytes)


def end_of(recording: Recording) -> dict[str, object]:
    assert recording.end is not None
    assert recording.damage == ()
    return recording.end


def signal_soon(*numbers: int) -> None:
    """Sends signals to this process once the session runs."""

    def send() -> None:
        time.sleep(0.1)
        for number in numbers:
            os.kill(os.getpid(), number)

    threading.Thread(target=send).start()


# ---- endings ----


class Looks(DriverWatch):
    """A driver that is what a script says, look by look; the last look stays."""

    def __init__(self, *states: DriverState) -> None:
        self.state, self.left = states[0], list(states)

    def look(self) -> DriverState:
        self.state = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return self.state


HERE = DriverState(1, {"virtio3": 10})
UNBOUND = DriverState(1, {})
AGAIN = DriverState(1, {"virtio3": 11})
PLUGGED_AGAIN = DriverState(1, {"virtio4": 12})
UNLOADED = DriverState(None, {})
LOADED_AGAIN = DriverState(2, {"virtio3": 13})


def follow(
    tmp_path: Path,
    diagnosis: Diagnosis,
    monkeypatch: pytest.MonkeyPatch,
    *states: DriverState,
    collector: ScriptedCollector | None = None,
) -> tuple[SessionResult, Recording]:
    monkeypatch.setattr("balloontrace.trace.guest.session.DriverWatch", lambda _: Looks(*states))
    with (tmp_path / "out.bt").open("wb") as file:
        collector = collector or ScriptedCollector(diagnosis)
        result = run_session(collector, diagnosis, file.fileno(), SessionOptions(duration_s=0.4))
    return result, read_recording(tmp_path / "out.bt")


@pytest.mark.parametrize(
    ("states", "told"),
    [
        pytest.param((HERE, HERE, UNBOUND, UNBOUND, AGAIN), ["gone", "back"], id="bound again"),
        pytest.param((HERE, AGAIN), ["back"], id="bound again between two looks"),
        pytest.param((HERE, UNBOUND, PLUGGED_AGAIN), ["gone", "back"], id="plugged again by another name"),
        pytest.param((HERE, UNBOUND, AGAIN, UNBOUND, HERE), ["gone", "back"] * 2, id="twice"),
        pytest.param((HERE, DriverState(1, {"virtio3": 10, "virtio7": 5})), [], id="one more"),
    ],
)
def test_a_driver_that_comes_back_is_waited_for(
    tmp_path: Path,
    diagnosis: Diagnosis,
    monkeypatch: pytest.MonkeyPatch,
    states: tuple[DriverState, ...],
    told: list[str],
) -> None:
    result, recording = follow(tmp_path, diagnosis, monkeypatch, *states)
    assert result.ending is Ending.DURATION
    assert recording.complete
    assert [event["what"] for event in recording.driver_events] == told
    assert all(event["devices"] == ["virtio3"] for event in recording.driver_events)
    assert not any(event.get("reattached") for event in recording.driver_events)
    gaps = parse_driver_gaps(recording)
    assert len(gaps) == told.count("back")
    for gap in gaps:
        assert gap.last_seen_ns is not None
        assert gap.back_ns is not None
        assert gap.last_seen_ns <= (gap.gone_ns or gap.last_seen_ns) <= gap.back_ns


@pytest.mark.parametrize("last", [UNBOUND, UNLOADED])
def test_a_driver_that_stays_away_is_the_end(
    tmp_path: Path, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, last: DriverState
) -> None:
    result, recording = follow(tmp_path, diagnosis, monkeypatch, HERE, last)
    assert result.ending is Ending.DRIVER_GONE
    assert end_of(recording)["clean"] is False
    (gap,) = parse_driver_gaps(recording)
    assert (gap.devices, gap.back_ns) == (("virtio3",), None)


class ReattachingCollector(ScriptedCollector):
    """Can be attached again, or says why not."""

    def __init__(self, diagnosis: Diagnosis, error: Exception | None = None) -> None:
        super().__init__(diagnosis)
        self.error = error
        self.reattached = 0

    def reattach(self) -> None:
        self.reattached += 1
        if self.error is not None:
            raise self.error


def test_a_module_loaded_again_is_attached_to_again(
    tmp_path: Path, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = ReattachingCollector(diagnosis)
    states = (HERE, UNLOADED, UNLOADED, LOADED_AGAIN)
    result, recording = follow(tmp_path, diagnosis, monkeypatch, *states, collector=collector)
    assert (result.ending, collector.reattached) == (Ending.DURATION, 1)
    (gap,) = parse_driver_gaps(recording)
    assert gap.reattached is True


@pytest.mark.parametrize("error", [MissingProbeError("tell_host is not in it any more"), OSError(1, "no")])
def test_a_module_that_cannot_be_attached_to_again_is_the_end(
    tmp_path: Path, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    collector = ReattachingCollector(diagnosis, error)
    states = (HERE, UNLOADED, LOADED_AGAIN)
    result, _ = follow(tmp_path, diagnosis, monkeypatch, *states, collector=collector)
    assert (result.ending, collector.reattached) == (Ending.DRIVER_GONE, 1)


def test_another_build_of_the_driver_is_not_taken_for_the_first(
    tmp_path: Path, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = ["A0", "B1"]
    monkeypatch.setattr("balloontrace.system.kernel.read_module_srcversion", lambda _: versions.pop(0))
    collector = ReattachingCollector(diagnosis)
    states = (HERE, UNLOADED, LOADED_AGAIN)
    result, _ = follow(tmp_path, diagnosis, monkeypatch, *states, collector=collector)
    assert (result.ending, collector.reattached) == (Ending.DRIVER_GONE, 0)


def test_the_driver_is_looked_at_where_sysfs_shows_it(tmp_path: Path, diagnosis: Diagnosis) -> None:
    root = tmp_path / "other"
    system = FakeSystem(root)
    system.device("virtio3", 5, (1, 32), driver="virtio_balloon")
    loaded = system.folder("sys/module/virtio_balloon")
    found = replace(
        diagnosis,
        devices=read_balloon_devices(root),
        plan=replace(diagnosis.plan, driver_module="virtio_balloon"),
    )
    watch = DriverWatch(found, root)
    first = watch.look()
    assert watch.look() is first
    assert not watch.gone()
    (root / "sys/bus/virtio/devices/virtio3/driver").unlink()
    away = watch.look()
    assert (away.lacks(first), away.replaces(first)) == (("virtio3",), False)
    assert watch.gone()
    system.device("virtio5", 5, (1, 32), driver="virtio_balloon")
    back = watch.look()
    assert (tuple(back.bound), back.replaces(first)) == (("virtio5",), True)
    loaded.rmdir()
    assert not watch.look().replaces(first)


def test_duration(tmp_path: Path, diagnosis: Diagnosis) -> None:
    started_s = time.monotonic()
    run = Run(tmp_path, diagnosis, SessionOptions(duration_s=0.15), [RECORD * 3, b"", RECORD * 2])
    assert 0.15 <= time.monotonic() - started_s < 5
    assert (run.result.ending, run.result.records, spans_in(run.recording)) == (Ending.DURATION, 5, 5)
    end = end_of(run.recording)
    assert (end["clean"], end["reason"]) == (True, "duration reached")
    assert run.recording.complete


def test_operations(tmp_path: Path, diagnosis: Diagnosis) -> None:
    run = Run(tmp_path, diagnosis, SessionOptions(operations=5), [RECORD] * 9, [0, 1, 2, 4, 5, 5, 5])
    assert run.result.ending is Ending.OPERATIONS
    assert run.result.records >= 5


def test_operations_need_the_target(diagnosis: Diagnosis) -> None:
    """It is known only after attaching whether it will be seen: kptr_restrict=2 hides one of two vp_get."""
    _require_progress(diagnosis.plan, diagnosis, {})
    with pytest.raises(UsageError, match="--operations needs the balloon's target"):
        _require_progress(diagnosis.plan, diagnosis, {"config_get": "vp_get has no kprobe: Invalid argument"})


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9)])
def test_command(tmp_path: Path, diagnosis: Diagnosis, script: str, status: int) -> None:
    run = Run(tmp_path, diagnosis, SessionOptions(command=("sh", "-c", script)), [RECORD])
    assert (run.result.ending, run.result.command_status) == (Ending.COMMAND, status)
    assert (end_of(run.recording)["command_status"], end_of(run.recording)["clean"]) == (status, True)


def test_the_earlier_of_duration_and_command(tmp_path: Path, diagnosis: Diagnosis) -> None:
    run = Run(tmp_path, diagnosis, SessionOptions(duration_s=0.1, command=("sleep", "1000")))
    assert (run.result.ending, run.result.command_status) == (Ending.DURATION, None)


@pytest.mark.parametrize(
    ("number", "ending"), [(signal.SIGINT, Ending.INTERRUPTED), (signal.SIGTERM, Ending.TERMINATED)]
)
def test_signals_end_it_in_order(tmp_path: Path, diagnosis: Diagnosis, number: int, ending: Ending) -> None:
    signal_soon(number)
    run = Run(tmp_path, diagnosis, SessionOptions(), [RECORD * 7])
    assert (run.result.ending, spans_in(run.recording)) == (ending, 7)
    assert end_of(run.recording)["clean"] is True


def test_a_signal_is_answered_at_once(
    tmp_path: Path, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balloontrace.trace.session._WAKE_UP_S", 60)
    signal_soon(signal.SIGTERM)
    started_s = time.monotonic()
    Run(tmp_path, diagnosis, SessionOptions())
    assert time.monotonic() - started_s < 10


def test_a_signal_right_after_the_greeting_ends_it_in_order(tmp_path: Path, diagnosis: Diagnosis) -> None:
    def interrupt(_greeting: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    fd = os.open(tmp_path / "out.bt", os.O_WRONLY | os.O_CREAT, 0o600)
    collector = cast(Collector, ScriptedCollector(diagnosis))
    session = Session(collector, diagnosis, fd, SessionOptions(), started_ns=0, say=interrupt)
    session.write_start()
    result = session.run("probes attached")
    os.close(fd)
    assert result.ending is Ending.INTERRUPTED
    assert end_of(read_recording(tmp_path / "out.bt"))["clean"] is True


def test_a_command_writes_nothing_into_the_recording(tmp_path: Path, diagnosis: Diagnosis) -> None:
    path = tmp_path / "out.bt"
    saved = os.dup(1)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(fd, 1)
        run_session(ScriptedCollector(diagnosis), diagnosis, 1, SessionOptions(command=("echo", "hello")))
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(fd)
    end_of(read_recording(path))
    assert b"hello" not in path.read_bytes()


def test_a_second_interrupt_drops_it(tmp_path: Path, diagnosis: Diagnosis) -> None:
    """The first one ends the loop; the second arrives while the end is written."""

    class Slow(ScriptedCollector):
        def detach(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)

    signal_soon(signal.SIGINT)
    fd = os.open(tmp_path / "out.bt", os.O_WRONLY | os.O_CREAT, 0o600)
    with pytest.raises(KeyboardInterrupt):
        run_session(Slow(diagnosis), diagnosis, fd, SessionOptions())
    os.close(fd)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_goes(diagnosis: Diagnosis, kind: str) -> None:
    # A socket reports only a hang-up when its peer has read everything.
    reader, writer = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    collector = ScriptedCollector(diagnosis)
    session = Session(
        cast(Collector, collector), diagnosis, writer, SessionOptions(), started_ns=0, say=print
    )
    session.write_start()
    os.read(reader, 1 << 20)
    os.close(reader)
    result = session.run()
    os.close(writer)
    # Nothing was waiting to be written: the closing itself is noticed.
    assert result.ending is Ending.OUTPUT_CLOSED
    assert not result.ending.clean
    assert result.error is not None
    assert result.bytes_written > 0


def test_a_full_disk(diagnosis: Diagnosis) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    collector = ScriptedCollector(diagnosis, [RECORD])
    session = Session(cast(Collector, collector), diagnosis, fd, SessionOptions(), started_ns=0, say=print)
    with pytest.raises(OSError, match="No space left"):
        session.write_start()
    result = session.run()
    os.close(fd)
    assert (result.ending, result.error and result.error.errno) == (Ending.OUTPUT_FAILED, errno.ENOSPC)
    assert not result.ending.clean


# ---- what is written ----


def test_what_is_left_is_drained_after_detaching(tmp_path: Path, diagnosis: Diagnosis) -> None:
    run = Run(tmp_path, diagnosis, SessionOptions(duration_s=0.01), [b"", RECORD * 4])
    assert run.collector.detached
    assert run.collector.drains_after_detaching == 1
    assert spans_in(run.recording) == run.result.records


def test_nothing_is_written_while_nothing_happens(tmp_path: Path, diagnosis: Diagnosis) -> None:
    short = Run(tmp_path, diagnosis, SessionOptions(duration_s=0.05)).recording
    long = Run(tmp_path, diagnosis, SessionOptions(duration_s=0.5)).recording
    assert abs(long.size_bytes - short.size_bytes) < 16


def test_metadata_says_what_it_is(tmp_path: Path, diagnosis: Diagnosis) -> None:
    metadata = Run(tmp_path, diagnosis, SessionOptions(duration_s=0.01, label="a name")).recording.metadata
    assert metadata["label"] == "a name"
    again = Run(tmp_path, diagnosis, SessionOptions(duration_s=0.01)).recording.metadata
    assert len(str(metadata["recording_id"])) == len(str(again["recording_id"])) == 32
    assert metadata["recording_id"] != again["recording_id"]
    assert metadata["side"] == "guest"
    assert metadata["driver"] == {"kind": "stock", "module": None, "module_srcversion": None}
    assert metadata["boundaries"] == {
        "fill": "update_balloon_size_func",
        "leak": "leak_balloon",
        "send": "tell_host",
    }
    assert [device["index"] for device in cast("list[dict[str, object]]", metadata["devices"])] == [3]
    assert {"machine", "clock", "started", "span_layout", "counters_layout", "probes", "vmstat"} <= set(
        metadata
    )


def test_the_end_says_what_it_cost_and_lost(tmp_path: Path, diagnosis: Diagnosis) -> None:
    run = Run(tmp_path, diagnosis, SessionOptions(duration_s=0.01), [RECORD])
    end = end_of(run.recording)
    cost = cast("dict[str, object]", end["own_cost"])
    assert cost["bpf"] == [{"program": "fentry_tell_host", "runs": 7, "timed_runs": 7, "run_time_ns": 700}]
    assert cast(int, cost["peak_memory_bytes"]) > 1 << 20
    assert cost["setup_peak_memory_bytes"] == 100 << 20
    assert set(cost) == {
        "bpf", "cpu_ns", "peak_memory_bytes", "setup_cpu_ns", "setup_peak_memory_bytes", "wakeups",
        "bytes_written", "attach_s",
    }  # fmt: skip
    losses = cast("dict[str, dict[str, object]]", end["losses"])
    assert losses["tell_host"]["lost"] == 0
    assert (losses["tell_host"]["missed"], losses["leak_balloon"]["missed"]) == (3, None)
    assert losses["virtballoon_changed"]["returns"] is None


def test_counts_of_a_program_are_read_from_its_descriptor() -> None:
    text = "pos:\t0\nprog_type:\t26\nprog_tag:\t48ff\nrun_time_ns:\t700\nrun_cnt:\t7\nrecursion_misses:\t3\n"
    found = parse_fdinfo(text)
    assert (found["run_time_ns"], found["run_cnt"], found["recursion_misses"]) == (700, 7, 3)


# ---- pages that no probe saw ----


class CountingCollector(ScriptedCollector):
    """Its programs have counted sends of so many pages, and work items that returned or did not."""

    def __init__(self, diagnosis: Diagnosis, sent_pages: int, *, entries: int = 9, returns: int = 9) -> None:
        super().__init__(diagnosis)
        self.raw = bytearray(COUNTERS_BYTES)
        for function, pages in ((Function.UPDATE_BALLOON_SIZE_FUNC, 0), (Function.TELL_HOST, sent_pages)):
            row = (entries, returns, 0, 0, 0, 0, 0, pages)
            struct.pack_into("8Q", self.raw, function * FUNCTION_COUNTERS.size_bytes, *row)

    def read_missed(self) -> dict[Function, int | None]:
        return {Function.TELL_HOST: 0}

    def read_counters(self) -> bytes:
        return bytes(self.raw)


def record_moving(
    tmp_path: Path,
    diagnosis: Diagnosis,
    monkeypatch: pytest.MonkeyPatch,
    collector: ScriptedCollector,
    vmstats: Sequence[tuple[int, int, int]],
) -> tuple[SessionResult, Recording]:
    """A session that finds `vmstats` (in, out, migrated) at its start, before and after detaching."""
    names = ("balloon_inflate", "balloon_deflate", "balloon_migrate")
    looks = [dict(zip(names, each, strict=True)) for each in vmstats]
    monkeypatch.setattr("balloontrace.system.kernel.read_vmstat", lambda: looks.pop(0))
    with (tmp_path / "out.bt").open("wb") as file:
        result = run_session(collector, diagnosis, file.fileno(), SessionOptions(duration_s=0.01))
    return result, read_recording(tmp_path / "out.bt")


def test_pages_that_no_probe_saw_are_counted(
    tmp_path: Path, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kernel.ftrace_enabled=0, for one: everything is attached, and nothing ever runs."""
    looks = [(7, 3, 0), (1007, 903, 0), (1007, 903, 0)]
    result, recording = record_moving(tmp_path, diagnosis, monkeypatch, ScriptedCollector(diagnosis), looks)
    assert result.unseen is not None
    assert (result.unseen.pages, result.unseen.moved.pages) == (1900 * UNIT_PAGES, 1900 * UNIT_PAGES)
    assert end_of(recording)["vmstat_traced"] == {
        "balloon_inflate": 1007, "balloon_deflate": 903, "balloon_migrate": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sent_pages", "calls", "after", "unseen_pages"),
    [
        pytest.param(1000, (9, 9), (1000, 0, 0), 0, id="all seen"),
        pytest.param(300, (9, 9), (1000, 0, 0), 700, id="disarmed in the middle"),
        pytest.param(1400, (9, 9), (1000, 0, 0), 0, id="sent first, moved before the first look"),
        pytest.param(800, (9, 8), (1000, 0, 0), 0, id="a call was under way"),
        pytest.param(300, (9, 8), (1000, 0, 0), 444, id="a call was under way, and more is missing"),
        pytest.param(1006, (9, 9), (1000, 0, 3), 0, id="migrations are sent both ways"),
    ],
)
def test_pages_under_way_are_no_false_alarm(
    tmp_path: Path,
    diagnosis: Diagnosis,
    monkeypatch: pytest.MonkeyPatch,
    sent_pages: int,
    calls: tuple[int, int],
    after: tuple[int, int, int],
    unseen_pages: int,
) -> None:
    monkeypatch.setattr("balloontrace.trace.guest.unseen_pages.UNIT_PAGES", 1)
    monkeypatch.setattr("balloontrace.trace.guest.session.UNIT_PAGES", 1)
    layout = replace(diagnosis.layout, offsets={"virtio_balloon.num_pfns": 312})
    collector = CountingCollector(diagnosis, sent_pages, entries=calls[0], returns=calls[1])
    looks = [(0, 0, 0), after, after]
    known = replace(diagnosis, layout=layout)
    result, recording = record_moving(tmp_path, known, monkeypatch, collector, looks)
    assert result.unseen is not None
    assert result.unseen.pages == unseen_pages
    assert end_of(recording)["under_way_pages"] == (0 if calls[0] == calls[1] else 256)


def test_calls_that_were_lost_are_told_as_such(
    tmp_path: Path, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A return is dropped when another's fexit leaves the function: those pages are no unseen ones."""
    monkeypatch.setattr("balloontrace.trace.guest.session.UNIT_PAGES", 1)
    known = replace(diagnosis, layout=replace(diagnosis.layout, offsets={"virtio_balloon.num_pfns": 312}))
    collector = CountingCollector(known, 1000 - 256)
    struct.pack_into(
        "Q", collector.raw, Function.TELL_HOST * FUNCTION_COUNTERS.size_bytes + 8 * 5, 1
    )  # overwritten
    looks = [(0, 0, 0), (1000, 0, 0), (1000, 0, 0)]
    result, _ = record_moving(tmp_path, known, monkeypatch, collector, looks)
    assert result.unseen is not None
    assert result.unseen.pages == 0


def test_without_the_layout_nobody_knows_what_was_seen(
    tmp_path: Path, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = replace(diagnosis, layout=replace(diagnosis.layout, offsets={}))
    collector = CountingCollector(unknown, 0)
    result, _ = record_moving(tmp_path, unknown, monkeypatch, collector, [(0, 0, 0), (9, 0, 0), (9, 0, 0)])
    assert result.unseen is not None
    assert result.unseen.pages is None


def test_a_full_disk_says_how_many_pages_it_cost(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balloontrace.system.kernel.read_vmstat", vmstat_of([0, 100 * 256, 100 * 256]))
    layout = replace(diagnosis.layout, offsets={"virtio_balloon.num_pfns": 312})
    collector = CountingCollector(diagnosis, 100 * 256)
    span = bytearray(RECORD)
    span[RING_HEADER_BYTES + 22] = Function.TELL_HOST
    span[RING_HEADER_BYTES + 23] = SpanFlag.PAGES
    struct.pack_into("I", span, RING_HEADER_BYTES + 28, 256)

    def drain(take: Callable[[memoryview], object]) -> int:
        take(memoryview(bytes(span) * 100))  # what is refused stays in the ring
        return 100

    monkeypatch.setattr(collector, "drain", drain)
    monkeypatch.setattr(ScriptedCollector, "waiting", 100)
    fd = os.memfd_create("small")
    session = Session(
        cast(Collector, collector), replace(diagnosis, layout=layout), fd, SessionOptions(), started_ns=0,
        say=print,
    )  # fmt: skip
    session.write_start()
    room = os.fstat(fd).st_size + 4 * 1024
    with limited_to(room):
        result = session.run()
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(fd, "rb") as file:
        kept = spans_in(read_recording(file))
    assert 100 > kept > 0
    assert result.ending is Ending.OUTPUT_FAILED
    assert result.unseen is not None
    assert result.unseen.pages == (100 - kept) * 256


def test_progress_is_shown_on_request(tmp_path: Path, diagnosis: Diagnosis) -> None:
    run = Run(tmp_path, diagnosis, SessionOptions(duration_s=0.1, show_progress=True))
    assert run.said
    assert all("waiting for the balloon to move" in line for line in run.said)
    assert Run(tmp_path, diagnosis, SessionOptions(duration_s=0.1)).said == []


def test_only_what_ended_as_asked_is_clean() -> None:
    assert {ending for ending in Ending if not ending.clean} == {
        Ending.OUTPUT_CLOSED,
        Ending.OUTPUT_FAILED,
        Ending.DRIVER_GONE,
    }


def test_protection_from_the_oom_killer() -> None:
    """In a process of its own: a score once lowered is inherited by whatever is started later."""
    child = os.fork()
    if child == 0:
        protect_from_oom_killer()
        score = Path("/proc/self/oom_score_adj")
        protected = score.read_text() == "-1000\n"
        with suppress(PermissionError):  # not every root may lower it
            score.write_text("-1000")
            os._exit(0 if protected else 1)
        os._exit(0 if not protected else 1)
    assert os.waitpid(child, 0)[1] == 0

# SPDX-License-Identifier: GPL-2.0-or-later
"""One recording from start to end, on a collector that is only a script of what it drains."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from scripted_session import RECORD, Run, ScriptedCollector, end_of, run_session, spans_in
from signal_soon import signal_soon

from balloontrace.errors import UsageError
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Function, Status
from balloontrace.system.kernel import Symbol
from balloontrace.trace.attached_programs import parse_fdinfo
from balloontrace.trace.guest.collector import GuestCollector
from balloontrace.trace.guest.diagnosis import GuestDiagnosis
from balloontrace.trace.guest.session import GuestSession
from balloontrace.trace.guest.side import GuestSide
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.session import Ending, protect_from_oom_killer

pytestmark = pytest.mark.usefixtures("signals_as_before")


# ---- endings ----


def test_duration(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    started_s = time.monotonic()
    run = Run(tmp_path, diagnosis, TraceOptions(duration_s=0.15), [RECORD * 3, b"", RECORD * 2])
    assert 0.15 <= time.monotonic() - started_s < 5
    assert (run.result.ending, run.result.records, spans_in(run.recording)) == (Ending.DURATION, 5, 5)
    end = end_of(run.recording)
    assert (end["clean"], end["reason"]) == (True, "duration reached")
    assert run.recording.complete


def test_operations(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    run = Run(tmp_path, diagnosis, TraceOptions(operations=5), [RECORD] * 9, [0, 1, 2, 4, 5, 5, 5])
    assert run.result.ending is Ending.OPERATIONS
    assert run.result.records >= 5


def test_operations_need_the_target(diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known only after attaching whether it will be seen: kptr_restrict=2 hides one of two vp_get."""
    refused: dict[str, str] = {}
    collector = SimpleNamespace(loaded=SimpleNamespace(failures=refused))
    monkeypatch.setattr(
        "balloontrace.trace.guest.side.GuestCollector", lambda *_, **__: nullcontext(collector)
    )
    side = GuestSide(TraceOptions(operations=1))
    with side.attached(diagnosis, diagnosis.plan) as attached:
        assert attached.diagnosis is diagnosis
    refused["config_get"] = "vp_get has no kprobe: Invalid argument"
    with pytest.raises(UsageError, match="--operations needs the balloon's target"):
        side.attached(diagnosis, diagnosis.plan).__enter__()
    refused.clear()
    rows = tuple(replace(probe, status=Status.ABSENT) for probe in diagnosis.plan.probes)
    with pytest.raises(UsageError, match="--operations needs the balloon's target"):
        side.attached(diagnosis, replace(diagnosis.plan, probes=rows)).__enter__()


def test_payloads_of_a_variant_are_not_promised(
    diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collector = SimpleNamespace(loaded=SimpleNamespace(failures={}))
    monkeypatch.setattr(
        "balloontrace.trace.guest.side.GuestCollector", lambda *_, **__: nullcontext(collector)
    )
    note, symbol = "a compiler's variant", Symbol("tell_host.isra.0", 0xC0400010, "virtio_balloon")
    variant = replace(
        diagnosis.plan.probe(Function.TELL_HOST),
        status=Status.ATTACH,
        symbols=(symbol,),
        arguments_trusted=False,
        note=note,
    )
    plan = replace(diagnosis.plan, probes=(variant,))
    with GuestSide(TraceOptions(capture=True)).attached(replace(diagnosis, plan=plan), plan):
        pass
    assert f"warning: payloads of tell_host.isra.0 are not captured: {note}" in capsys.readouterr().err


def test_the_end_of_standard_input(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    """What comes through it before is not looked at."""
    read_fd, write_fd = os.pipe()
    kept_fd = os.dup(0)
    os.dup2(read_fd, 0)
    os.close(read_fd)

    def feed() -> None:
        os.write(write_fd, b"some words\n")
        time.sleep(0.1)
        os.close(write_fd)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        run = Run(tmp_path, diagnosis, TraceOptions(until_eof=True), [RECORD])
    finally:
        thread.join()
        os.dup2(kept_fd, 0)
        os.close(kept_fd)
    assert run.result.ending is Ending.INPUT_ENDED
    assert (end_of(run.recording)["clean"], end_of(run.recording)["reason"]) == (True, "input ended")


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9)])
def test_command(tmp_path: Path, diagnosis: GuestDiagnosis, script: str, status: int) -> None:
    run = Run(tmp_path, diagnosis, TraceOptions(command=("sh", "-c", script)), [RECORD])
    assert (run.result.ending, run.result.command_status) == (Ending.COMMAND, status)
    assert (end_of(run.recording)["command_status"], end_of(run.recording)["clean"]) == (status, True)


def test_the_earlier_of_duration_and_command(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    run = Run(tmp_path, diagnosis, TraceOptions(duration_s=0.1, command=("sleep", "1000")))
    assert (run.result.ending, run.result.command_status) == (Ending.DURATION, None)


@pytest.mark.parametrize(
    ("number", "ending"), [(signal.SIGINT, Ending.INTERRUPTED), (signal.SIGTERM, Ending.TERMINATED)]
)
def test_signals_end_it_in_order(
    tmp_path: Path, diagnosis: GuestDiagnosis, number: int, ending: Ending
) -> None:
    signal_soon(number)
    run = Run(tmp_path, diagnosis, TraceOptions(), [RECORD * 7])
    assert (run.result.ending, spans_in(run.recording)) == (ending, 7)
    assert end_of(run.recording)["clean"] is True


def test_a_signal_is_answered_at_once(
    tmp_path: Path, diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balloontrace.trace.session._WAKE_UP_S", 60)
    signal_soon(signal.SIGTERM)
    started_s = time.monotonic()
    Run(tmp_path, diagnosis, TraceOptions())
    assert time.monotonic() - started_s < 10


def test_a_signal_right_after_the_greeting_ends_it_in_order(
    tmp_path: Path, diagnosis: GuestDiagnosis
) -> None:
    def interrupt(_greeting: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    fd = os.open(tmp_path / "out.bt", os.O_WRONLY | os.O_CREAT, 0o600)
    collector = cast(GuestCollector, ScriptedCollector(diagnosis))
    session = GuestSession(collector, diagnosis, fd, TraceOptions(), say=interrupt)
    session.write_start()
    result = session.run("probes attached")
    os.close(fd)
    assert result.ending is Ending.INTERRUPTED
    assert end_of(read_recording(tmp_path / "out.bt"))["clean"] is True


def test_a_command_writes_nothing_into_the_recording(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    path = tmp_path / "out.bt"
    saved = os.dup(1)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(fd, 1)
        run_session(ScriptedCollector(diagnosis), diagnosis, 1, TraceOptions(command=("echo", "hello")))
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(fd)
    end_of(read_recording(path))
    assert b"hello" not in path.read_bytes()


def test_a_second_interrupt_drops_it(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    """The first one ends the loop; the second arrives while the end is written."""

    class Slow(ScriptedCollector):
        def detach(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)

    signal_soon(signal.SIGINT)
    fd = os.open(tmp_path / "out.bt", os.O_WRONLY | os.O_CREAT, 0o600)
    with pytest.raises(KeyboardInterrupt):
        run_session(Slow(diagnosis), diagnosis, fd, TraceOptions())
    os.close(fd)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_goes(diagnosis: GuestDiagnosis, kind: str) -> None:
    # A socket reports only a hang-up when its peer has read everything.
    reader, writer = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    collector = ScriptedCollector(diagnosis)
    session = GuestSession(cast(GuestCollector, collector), diagnosis, writer, TraceOptions(), say=print)
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


def test_a_full_disk(diagnosis: GuestDiagnosis) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    collector = ScriptedCollector(diagnosis, [RECORD])
    session = GuestSession(cast(GuestCollector, collector), diagnosis, fd, TraceOptions(), say=print)
    with pytest.raises(OSError, match="No space left"):
        session.write_start()
    result = session.run()
    os.close(fd)
    assert (result.ending, result.error and result.error.errno) == (Ending.OUTPUT_FAILED, errno.ENOSPC)
    assert not result.ending.clean


# ---- what is written ----


def test_what_is_left_is_drained_after_detaching(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    run = Run(tmp_path, diagnosis, TraceOptions(duration_s=0.01), [b"", RECORD * 4])
    assert run.collector.detached
    assert run.collector.drains_after_detaching == 1
    assert spans_in(run.recording) == run.result.records


def test_nothing_is_written_while_nothing_happens(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    short = Run(tmp_path, diagnosis, TraceOptions(duration_s=0.05)).recording
    long = Run(tmp_path, diagnosis, TraceOptions(duration_s=0.5)).recording
    assert abs(long.size_bytes - short.size_bytes) < 16


def test_metadata_says_what_it_is(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    metadata = Run(tmp_path, diagnosis, TraceOptions(duration_s=0.01, label="a name")).recording.metadata
    assert metadata["label"] == "a name"
    again = Run(tmp_path, diagnosis, TraceOptions(duration_s=0.01)).recording.metadata
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


def test_the_end_says_what_it_cost_and_lost(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    run = Run(tmp_path, diagnosis, TraceOptions(duration_s=0.01), [RECORD])
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


def test_progress_is_shown_on_request(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    run = Run(tmp_path, diagnosis, TraceOptions(duration_s=0.1, show_progress=True))
    assert run.said
    assert all("waiting for the balloon to move" in line for line in run.said)
    assert Run(tmp_path, diagnosis, TraceOptions(duration_s=0.1)).said == []


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

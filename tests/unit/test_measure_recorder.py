# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorders as children: attached, ended by the end of their input, and what is told when they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from measured_vm import start_recorder

from balloontrace.errors import ExitCode
from balloontrace.measure.guest import GuestGone
from balloontrace.measure.recorder import ChildRecorder, RecorderFailed
from balloontrace.measure.sides import Recorded, Sides

FAILS = "import sys; sys.exit('balloontrace: cannot trace here: no BTF')"
FAILS_LATER = """
import sys
sys.stderr.write("balloontrace: probes attached\\n"); sys.stderr.flush()
sys.stdin.read()
sys.exit("balloontrace: the recording is incomplete: disk full")
"""
DEAF = """
import sys, time
sys.stderr.write("probes attached\\n"); sys.stderr.flush()
time.sleep(600)
"""


def test_it_ends_when_its_input_does(tmp_path: Path) -> None:
    recorder = start_recorder(tmp_path / "a.bt")
    assert recorder.is_attached(30)
    recorder.check()
    recorder.wait_ended()
    assert recorder.path.read_bytes() == b"x" * 100 + b"end"


def test_its_last_words_are_told(tmp_path: Path) -> None:
    recorder = start_recorder(tmp_path / "a.bt", FAILS)
    with pytest.raises(RecorderFailed, match=r"^the recorder ended: cannot trace here: no BTF$"):
        recorder.is_attached(30)


@pytest.mark.parametrize(("status", "ours"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (127, 1), (255, 1)])
def test_what_its_exit_status_says_of_options_and_machine_ours_says(
    status: int, ours: int, tmp_path: Path
) -> None:
    recorder = start_recorder(tmp_path / "a.bt", f"import sys; sys.exit({status})")
    with pytest.raises(RecorderFailed) as failed:
        recorder.is_attached(30)
    assert failed.value.exit_code == ours


def test_an_end_that_is_not_in_order(tmp_path: Path) -> None:
    recorder = start_recorder(tmp_path / "a.bt", FAILS_LATER)
    assert recorder.is_attached(30)
    with pytest.raises(RecorderFailed, match="the recording is incomplete: disk full"):
        recorder.wait_ended()


def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    recorder = start_recorder(tmp_path / "a.bt", DEAF)
    assert recorder.is_attached(30)
    with pytest.raises(RecorderFailed, match="has not ended within 0 s"):
        recorder.wait_ended(0)


@pytest.mark.parametrize("error", [GuestGone("the agent is gone"), OSError(28, "No space left on device")])
def test_one_that_cannot_end_does_not_keep_the_other_from_it(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest's is the first that is told to."""
    recorded = Recorded(Sides(None, None))
    host, guest = (start_recorder(tmp_path / f"{side}.bt") for side in ("host", "guest"))
    recorded._recorders = [host, guest]
    assert host.is_attached(30)

    def fail(_timeout_s: float = 0) -> None:
        raise error

    monkeypatch.setattr(guest, "wait_ended", fail)
    with pytest.raises(type(error)):
        recorded.end()
    assert host.path.read_bytes().endswith(b"end")
    assert guest._process.poll() is not None


def test_waiting_ends_in_time(tmp_path: Path) -> None:
    recorder = start_recorder(tmp_path / "a.bt", "import time; time.sleep(600)")
    assert not recorder.is_attached(0.01)
    recorder.kill()


@pytest.mark.parametrize("status", [2, 255])
def test_what_is_known_better_than_its_last_words(status: int, tmp_path: Path) -> None:
    """Its status, too: where ssh is lost what was copied is gone, and Python ends with 2 without it."""
    argv = [sys.executable, "-c", f"import sys; print('debug', file=sys.stderr); sys.exit({status})"]
    lost = {status: "the connection is lost"}
    recorder = ChildRecorder("the recorder", argv, tmp_path / "a.bt", own_session=False, explain=lost.get)
    with pytest.raises(RecorderFailed, match=r"^the recorder ended: the connection is lost$") as failed:
        recorder.is_attached(30)
    assert failed.value.exit_code == ExitCode.FAILURE


def test_an_interrupt_is_not_for_children_and_no_hook_of_fork_runs_here(tmp_path: Path) -> None:
    """What such a hook is interrupted by is lost: CPython only prints it."""
    hooks: list[str] = []
    os.register_at_fork(before=lambda: hooks.append("before"))
    recorder = start_recorder(tmp_path / "a.bt", own_session=False)
    assert recorder.is_attached(30)
    assert hooks == []
    recorder._process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        recorder._process.wait(0.2)
    recorder.wait_ended()
    assert recorder.path.read_bytes().endswith(b"end")

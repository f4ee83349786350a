# SPDX-License-Identifier: GPL-2.0-or-later
"""The command a recording is made around."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from balloontrace.errors import UsageError
from balloontrace.trace.workload import Workload


def test_no_command_has_no_effect() -> None:
    with Workload(()) as workload:
        assert (workload.fd, workload.ended, workload.status) == (None, False, None)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("exit 0", 0), ("kill -9 $$", -signal.SIGKILL)]
)
def test_its_descriptor_tells_of_its_end(script: str, status: int) -> None:
    with Workload(["sh", "-c", script]) as workload:
        assert workload.fd is not None
        assert select.select([workload.fd], [], [], 10)[0]
        assert workload.ended
        assert workload.status == status


@pytest.mark.parametrize("words", [["no-such-program"], ["/etc/passwd"]])
def test_what_cannot_be_run(words: list[str]) -> None:
    with pytest.raises(UsageError, match=f"cannot run {words[0]}: "), Workload(words):
        pass


def test_it_ends_with_the_recording() -> None:
    with Workload(["sleep", "1000"]) as workload:
        assert not workload.ended
        started_s = time.monotonic()
    assert workload.status == -signal.SIGTERM
    assert time.monotonic() - started_s < 4


def test_it_is_killed_when_it_will_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("balloontrace.trace.workload._ENDS_S", 0.2)
    ready = tmp_path / "ready"
    stubborn = (
        "import pathlib, signal, time; signal.signal(15, signal.SIG_IGN);"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(99)"
    )
    with Workload([sys.executable, "-c", stubborn]) as workload:
        while not ready.exists():
            time.sleep(0.01)
    assert workload.status == -signal.SIGKILL


def test_an_interrupt_while_it_ends_leaves_no_command(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    stubborn = (
        "import pathlib, signal, time; signal.signal(15, signal.SIG_IGN);"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(99)"
    )
    # For who runs the tests in the background, interrupts are ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    workload = Workload([sys.executable, "-c", stubborn])
    workload.__enter__()
    while not ready.exists():
        time.sleep(0.01)
    started_s = time.monotonic()
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        workload.__exit__()
    signal.signal(signal.SIGINT, before)
    assert workload.status == -signal.SIGKILL
    assert time.monotonic() - started_s < 4


def test_its_output_goes_where_it_should(tmp_path: Path) -> None:
    with (
        (tmp_path / "out").open("wb") as out,
        Workload(["echo", "hello"], stdout_fd=out.fileno()) as workload,
    ):
        assert workload.fd is not None
        select.select([workload.fd], [], [], 10)
    assert (tmp_path / "out").read_bytes() == b"hello\n"


def test_it_is_an_ordinary_process_to_the_oom_killer() -> None:
    before = Path("/proc/self/oom_score_adj").read_text()
    # Raising the score needs no privilege.
    Path("/proc/self/oom_score_adj").write_text("500")
    try:
        with Workload(["sh", "-c", 'test "$(cat /proc/self/oom_score_adj)" = 0']) as workload:
            assert workload.fd is not None
            select.select([workload.fd], [], [], 10)
            assert workload.ended
            assert workload.status == 0 or os.geteuid() != 0
    finally:
        Path("/proc/self/oom_score_adj").write_text(before if os.geteuid() == 0 else "500")

# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest behind a program that stands for ssh and runs commands here: asked, copied to, and left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import balloontrace
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure.guest import GuestGone, facts_source
from balloontrace.measure.recorder import RecorderFailed
from balloontrace.measure.ssh_guest import SshGuest

FILES = 1000  # removing so many takes a while
ATTEMPTS = 8
BUNDLE = b"""
import sys
words = sys.argv[1:]
assert words[:6] == ["record", "-o", "-", "--side", "guest", "--until-eof"], words
if "--label" in words:
    sys.exit("balloontrace: cannot trace here: no BTF")
sys.stderr.write("balloontrace: probes attached\\n"); sys.stderr.flush()
sys.stdin.read()
sys.stdout.write("recorded")
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Drops the destination, and runs the rest. There is no balloontrace, and sudo asks for no password."""
    programs = tmp_path / "programs"
    programs.mkdir()
    write_script(programs / "python3", f'exec {sys.executable} "$@"')
    write_script(programs / "balloontrace", "exit 1")
    write_script(programs / "sudo", 'shift; exec "$@"')
    write_script(tmp_path / "fakessh", f'PATH={programs}:$PATH; shift; exec sh -c "$*"')
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return str(tmp_path / "fakessh")


def write_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def reach(ssh: str, *, keep: bool = False, steps: list[str] | None = None) -> SshGuest:
    done = (steps if steps is not None else []).append
    return SshGuest("root@vm1", ssh, keep=keep).open(lambda: BUNDLE, done)


def left(folder: Path) -> list[Path]:
    return list(folder.glob("balloontrace-*"))


def test_it_answers_records_and_leaves_nothing(ssh: str, tmp_path: Path) -> None:
    steps: list[str] = []
    guest = reach(ssh, steps=steps)
    assert steps == ["connect", "copy"]
    assert (Path(guest._folder) / "balloontrace.pyz").read_bytes() == BUNDLE
    assert guest.facts.may_trace
    assert not guest.facts.has_balloontrace
    assert guest.touch(1 << 20, 60) > 0
    with pytest.raises(BalloontraceError, match="the guest could not do it: invalid literal"):
        guest.ask("touch", "much", timeout_s=60)
    recorder = guest.start_recorder(["--capture", "none"], tmp_path / "a.bt")
    assert recorder.is_attached(60)
    recorder.wait_ended()
    assert recorder.path.read_bytes() == b"recorded"
    failing = guest.start_recorder(["--label", "x"], tmp_path / "b.bt")
    with pytest.raises(RecorderFailed, match=r"root@vm1 over ssh ended: cannot trace here: no BTF$"):
        failing.is_attached(60)
    guest.close()
    assert left(tmp_path) == []


def test_what_was_copied_is_kept(ssh: str, tmp_path: Path) -> None:
    guest = reach(ssh, keep=True)
    assert guest.kept is not None
    guest.close()
    assert Path(guest.kept).read_bytes() == BUNDLE
    assert left(tmp_path) == [Path(guest.kept).parent]


def test_nothing_is_copied_where_it_is_installed(ssh: str, tmp_path: Path) -> None:
    write_script(tmp_path / "programs/balloontrace", f"echo balloontrace {balloontrace.__version__}")
    steps: list[str] = []
    guest = reach(ssh, keep=True, steps=steps)
    assert (guest.kept, steps) == (None, ["connect"])
    guest.close()
    assert left(tmp_path) == []


def test_a_connection_that_is_lost(ssh: str, tmp_path: Path) -> None:
    guest = reach(ssh)
    assert guest._server is not None
    guest._server._process.kill()
    with pytest.raises(GuestGone, match=r"^the connection to root@vm1 is lost$"):
        guest.ask("balloon", timeout_s=60)
    with pytest.raises(GuestGone, match="is lost"):
        guest.start_recorder([], tmp_path / "a.bt")
    guest.close()


def test_a_guest_that_does_not_answer(ssh: str) -> None:
    guest = reach(ssh)
    with pytest.raises(GuestGone, match=r"^root@vm1 does not answer: no answer within 0 s$"):
        guest.ask("touch", str(256 << 20), timeout_s=0.01)
    assert "balloon_bytes" in guest.ask("balloon", timeout_s=60)  # and not the answer that came too late
    guest.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_copied_goes_however_often_the_guest_is_told_to_end(number: int, tmp_path: Path) -> None:
    serving, folder = serve_facts(tmp_path)
    for each in range(FILES):
        (folder / str(each)).touch()
    with serving:
        while serving.poll() is None:
            serving.send_signal(number)
    assert folder.parent == tmp_path
    assert left(tmp_path) == []


def test_a_signal_that_comes_together_with_the_end_of_the_connection(tmp_path: Path) -> None:
    """Of both the end is seen first, mostly: so it is tried some times."""
    for _ in range(ATTEMPTS):
        serving, _folder = serve_facts(tmp_path)
        time.sleep(0.1)  # who sleeps for long wakes late, and sees both at once
        with serving:
            assert serving.stdin is not None
            os.kill(serving.pid, signal.SIGHUP)
            serving.stdin.close()
        assert left(tmp_path) == []


def serve_facts(tmp_path: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """What serves in a guest, and its folder."""
    serving = subprocess.Popen(
        [sys.executable, "-c", facts_source(), "serve"],
        env={"TMPDIR": str(tmp_path)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert serving.stdout is not None
    return serving, Path(json.loads(serving.stdout.readline())["folder"])


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo 'Permission denied (publickey).' >&2; exit 255", "by ssh: Permission denied"),
        ("exit 255", "cannot reach the guest root@vm1 by ssh: it does not say why"),
        ("exit 127", "root@vm1 has no python3, which the recorder needs"),
        ("echo Welcome; exit 1", "the guest answers, but not as python3 there should"),
    ],
)
def test_no_way_in(ssh: str, tmp_path: Path, script: str, sentence: str) -> None:
    write_script(Path(ssh), script)
    with pytest.raises(BalloontraceError, match=sentence):
        reach(ssh)
    assert left(tmp_path) == []


def test_who_may_not_trace(ssh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(may_trace=False)
    monkeypatch.setattr("balloontrace.measure.guest.parse_facts", lambda _found: facts)
    with pytest.raises(UsageError, match="that user may not trace, and sudo there wants a password"):
        reach(ssh)
    assert left(tmp_path) == []

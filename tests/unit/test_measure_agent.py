# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest reached through its agent: what is copied, recorded, fetched and removed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_guest_agent import FakeAgent

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure.agent_guest import AgentGuest
from balloontrace.measure.guest import GuestGone
from balloontrace.measure.guest_agent import AgentSocket, GuestAgent
from balloontrace.measure.recorder import RecorderFailed

pytestmark = pytest.mark.usefixtures("looks_often")

# What is copied in place of balloontrace: a recorder that ends by SIGTERM, or at once.
RECORDER = b"""
import pathlib, signal, sys
words = sys.argv[1:]
assert words[:3] == ["record", "-f", "-o"] and words[4:8] == ["--side", "guest", "-d", "77"], words
if "--label" in words:
    sys.exit("balloontrace: cannot trace here: no BTF")
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
sys.stderr.write("balloontrace: probes attached\\n"); sys.stderr.flush()
signal.sigwait({signal.SIGTERM})
pathlib.Path(words[3]).write_bytes(bytes(range(256)) * 4096)
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    started = FakeAgent(tmp_path / "qga")
    yield started
    started.close()


def reach(tmp_path: Path, *, keep: bool = False) -> AgentGuest:
    connection = AgentSocket(tmp_path / "qga")
    guest = AgentGuest("vm1", GuestAgent(connection.exchange), connection.close, longest_s=77, keep=keep)
    return guest.open(lambda: RECORDER)


def folder_of(guest: AgentGuest) -> Path:
    return Path(guest._folder)


@pytest.mark.usefixtures("agent")
def test_a_recording_is_fetched_and_nothing_is_left(tmp_path: Path) -> None:
    guest = reach(tmp_path)
    inside = folder_of(guest)
    assert [path.name for path in inside.iterdir()] == ["balloontrace.pyz"]
    recorder = guest.start_recorder(["--capture", "none"], tmp_path / "a-guest.bt")
    assert recorder.is_attached(60)
    recorder.check()
    recorder.wait_ended()
    assert recorder.path.read_bytes() == bytes(range(256)) * 4096
    assert [path.name for path in inside.iterdir()] == ["balloontrace.pyz"]
    assert guest.touch(1 << 20, 60) > 0
    guest.close()
    assert not inside.exists()


@pytest.mark.usefixtures("agent")
def test_what_is_to_be_kept_stays(tmp_path: Path) -> None:
    guest = reach(tmp_path, keep=True)
    assert guest.kept == f"{folder_of(guest)}/balloontrace.pyz"
    guest.close()
    kept = folder_of(guest) / "balloontrace.pyz"
    assert kept.read_bytes() == RECORDER
    kept.unlink()
    kept.parent.rmdir()


@pytest.mark.usefixtures("agent")
def test_a_recorder_that_fails(tmp_path: Path) -> None:
    guest = reach(tmp_path)
    recorder = guest.start_recorder(["--label", "x"], tmp_path / "a-guest.bt")
    with pytest.raises(RecorderFailed, match=r"the guest's recorder ended: cannot trace here: no BTF"):
        recorder.is_attached(60)
    recorder.kill()
    guest.close()


def test_a_guest_that_is_powered_off(agent: FakeAgent, tmp_path: Path) -> None:
    guest = reach(tmp_path)
    recorder = guest.start_recorder([], tmp_path / "a-guest.bt")
    assert recorder.is_attached(60)
    agent.close()
    with pytest.raises(GuestGone, match="the guest's agent"):
        recorder.check()
    recorder.tell_end()
    recorder.kill()
    guest.close()
    for process in agent._processes.values():
        process.send_signal(signal.SIGTERM)
        process.communicate()
    for path in folder_of(guest).iterdir():
        path.unlink()
    folder_of(guest).rmdir()


def test_an_agent_that_may_not_run_programs(tmp_path: Path) -> None:
    started = FakeAgent(tmp_path / "qga", ("guest-exec",))
    with pytest.raises(BalloontraceError, match="refused guest-exec: Command guest-exec has been disabled"):
        reach(tmp_path)
    started.close()


@pytest.mark.parametrize(
    "answer", ["7", "[" * 100_000, "{}", '{"return": 7}', '{"return": []}', '{"error": 3}']
)
@pytest.mark.parametrize("command", ["guest-exec", "guest-exec-status", "guest-file-read"])
def test_an_agent_that_answers_something_else(command: str, answer: str, tmp_path: Path) -> None:
    assert_is_told(command, answer, tmp_path)


@pytest.mark.parametrize(
    ("command", "returned"),
    [
        ("guest-exec", '{"pid": "x"}'),
        ("guest-exec", '{"pid": Infinity}'),
        ("guest-exec-status", '{"exited": true, "exitcode": "x"}'),
        ("guest-exec-status", '{"exited": true, "exitcode": 0, "out-data": 5}'),
        ("guest-file-read", '{"count": 1, "eof": false}'),
        ("guest-file-read", '{"count": 1, "eof": false, "buf-b64": 5}'),
    ],
)
def test_an_agent_whose_answers_have_something_else(command: str, returned: str, tmp_path: Path) -> None:
    assert_is_told(command, f'{{"return": {returned}}}', tmp_path)


def run_and_read(agent: GuestAgent) -> None:
    agent.run(["true"], 60)
    list(agent.read_file("/proc/version"))


def assert_is_told(command: str, answer: str, tmp_path: Path) -> None:
    """In one sentence, whatever it answers to this command."""
    started = FakeAgent(tmp_path / "qga", odd={command: answer})
    connection = AgentSocket(tmp_path / "qga")
    agent = GuestAgent(connection.exchange)
    with pytest.raises(BalloontraceError, match=f"what answers there is no guest agent|refused {command}: 3"):
        run_and_read(agent)
    connection.close()
    started.close()


def test_after_a_ctrl_c_in_the_midst_of_an_answer_nothing_is_left(
    agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer before is not taken for that of `rm`, and the recorder ends whose number was not told."""
    guest = reach(tmp_path)
    inside = folder_of(guest)
    read = AgentSocket._read_until

    def interrupt(_self: AgentSocket, _end: bytes) -> bytes:
        monkeypatch.setattr(AgentSocket, "_read_until", read)
        raise KeyboardInterrupt

    monkeypatch.setattr(AgentSocket, "_read_until", interrupt)
    with pytest.raises(KeyboardInterrupt):
        guest.start_recorder([], tmp_path / "a-guest.bt")
    guest.close()
    assert not inside.exists()
    recorder = next(each for each in agent._processes.values() if "-d" in str(each.args))
    recorder.wait(60)


def test_no_agent_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no guest agent answers at .*qga: No such file"):
        AgentSocket(tmp_path / "qga")

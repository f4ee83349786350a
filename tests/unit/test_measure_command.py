# SPDX-License-Identifier: GPL-2.0-or-later
"""`measure` and `record --side both` on the command line: what contradicts itself is told in one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from click.core import ParameterSource

from balloontrace.cli import main
from balloontrace.commands.record import record
from balloontrace.errors import ExitCode, UsageError
from balloontrace.format.vocabulary import Side
from balloontrace.measure import libvirt_vm
from balloontrace.measure.libvirt_vm import LibvirtVm
from balloontrace.measure.recorder_options import given_options, parse_options
from balloontrace.measure.vm import VmGone

QMP, GUEST = ("--qmp", "/no/qmp"), ("--guest", "root@vm1")
SET = ("--set-target", "true {mib}")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    code = ended.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (GUEST, "give one of --vm NAME, --qmp SOCKET and --set-target CMD"),
        ((*QMP, "--vm", "vm1", *GUEST), "give one of --vm NAME, --qmp SOCKET and --set-target CMD"),
        (QMP, "give --guest SSH_DESTINATION, --guest-agent SOCKET, or --host-only"),
        ((*QMP, *GUEST, "--guest-agent", "s"), "give one of --guest and --guest-agent"),
        ((*QMP, "--guest-agent", "libvirt"), "--guest-agent libvirt needs --vm NAME"),
        ((*QMP, *GUEST, "--host-only", "--guest-only"), "leave nothing to record"),
        ((*QMP, "--host-only", "--touched"), "--touched needs a way into the guest"),
        ((*SET, *GUEST, "--pid", "1"), "--set-target needs --memory SIZE"),
        ((*SET, *GUEST, "--memory", "1G"), "--set-target needs --pid"),
        ((*QMP, *GUEST, "--take", "1000"), "--take needs whole MiB"),
        ((*QMP, "--host-only"), "cannot connect to QEMU at /no/qmp: No such file or directory"),
        ((*QMP, *GUEST, "--ssh", "/no/ssh"), "cannot run /no/ssh: no such program"),
        ((*QMP, "--guest", "-oProxyCommand=x"), "that is an option of ssh, not a guest"),
        ((*QMP, "--guest-agent", "/no/qga"), "no guest agent answers at /no/qga: No such file"),
        ((*QMP, "--guest", ""), "--guest is empty"),
        (("--vm", "", *GUEST), "--vm is empty"),
        ((*QMP, *GUEST, "--read-balloon", "echo 0"), "go with --set-target CMD"),
        ((*QMP, *GUEST, "--memory", "1G"), "go with --set-target CMD"),
        ((*QMP, "--host-only", "--keep"), "--host-only has none"),
        ((*QMP, "--host-only", "--guest-options", "--capture payload"), "--host-only has none"),
        ((*QMP, "--host-only", "--ssh", "ssh -p 1"), "--ssh goes with --guest"),
        ((*QMP, *GUEST, "--guest-only", "--host-options", "--sample"), "--guest-only has none"),
        ((*QMP, *GUEST, "--alternate", "true", " "), "an empty one brings about no state"),
        ((*QMP, *GUEST, "--guest-options", "--bogus"), "--guest-options: No such option"),
        (
            (*QMP, *GUEST, "--guest-options", "--buffer x"),
            "--guest-options: Invalid value for '--buffer': 'x' is no",
        ),
        ((*QMP, *GUEST, "--guest-options", "-o x.bt"), "--guest-options: -o is not for the guest's recorder"),
        ((*QMP, *GUEST, "--guest-options", "--help"), "--guest-options: No such option"),
        ((*QMP, *GUEST, "--guest-options", "-- true"), "--guest-options: command is not for the guest's"),
        ((*QMP, *GUEST, "--host-options", "--capture payload"), "--capture is not for the host's recorder"),
    ],
)
def test_what_makes_no_sense(
    words: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take = () if "--take" in words else ("--take", "64M")
    status, said = run(capsys, "measure", *words, *take, "-o", str(tmp_path / "out"))
    assert (status, said.count("\n")) == (ExitCode.USAGE, 1), said
    assert sentence in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "-"])
def test_what_is_no_folder(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, said = run(capsys, "measure", *QMP, *GUEST, "--take", "64M", "-o", name)
    assert (status, f"{name!r} is not the name of a folder" in said) == (ExitCode.USAGE, True)
    assert not list(tmp_path.iterdir())


MEASURE = ("measure", *QMP, "--take", "64M")
RECORD = ("record", "--side", "both", "-p", str(os.getpid()))


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (MEASURE, signal.SIGINT),
        pytest.param(MEASURE, signal.SIGTERM, marks=pytest.mark.thorough),
        (MEASURE, signal.SIGHUP),
        pytest.param(RECORD, signal.SIGINT, marks=pytest.mark.thorough),
        (RECORD, signal.SIGTERM),
        pytest.param(RECORD, signal.SIGHUP, marks=pytest.mark.thorough),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_it_ends_once_however_often_it_is_told_to(
    words: tuple[str, ...], number: int, tmp_path: Path
) -> None:
    """While ssh connects; then nothing is there, and one sentence says it."""
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nread line\n")
    ssh.chmod(0o755)
    more = [*GUEST, "--ssh", str(ssh), "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        [sys.executable, "-m", "balloontrace", *words, *more],
        env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
    ) as measuring:  # fmt: skip
        children = Path(f"/proc/{measuring.pid}/task/{measuring.pid}/children")
        while not children.read_text() and measuring.poll() is None:
            time.sleep(0.01)
        while measuring.poll() is None:
            measuring.send_signal(number)
        assert measuring.stderr is not None
        assert measuring.stderr.read().lstrip("\n") == "balloontrace: interrupted\n"
    assert measuring.returncode == ExitCode.INTERRUPTED
    assert [path.name for path in tmp_path.iterdir()] == ["ssh"]


def test_a_folder_that_is_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "round-001-guest.bt").touch()
    status, said = run(capsys, "measure", *QMP, *GUEST, "--take", "64M", "-o", str(tmp_path))
    assert (status, "is not an empty folder" in said) == (ExitCode.USAGE, True)


def test_without_libvirt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    status, said = run(
        capsys, "measure", "--vm", "vm1", "--host-only", "--take", "64M", "-o", str(tmp_path / "out")
    )
    assert (status, said.count("\n")) == (ExitCode.FAILURE, 1)
    assert "install python3-libvirt (Debian, Ubuntu) or libvirt-python (pip)" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--side", "both"), "--guest SSH_DESTINATION and --side both go together"),
        (GUEST, "--guest SSH_DESTINATION and --side both go together"),
        (("--side", "both", *GUEST, "--operations", "1"), "--operations is for one side"),
        (("--side", "both", *GUEST, "--pair", "x"), "--pair is for one side"),
        (("--side", "both", *GUEST, "-o", "-"), "makes two recordings: name a file with -o"),
        (("--side", "both", *GUEST, "-o", "/no/x.bt"), "cannot write into the folder /no"),
        (("--until-eof", "--", "true"), "--until-eof takes no command"),
        (("--ssh", "ssh -p 1"), "--ssh goes with --guest"),
        (("--side", "both", "--guest", ""), "--guest is empty"),
        (("--side", "both", *GUEST, "-o", ""), "an empty name is no file name"),
        (("--side", "both", *GUEST, "--until-eof"), "--until-eof is for one side"),
        (("--side", "both", *GUEST, "--buffer", "3M"), "--buffer takes a power of two"),
        (("--side", "both", *GUEST, "--layout", "x"), "x is none of the members needed"),
        (("--side", "both", *GUEST, "--", "/no/program"), "cannot run /no/program: no such program"),
    ],
)
def test_record_on_both_sides(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run(capsys, "record", *words)
    assert (status, said.count("\n")) == (ExitCode.USAGE, 1), said
    assert sentence in said


def test_no_options_are_none_to_any_click(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of Debian 13 says of a command of no words that it was given."""
    source = click.Context.get_parameter_source

    def as_there(ctx: click.Context, name: str) -> ParameterSource | None:
        return ParameterSource.COMMANDLINE if name == "command" else source(ctx, name)

    monkeypatch.setattr(click.Context, "get_parameter_source", as_there)
    assert parse_options("", "--guest-options", Side.GUEST, record) == []
    assert parse_options("--buffer 4M", "--host-options", Side.HOST, record) == ["--buffer", "4M"]
    with pytest.raises(UsageError, match="command is not for"):
        parse_options("true", "--guest-options", Side.GUEST, record)


def test_each_side_gets_its_options() -> None:
    words = ["--capture", "payload", "--sample", "--engine", "bcc", "--buffer", "4M", "-o", "x.bt"]
    with click.Context(record) as ctx:
        record.parse_args(ctx, words)
        assert given_options(ctx, Side.GUEST) == [
            "--engine",
            "bcc",
            "--buffer",
            "4194304",
            "--capture",
            "payload",
        ]
        assert given_options(ctx, Side.HOST) == ["--engine", "bcc", "--buffer", "4194304", "--sample"]


# ---- libvirt, as far as its module's functions are called; a real one is not tried ----


class FakeError(Exception):
    pass


def fake_libvirt(domain: Any) -> ModuleType:
    def look_up(name: str) -> Any:
        if name != "vm1":
            raise FakeError("no domain")
        return domain

    connection = SimpleNamespace(
        lookupByName=look_up,
        listAllDomains=lambda: [SimpleNamespace(name=lambda: "vm1")],
        close=lambda: None,
    )
    module = ModuleType("libvirt")
    module.__dict__.update(
        libvirtError=FakeError,
        VIR_DOMAIN_AFFECT_LIVE=1,
        registerErrorHandler=lambda *_: None,
        open=lambda _uri: connection,
    )
    return module


def test_a_wrong_name_is_told_with_the_right_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = SimpleNamespace(isActive=lambda: 0)
    monkeypatch.setitem(sys.modules, "libvirt", fake_libvirt(domain))
    for name, sentence in (("vm2", "libvirt has no VM called vm2; it knows vm1"), ("vm1", "is not running")):
        status, said = run(
            capsys, "measure", "--vm", name, "--host-only", "--take", "64M", "-o", str(tmp_path / "out")
        )
        assert (status, said.count("\n")) == (ExitCode.USAGE, 1), said
        assert sentence in said


def test_a_daemon_that_hangs_is_not_waited_for_without_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as it is asked, and once it has answered: neither keeps the command."""
    never = threading.Event()
    monkeypatch.setattr(libvirt_vm, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(libvirt_vm, "_CLOSES_S", 0.1)
    hanging = fake_libvirt(None)
    monkeypatch.setattr(hanging, "open", lambda _uri: never.wait())
    monkeypatch.setitem(sys.modules, "libvirt", hanging)
    status, said = run(
        capsys, "measure", "--vm", "vm1", "--host-only", "--take", "64M", "-o", str(tmp_path / "out")
    )
    assert (status, said.count("\n")) == (ExitCode.USAGE, 1), said
    assert "libvirt at qemu:///system has not answered within" in said
    domain = SimpleNamespace(isActive=lambda: 1, memoryStats=lambda: never.wait())
    monkeypatch.setitem(sys.modules, "libvirt", fake_libvirt(domain))
    vm = libvirt_vm.open_libvirt("vm1", pid=1)
    with pytest.raises(VmGone, match="asked about the VM vm1, has not answered within"):
        vm.read_size_bytes()
    vm.close()
    never.set()


def fake_agent(monkeypatch: pytest.MonkeyPatch, domain: Any, answer: Callable[[str], str]) -> LibvirtVm:
    """A VM whose agent answers so; its connection to libvirt says that it was lost, once it is open."""
    module, of_qemu = fake_libvirt(domain), ModuleType("libvirt_qemu")
    module.__dict__["open"]("").isAlive = lambda: 0
    of_qemu.__dict__["qemuAgentCommand"] = lambda _domain, text, _timeout_s, _flags: answer(text)
    monkeypatch.setitem(sys.modules, "libvirt", module)
    monkeypatch.setitem(sys.modules, "libvirt_qemu", of_qemu)
    return libvirt_vm.open_libvirt("vm1", pid=1)


def test_the_agent_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is restarted while the agent is asked: what it did, it did once."""
    asked = []

    def lose(text: str) -> str:
        asked.append(text)
        raise FakeError("End of file while reading data")

    vm = fake_agent(monkeypatch, SimpleNamespace(isActive=lambda: 1), lose)
    with pytest.raises(VmGone, match="cannot reach the VM vm1: End of file"):
        vm.exchange({"execute": "guest-exec"})
    assert len(asked) == 1


def test_a_daemon_that_was_restarted_before_is_connected_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question before that to the agent finds that the connection was lost."""
    lost: list[str] = []

    def is_active() -> int:
        if lost:
            raise FakeError(lost.pop())
        return 1

    vm = fake_agent(monkeypatch, SimpleNamespace(isActive=is_active), lambda _: '{"return": 7}')
    lost.append("client socket is closed")
    assert vm.exchange({"execute": "guest-ping"}) == {"return": 7}
    assert not lost

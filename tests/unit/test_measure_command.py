# SPDX-License-Identifier: GPL-2.0-or-later
"""`measure` and `record --side both` on the command line: what contradicts itself is told in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest

from balloontrace.cli import main
from balloontrace.commands.record import _OF_GUEST, _OF_HOST, _given, record
from balloontrace.errors import ExitCode

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
    ],
)
def test_record_on_both_sides(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run(capsys, "record", *words)
    assert (status, said.count("\n")) == (ExitCode.USAGE, 1), said
    assert sentence in said


def test_each_side_gets_its_options() -> None:
    words = ["--capture", "payload", "--sample", "--engine", "bcc", "--buffer", "4M", "-o", "x.bt"]
    with click.Context(record) as ctx:
        record.parse_args(ctx, words)
        assert _given(_OF_GUEST) == ["--engine", "bcc", "--buffer", "4194304", "--capture", "payload"]
        assert _given(_OF_HOST) == ["--engine", "bcc", "--buffer", "4194304", "--sample"]


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

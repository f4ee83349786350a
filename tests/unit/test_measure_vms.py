# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to drive a VM: QMP against a peer in a thread, commands of the user's; and what both tell."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure import qmp
from balloontrace.measure.command_vm import CommandVm, fill_in, parse_mib
from balloontrace.measure.libvirt_vm import read_pid
from balloontrace.measure.provenance import hide_secret, read_command_line
from balloontrace.measure.qmp_vm import open_qmp
from balloontrace.measure.vm import VmGone, VmName
from balloontrace.system.socket_peer import find_peer, parse_peer, read_peer_inode

GIB = 1 << 30
NAMED = VmName("vm1", 1)


# What a socket may have behind it that is no QEMU, line by line: at once, then one for each line sent to it.
GREETING, DONE = '{"QMP": {}}', '{"id": 1, "return": {}}'
NO_QMP = (
    ["SSH-2.0-OpenSSH"], ["42"], ["null"], ["[]"], ["[" * 100_000], ['{"return": {}}'],
    [GREETING, "7"], [GREETING, "[" * 100_000], [GREETING, '{"id": 1}'],
    [GREETING, '{"id": 1, "error": "no"}'], [GREETING, DONE, '{"id": 2}'],
)  # fmt: skip
NO_SIZE = ("[]", "{}", '"x"', '{"actual": "many"}', '{"actual": -5}', '{"actual": true}', '{"actual": NaN}')


class Liar:
    """Whoever answers at `path`, with these lines."""

    def __init__(self, path: Path, answers: Sequence[str]) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._answers = answers
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, suppress(OSError):
            asked = connection.makefile("rb")
            for answer in self._answers:
                connection.sendall(answer.encode() + b"\n")
                asked.readline()
        self._listener.close()


class Qemu:
    """A QEMU of 1 GiB in a thread; `name` as -name gives it, without a balloon if `balloon` is false."""

    def __init__(self, path: Path, name: str | None = "vm1", *, balloon: bool = True) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._name, self._balloon, self.size = name, balloon, GIB
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.sendall(b'{"QMP": {}}\n')
            for line in connection.makefile("rb"):
                request = json.loads(line)
                if request["execute"] == "quit":
                    return
                connection.sendall(
                    json.dumps({"id": request["id"], **self._answer(request)}).encode() + b"\n"
                )

    def _answer(self, request: dict[str, object]) -> dict[str, object]:
        match request["execute"]:
            case "query-name":
                return {"return": {} if self._name is None else {"name": self._name}}
            case "query-balloon" | "balloon" if not self._balloon:
                return {"error": {"class": "DeviceNotActive", "desc": "No balloon device has been activated"}}
            case "query-balloon":
                return {"return": {"actual": self.size}}
            case "balloon":
                arguments = request["arguments"]
                assert isinstance(arguments, dict)
                self.size = arguments["value"]
        return {"return": {}}

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Qemu]:
    started = Qemu(tmp_path / "qmp")
    yield started
    started.close()


def test_a_balloon_is_moved_by_qmp(qemu: Qemu, tmp_path: Path) -> None:
    vm = open_qmp(tmp_path / "qmp")
    assert (vm.named.name, vm.read_size_bytes()) == ("vm1", GIB)
    vm.set_size_bytes(GIB // 2)
    assert (qemu.size, vm.read_size_bytes()) == (GIB // 2, GIB // 2)
    vm.close()


def test_a_qemu_that_ends(qemu: Qemu, tmp_path: Path) -> None:
    vm = open_qmp(tmp_path / "qmp")
    qemu.close()
    with pytest.raises(VmGone, match="the VM vm1 has ended or does not answer"):
        vm._execute("quit")
    vm.close()


def test_without_a_name_or_a_balloon(tmp_path: Path) -> None:
    for given, shown in (("guest1", "guest1"), (None, "odd")):
        path = tmp_path / "odd.qmp"
        started = Qemu(path, None, balloon=False)
        vm = open_qmp(path, name=given)
        assert vm.named.name == shown
        with pytest.raises(UsageError, match=f"the VM {shown} has no balloon: No balloon device"):
            vm.read_size_bytes()
        vm.close()
        started.close()
        path.unlink()


def test_no_qemu_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot connect to QEMU at .*: No such file"):
        open_qmp(tmp_path / "qmp")


@pytest.mark.parametrize("answers", NO_QMP, ids=lambda answers: answers[-1][:20])
def test_something_else_there(answers: list[str], tmp_path: Path) -> None:
    Liar(tmp_path / "qmp", answers)
    with pytest.raises(UsageError, match=r"^no QMP socket at .*/qmp: what answers there is not QEMU$"):
        open_qmp(tmp_path / "qmp")


@pytest.mark.parametrize("answer", NO_SIZE)
def test_a_qemu_that_tells_no_size(answer: str, tmp_path: Path) -> None:
    Liar(
        tmp_path / "qmp",
        [GREETING, DONE, '{"id": 2, "return": {"name": 17}}', f'{{"id": 3, "return": {answer}}}'],
    )
    vm = open_qmp(tmp_path / "qmp", pid=1)
    assert vm.named == VmName("qmp", 1)
    with pytest.raises(
        VmGone, match="the VM qmp has ended or does not answer: what answers there is not QEMU"
    ):
        vm.read_size_bytes()
    vm.close()


def test_an_answer_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "MOST_BYTES", 1 << 20)
    Liar(tmp_path / "qmp", ["x" * (2 << 20)])
    with pytest.raises(UsageError, match="what answers there is not QEMU"):
        open_qmp(tmp_path / "qmp")


def test_sockets_that_cannot_be_connected_to(tmp_path: Path) -> None:
    """None has us wait for ever: neither who already has as many as it takes, nor a name that is too long."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "qmp"))
    listener.listen(0)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for each in waiting:
        each.setblocking(False)
        with suppress(BlockingIOError):
            each.connect(str(tmp_path / "qmp"))
    with pytest.raises(UsageError, match=r"cannot connect to QEMU at .*: others are connected to it$"):
        open_qmp(tmp_path / "qmp")
    with pytest.raises(UsageError, match="AF_UNIX path too long"):
        open_qmp(tmp_path / ("x" * 120))
    for each in (*waiting, listener):
        each.close()


def test_whoever_has_the_other_end_is_found(tmp_path: Path) -> None:
    """The listener is this process; the connection is another's, as with libvirt and QEMU."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(tmp_path / "s"))
    accepted, _ = listener.accept()
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[accepted.fileno()],
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    inode = os.fstat(accepted.fileno()).st_ino
    accepted.close()
    if read_peer_inode(client) is None:  # a kernel without sock_diag
        assert find_peer(client) == os.getpid()
    else:
        assert (read_peer_inode(client), find_peer(client)) == (inode, child.pid)
    child.communicate()
    listener.close()
    client.close()


def test_answers_of_sock_diag_are_bounded() -> None:
    whole = struct.pack("=IHHII", 40, 20, 0, 0, 0) + bytes(16) + struct.pack("=HHI", 8, 2, 77)
    assert parse_peer(whole) == 77
    for end in range(len(whole)):
        assert parse_peer(whole[:end]) is None
    assert parse_peer(struct.pack("=IHHII", 40, 2, 0, 0, 0) + bytes(24)) is None
    assert parse_peer(struct.pack("=IHHII", 40, 20, 0, 0, 0) + bytes(24)) is None  # an attribute of size 0


def test_commands_get_all_forms_of_a_target() -> None:
    command = "set {mib} {bytes} {balloon_mib} {balloon_bytes} '{other}'"
    assert fill_in(command, GIB // 4, GIB) == f"set 256 {GIB // 4} 768 {GIB // 4 * 3} '{{other}}'"


def test_a_balloon_is_moved_by_commands(tmp_path: Path) -> None:
    size = tmp_path / "size"
    vm = CommandVm(NAMED, GIB, f"echo {{balloon_mib}} > {size}", f'echo "size: $(cat {size}) MiB"', None)
    vm.set_size_bytes(GIB // 4)
    assert vm.read_size_bytes() == GIB // 4
    asked = CommandVm(NAMED, GIB, "true {mib}", None, lambda: 4096)
    assert asked.read_size_bytes() == GIB - 4096


@pytest.mark.parametrize(
    ("target", "read", "sentence"),
    [
        ("true", "echo 1", "needs one of {mib}"),
        ("true {mib}", None, "does not tell when the target is reached"),
    ],
)
def test_commands_that_cannot_do(target: str, read: str | None, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        CommandVm(NAMED, GIB, target, read, None)


def test_commands_that_fail() -> None:
    vm = CommandVm(NAMED, GIB, "echo refused >&2; exit 4 # {mib}", "echo none", None)
    with pytest.raises(BalloontraceError, match=r"the command of --set-target ended with status 4: refused"):
        vm.set_size_bytes(1)
    with pytest.raises(BalloontraceError, match="has to print whole MiB, and printed 'none'"):
        vm.read_size_bytes()
    assert parse_mib('{"actual_mib": 64}') == 64


@pytest.mark.parametrize(
    ("printed", "sentence"), [("-5", "whole MiB"), ("0.5", "whole MiB"), ("2000", "1.00 GiB")]
)
def test_sizes_that_no_balloon_has(printed: str, sentence: str) -> None:
    with pytest.raises(BalloontraceError, match=sentence):
        CommandVm(NAMED, GIB, "true {mib}", f"echo {printed}", None).read_size_bytes()


def test_the_process_of_a_vm_of_libvirts(tmp_path: Path) -> None:
    folder = tmp_path / "run/libvirt/qemu"
    folder.mkdir(parents=True)
    (folder / "guest1.pid").write_text("4711\n")
    process = tmp_path / "proc/4712"
    process.mkdir(parents=True)
    words = ["qemu", "-name", "guest=guest2,debug-threads=on", "-m", "1G"]
    (process / "cmdline").write_bytes("\0".join(words).encode() + b"\0")
    found = [read_pid(f"guest{number}", tmp_path) for number in (1, 2, 3)]
    assert found == [4711, 4712, None]


def test_command_lines_are_kept_without_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "proc/7"
    folder.mkdir(parents=True)
    words = ["qemu", "-object", "secret,id=s,data=hush,format=raw", "-vnc", "password=on", "-m", "1G"]
    (folder / "cmdline").write_bytes("\0".join(words).encode() + b"\0")
    found = read_command_line(7, tmp_path)
    assert found == ["qemu", "-object", "secret,id=s,data=...,format=raw", "-vnc", "password=...", "-m", "1G"]
    assert read_command_line(8, tmp_path) is read_command_line(None, tmp_path) is None
    assert hide_secret("data") == "data"

# SPDX-License-Identifier: GPL-2.0-or-later
"""The API of tests, demo and benchmarks: commands in a guest, its balloon, files in and out."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lab import folders
from lab.agent import AgentClient, AgentGone, new_command_id
from lab.errors import LabError, LabTimeout, VMLost
from lab.process import Completed, GuestProcess
from lab.qmp import QmpClient, QmpGone
from lab.sizes import MIB_BYTES, PAGE_BYTES, format_size
from lab.vhost import BackendClient
from lab.vm import Vm

GUEST_IO = PurePosixPath("/io")
_COMMANDS = ".lab"
_LOOK_AGAIN_S = 0.02
_AGENT_ANSWERS_S = 10


class Guest:
    """A guest whose agent answers; scenarios use this and need not know where its QEMU runs."""

    def __init__(self, vm: Vm, *, boot_timeout_s: float = 180) -> None:
        self._vm = vm
        connection, self._agent_lock = vm.connect_agent()
        self._agent = AgentClient(connection, vm.clock())
        self._qmp: QmpClient | None = None
        self._backend = vm.backend_client()
        self._target_bytes: int | None = None
        self._wait_ready(boot_timeout_s)

    # ---- commands ----

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 60,
        check: bool = False,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> Completed:
        """Runs a command to its end. Raises CommandFailed (if `check`), LabTimeout (and kills it), VMLost."""
        process = self.start(argv, cwd=cwd, env=env, stdin=stdin)
        try:
            return process.wait(timeout_s, check=check)
        except LabTimeout:
            process.kill()
            self.check_alive()
            completed = process.wait(_AGENT_ANSWERS_S)
            late = f"`{shlex.join(argv)}` still runs after {timeout_s:g} s and was killed"
            raise LabTimeout(f"{late}; {completed.describe()}") from None

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> GuestProcess:
        """Starts a command; each word of `argv` arrives exactly as it is. Raises VMLost."""
        command_id = new_command_id()
        folder = self.io / _COMMANDS / command_id
        folder.mkdir(parents=True)
        for stream, content in (("stdin", stdin or b""), ("stdout", b""), ("stderr", b"")):
            (folder / stream).write_bytes(content)
        inside = GUEST_IO / _COMMANDS / command_id
        streams = [
            "/dev/null" if stdin is None else f"{inside}/stdin",
            f"{inside}/stdout",
            f"{inside}/stderr",
        ]
        process = GuestProcess(tuple(argv), command_id, self._agent, folder, self._vm.lost)
        try:
            process.pid = self._agent.start(command_id, argv, cwd=cwd, streams=streams, environment=env or {})
        except AgentGone as error:
            raise self._vm.lost(f"{error}, when starting `{argv[0]}`") from None
        return process

    def check_alive(self, timeout_s: float = _AGENT_ANSWERS_S) -> None:
        """Raises VMLost unless the agent answers in time."""
        try:
            if self._agent.hello(timeout_s):
                return
        except AgentGone as error:
            raise self._vm.lost(str(error)) from None
        raise self._vm.lost(f"its agent does not answer within {timeout_s:g} s")

    def wait_until(
        self, predicate: Callable[[], bool], timeout_s: float, *, what: str, every_s: float = 0.05
    ) -> None:
        """Waits until `predicate()` is true. Raises LabTimeout that names `what`, VMLost at once."""
        deadline_s = self._agent.clock() + timeout_s
        while not predicate():
            if self._agent.clock() > deadline_s:
                raise LabTimeout(f"{what}: not within {timeout_s:g} s")
            self._pause(every_s, what)

    def vmstat(self) -> dict[str, int]:
        """The guest's /proc/vmstat."""
        return parse_vmstat(self.run(["cat", "/proc/vmstat"], check=True).stdout)

    # ---- files ----

    @property
    def io(self) -> Path:
        """The folder on this machine that the guest sees as /io."""
        return self._vm.io

    def push(self, local: Path) -> str:
        """Copies a file or folder to /io; returns its path in the guest."""
        target = self.io / local.name
        if local.is_dir():
            shutil.copytree(local, target, dirs_exist_ok=True)
        else:
            shutil.copy2(local, target)
        return str(GUEST_IO / local.name)

    def pull(self, guest_path: str) -> bytes:
        """The bytes of a file in the guest, wherever it is. Raises CommandFailed when it cannot be read."""
        path = PurePosixPath(guest_path)
        if path.is_relative_to(GUEST_IO) and ".." not in path.parts:
            local = self.io / path.relative_to(GUEST_IO)
            if local.is_file() and not local.is_symlink():
                return local.read_bytes()
        return self.run(["cat", "--", guest_path], check=True).stdout_bytes

    # ---- balloon and device ----

    def set_balloon(self, *, target_mib: int | None = None, target_bytes: int | None = None) -> None:
        """Sets how much memory the balloon should leave to the guest; does not wait. Raises VMLost."""
        if (target_mib is None) == (target_bytes is None):
            raise LabError("set_balloon takes target_mib or target_bytes.")
        self._target_bytes = target_bytes if target_bytes is not None else (target_mib or 0) * MIB_BYTES
        if self._backend is None:
            self.qmp("balloon", value=self._target_bytes)
        else:
            self.backend.set_target_pages((self._memory_bytes() - self._target_bytes) // PAGE_BYTES)

    def balloon_actual_bytes(self) -> int:
        """How much memory the guest has now, as the guest's driver told the device."""
        if self._backend is None:
            return int(self.qmp("query-balloon")["actual"])
        return self._memory_bytes() - self.backend.actual_pages() * PAGE_BYTES

    @property
    def has_backend(self) -> bool:
        """Whether the balloon is the lab's own device."""
        return self._backend is not None

    @property
    def backend(self) -> BackendClient:
        """The lab's own balloon device: its log and counts. Raises LabError where QEMU's balloon is used."""
        if self._backend is None:
            raise LabError(
                "This VM has QEMU's balloon; solo(device=\"backend\") makes one with the lab's own."
            )
        return self._backend

    def wait_balloon(
        self, actual_bytes: int | None = None, timeout_s: float = 60, *, every_s: float = _LOOK_AGAIN_S
    ) -> None:
        """Waits until the guest has exactly so much (default: the last target). Raises LabTimeout, VMLost."""
        wanted_bytes = self._target_bytes if actual_bytes is None else actual_bytes
        if wanted_bytes is None:
            raise LabError("wait_balloon does not know a target; set one, or say actual_bytes.")
        started_s = moved_s = self._agent.clock()
        last_bytes: int | None = None
        while (now_bytes := self.balloon_actual_bytes()) != wanted_bytes:
            now_s = self._agent.clock()
            if last_bytes not in (None, now_bytes):
                moved_s = now_s
            last_bytes = now_bytes
            if now_s - started_s > timeout_s:
                raise LabTimeout(
                    f"The balloon has not reached {format_size(wanted_bytes)} within {timeout_s:g} s: "
                    f"{describe_progress(now_bytes, now_s - moved_s)}"
                )
            self._pause(every_s, "waiting for the balloon")

    def qmp(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401 - whatever QEMU returns for it
        """Runs a QMP command; `_` in argument names stands for `-`. Raises QmpError, VMLost."""
        try:
            if self._qmp is None:
                self._qmp = QmpClient(self._vm.connect("qmp"))
            return self._qmp.execute(command, **arguments)
        except QmpGone as error:
            raise self._vm.lost(str(error)) from None

    def qmp_events(self) -> list[dict[str, Any]]:
        """The events QEMU has sent so far (as far as heard with the last command)."""
        return list(self._qmp.events) if self._qmp else []

    # ---- the VM ----

    @property
    def name(self) -> str:
        """The VM's name, also for `python -m lab`."""
        return self._vm.name

    def connect(self, socket_name: str) -> socket.socket:
        """A connection to one of the sockets in the VM's folder. Raises VMLost."""
        return self._vm.connect(socket_name)

    def console(self) -> str:
        """What the guest has written to its console since it was started."""
        return self._vm.console()

    def kill(self) -> None:
        """Kills QEMU as a crash would, for tests of what happens then."""
        self._vm.send_signal(signal.SIGKILL)
        self._vm.wait_ended(_AGENT_ANSWERS_S)

    def detach(self) -> None:
        """Lets go of the VM, which goes on."""
        self._agent.close()
        os.close(self._agent_lock)
        if self._qmp is not None:
            self._qmp.close()
        if self._backend is not None:
            self._backend.close()

    def stop(self) -> None:
        """Ends the VM and removes its folder; nothing to do, and no error, when it has ended already."""
        try:
            if self._vm.is_alive():
                self.qmp("quit")
                self._vm.wait_ended(_AGENT_ANSWERS_S)
        except LabError:
            pass  # it is ended by signals below
        finally:
            self.detach()
            self._vm.end()
            self._vm.remove()

    def _memory_bytes(self) -> int:
        state = folders.read_state(self._vm.folder)
        if state is None:
            raise self._vm.lost("its state cannot be read")
        return state.memory_mib * MIB_BYTES

    def _wait_ready(self, timeout_s: float) -> None:
        try:
            self.check_alive(timeout_s)
        except VMLost:
            self.detach()
            raise

    def set_clock(self) -> None:
        """Gives the guest this machine's time of day, to some milliseconds. Raises VMLost."""
        try:
            self._agent.set_clock()
        except AgentGone as error:
            raise self._vm.lost(str(error)) from None

    def _pause(self, seconds: float, what: str) -> None:
        try:
            self._agent.pause(seconds)
        except AgentGone as error:
            raise self._vm.lost(f"{error}, during: {what}") from None


def parse_vmstat(text: str) -> dict[str, int]:
    """Counters by name from /proc/vmstat."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def describe_progress(actual_bytes: int, unmoved_s: float) -> str:
    """`stuck at 3G (3221225472 bytes) for 12.1 s`, or `at ... and moving`."""
    where = f"at {format_size(actual_bytes)} ({actual_bytes} bytes)"
    return f"stuck {where} for {unmoved_s:.1f} s" if unmoved_s > 1 else f"{where} and still moving"

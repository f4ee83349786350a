# SPDX-License-Identifier: GPL-2.0-or-later
"""A command in the guest: while it runs, and what is left of it when it has ended."""

from __future__ import annotations

import shlex
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.agent import AgentClient, AgentGone, describe_status
from lab.errors import CommandFailed, LabTimeout, VMLost

_LOOK_AGAIN_S = 0.02
_SHOWN_CHARACTERS = 4000


@dataclass(frozen=True)
class Completed:
    """How a command ended: `status` (negative for a signal, as in `subprocess`) and both outputs."""

    argv: tuple[str, ...]
    status: int
    stdout_bytes: bytes
    stderr_bytes: bytes

    @property
    def stdout(self) -> str:
        """Standard output as text; what is not UTF-8 is shown as a replacement character."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text; what is not UTF-8 is shown as a replacement character."""
        return self.stderr_bytes.decode(errors="replace")

    def describe(self, why: str = "") -> str:
        """The command, how it ended (and what about that was wrong) and the end of both outputs."""
        return "\n".join(
            [
                f"`{shlex.join(self.argv)}` ended with {describe_status(self.status)} {why}".rstrip(),
                f"--- stdout ---\n{self.stdout[-_SHOWN_CHARACTERS:].rstrip()}",
                f"--- stderr ---\n{self.stderr[-_SHOWN_CHARACTERS:].rstrip()}",
            ]
        )


class GuestProcess:
    """A command that was started; its outputs can be read on this machine while it writes them."""

    def __init__(
        self,
        argv: tuple[str, ...],
        command_id: str,
        agent: AgentClient,
        folder: Path,
        lost: Callable[[str], VMLost],
    ) -> None:
        self.argv = argv
        self.pid = 0
        self._id = command_id
        self._agent = agent
        self._folder = folder
        self._lost = lost
        self._completed: Completed | None = None

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._agent.exit_status(self._id)

    def signal(self, number: int) -> None:
        """Sends a signal to the command's own process and no other."""
        self._send_signal(number, group=False)

    def signal_group(self, number: int) -> None:
        """Sends a signal to the command and what it started, as a terminal does for Ctrl-C."""
        self._send_signal(number, group=True)

    def kill(self) -> None:
        """Ends it and what it started, at once."""
        self.signal_group(signal.SIGKILL)

    def read(self, stream: str, after: int = 0) -> bytes:
        """What it has written to `stream` ("stdout" or "stderr") so far, from byte `after`."""
        if self._completed is not None:
            done = self._completed
            return (done.stdout_bytes if stream == "stdout" else done.stderr_bytes)[after:]
        with (self._folder / stream).open("rb") as file:
            file.seek(after)
            return file.read()

    def wait(self, timeout_s: float = 60, *, check: bool = False) -> Completed:
        """Waits for its end; with `check`, a status that is not 0 raises CommandFailed.

        Raises LabTimeout when it still runs then (it goes on running), VMLost at once when the VM ends.
        """
        if self._completed is None:
            if self._wait_exited(timeout_s) is None:
                raise LabTimeout(self._describe_so_far(f"still runs after {timeout_s:g} s"))
            self._completed = self._collect()
        if check and self._completed.status != 0:
            raise CommandFailed(self._completed)
        return self._completed

    def wait_for(self, text: bytes, timeout_s: float = 60, *, stream: str = "stderr", after: int = 0) -> int:
        """Waits until `text` is in the output (of `stream`, from byte `after`); returns where it ends there.

        Raises CommandFailed as soon as the command has ended without it, VMLost, LabTimeout.
        """
        deadline_s = self._agent.clock() + timeout_s
        position = after
        while True:
            has_ended = self.poll() is not None
            output = self.read(stream, position)
            if text in output:
                return position + output.index(text) + len(text)
            if has_ended:
                raise CommandFailed(self.wait(), f"without having written {text!r}")
            if self._agent.clock() > deadline_s:
                silence = f"has not written {text!r} within {timeout_s:g} s"
                raise LabTimeout(self._describe_so_far(silence))
            # The next look begins where `text` could still begin.
            position += max(len(output) - len(text) + 1, 0)
            self.pause(_LOOK_AGAIN_S)

    def pause(self, seconds: float) -> None:
        """Waits so long, less when the command ends. Raises VMLost."""
        try:
            self._agent.pause(seconds)
        except AgentGone as error:
            raise self._lost(f"{error}, while `{shlex.join(self.argv)}` was running") from None

    def _wait_exited(self, timeout_s: float) -> int | None:
        try:
            return self._agent.wait_exited(self._id, timeout_s)
        except AgentGone as error:
            raise self._lost(f"{error}, while `{shlex.join(self.argv)}` was running") from None

    def _send_signal(self, number: int, *, group: bool) -> None:
        try:
            self._agent.signal(self._id, number, group=group)
        except AgentGone as error:
            raise self._lost(str(error)) from None

    def _describe_so_far(self, what: str) -> str:
        return (
            f"`{shlex.join(self.argv)}` {what}\n"
            f"--- stdout ---\n{self.read('stdout')[-_SHOWN_CHARACTERS:].decode(errors='replace')}\n"
            f"--- stderr ---\n{self.read('stderr')[-_SHOWN_CHARACTERS:].decode(errors='replace')}"
        )

    def _collect(self) -> Completed:
        status = self._agent.exit_status(self._id)
        assert status is not None
        completed = Completed(self.argv, status, self.read("stdout"), self.read("stderr"))
        shutil.rmtree(self._folder, ignore_errors=True)
        return completed

# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest reached through qemu-guest-agent, without a network: its recordings are fetched when whole."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from balloontrace.errors import BalloontraceError
from balloontrace.measure.guest import Guest, facts_source, parse_answer
from balloontrace.measure.guest_agent import GuestAgent
from balloontrace.measure.recorder import ATTACHED, END_S, Recorder, RecorderFailed
from balloontrace.untrusted import printable

_QUICK_S = 60.0
_LOOK_EVERY_S = 0.2
# Those that write into this folder: where a Ctrl-C came before the agent's answer, nothing else tells them.
_END_RECORDERS = """
for found in $(grep -laF -- "$1/" /proc/[0-9]*/cmdline); do
    found=${found%/cmdline}
    kill -TERM "${found#/proc/}"
done
"""


class AgentGuest(Guest):
    """It needs no network."""

    def __init__(
        self, name: str, agent: GuestAgent, close: Callable[[], None], *, longest_s: float, keep: bool
    ) -> None:
        """Nothing is done yet. No recorder runs longer than `longest_s`: nobody tells it that we are gone."""
        super().__init__(name, keep=keep)
        self._agent, self._close, self._longest_s = agent, close, longest_s

    def _reach(self) -> str:
        made = self._agent.run(["mktemp", "-d", "/var/tmp/balloontrace-XXXXXX"], _QUICK_S)  # noqa: S108
        if made.status:
            raise BalloontraceError(f"no folder can be made in the guest: {printable(made.stderr.strip())}")
        return made.stdout.strip()

    def _copy(self, bundle: bytes) -> None:
        self._agent.write_file(self._bundle, bundle)

    def ask(self, *words: str, timeout_s: float) -> dict[str, Any]:
        """By the guest's python3."""
        ended = self._agent.run(["python3", "-c", facts_source(), *words], timeout_s)
        if ended.status:
            said = (ended.stderr.strip().splitlines() or ["it does not say why"])[-1]
            raise BalloontraceError(f"python3 in the guest failed: {printable(said)}")
        return parse_answer(ended.stdout)

    def start_recorder(self, options: Sequence[str], path: Path) -> AgentRecorder:
        """It writes into a file of the guest's, and ends by a signal."""
        inside = f"{self._folder}/{path.name}"
        words = [*self.program(), "record", "-f", "-o", inside, "--side", "guest"]
        words += ["-d", f"{self._longest_s:.0f}", *options]
        command = f"exec {shlex.join(words)} </dev/null >/dev/null 2>{shlex.quote(inside)}.log"
        return AgentRecorder(self._agent, self._agent.start(["sh", "-c", command]), inside, path)

    def close(self) -> None:
        """Remove what was copied, unless it is to be kept; a recorder whose number was not told ends, too."""
        with suppress(BalloontraceError):
            if self._folder:
                self._agent.run(["sh", "-c", _END_RECORDERS, "sh", self._folder], _QUICK_S)
                left = [] if self.kept else [self._folder]
                self._agent.run(["rm", "-rf", *left, f"{self._folder}/none"], _QUICK_S)
        self._close()


class AgentRecorder(Recorder):
    """A recorder of which the agent knows the process."""

    whose = "the guest's recorder"

    def __init__(self, agent: GuestAgent, pid: int, inside: str, path: Path) -> None:
        self.path = path
        self._agent, self._pid, self._inside = agent, pid, inside
        self._status: int | None = None

    def is_attached(self, wait_s: float) -> bool:
        """As its own words tell, which are in a file."""
        deadline_s = time.monotonic() + wait_s
        while ATTACHED not in self._said():
            self.check()
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_LOOK_EVERY_S)
        return True

    def check(self) -> None:
        """It has no reason to end by itself."""
        if self._has_ended():
            raise RecorderFailed(f"{self.whose} ended: {self._last_words()}", self._status)

    def tell_end(self) -> None:
        """By a signal, which it takes for the end."""
        with suppress(BalloontraceError):
            if not self._has_ended():
                self._agent.start(["kill", "-TERM", str(self._pid)])

    def wait_ended(self, timeout_s: float = END_S) -> None:
        """And fetch what it wrote, whatever its status."""
        self.tell_end()
        deadline_s = time.monotonic() + timeout_s
        while not self._has_ended():
            if time.monotonic() > deadline_s:
                self.kill()
                raise RecorderFailed(f"{self.whose} has not ended within {timeout_s:.0f} s")
            time.sleep(_LOOK_EVERY_S)
        with self.path.open("xb") as file:
            file.writelines(self._agent.read_file(self._inside))
        if self._status:
            raise RecorderFailed(f"{self.whose} ended: {self._last_words()}", self._status)
        self._agent.run(["rm", "-f", self._inside, f"{self._inside}.log"], _QUICK_S)

    def kill(self) -> None:
        """Its file stays in the guest's folder, and goes with that."""
        with suppress(BalloontraceError):
            if not self._has_ended():
                self._agent.start(["kill", "-KILL", str(self._pid)])

    def _has_ended(self) -> bool:
        if self._status is None:
            ended = self._agent.look(self._pid)
            self._status = None if ended is None else ended.status
        return self._status is not None

    def _said(self) -> str:
        try:
            return b"".join(self._agent.read_file(f"{self._inside}.log")).decode(errors="replace")
        except BalloontraceError:  # it is not there yet
            return ""

    def _last_words(self) -> str:
        lines = [line for line in self._said().splitlines() if line.strip()]
        return printable(lines[-1].removeprefix("balloontrace: ")) if lines else f"status {self._status}"

# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorders at work: `balloontrace record` as a child process, here or at the other end of ssh."""

from __future__ import annotations

import abc
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from balloontrace.errors import BalloontraceError, ExitCode
from balloontrace.measure.shell import deaf_to_interrupts
from balloontrace.untrusted import printable

ATTACHED = "probes attached"
END_S = 60.0
_KILLED_S = 5.0
_LOOK_EVERY_S = 0.05
_ITS_OWN = (ExitCode.USAGE, ExitCode.CANNOT_TRACE, ExitCode.MISSING_PROBE)


class RecorderFailed(BalloontraceError):  # noqa: N818
    """A recorder ended before it was told to, or not in order; the sentence has its last words.

    What a recorder says by its exit status of its options and its machine is said by ours, too.
    """

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        if status in _ITS_OWN:
            self.exit_code = ExitCode(status)


class Recorder(abc.ABC):
    """A recorder that writes a recording to `path` on this machine until it is told to end."""

    path: Path
    whose: str  # "the guest's recorder", say

    @abc.abstractmethod
    def is_attached(self, wait_s: float) -> bool:
        """Whether its probes are, after at most so long. Raises RecorderFailed."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raises RecorderFailed when it has ended by itself."""

    @abc.abstractmethod
    def tell_end(self) -> None:
        """Have it end in order; does not wait, and never raises."""

    @abc.abstractmethod
    def wait_ended(self, timeout_s: float = END_S) -> None:
        """Wait until all it recorded is here. Raises RecorderFailed when it did not end in order."""

    @abc.abstractmethod
    def kill(self) -> None:
        """End it in whatever way; never raises."""


class ChildRecorder(Recorder):
    """A child whose standard output is the recording, and which ends when its standard input does."""

    def __init__(
        self,
        whose: str,
        argv: Sequence[str],
        path: Path,
        *,
        own_session: bool,
        explain: Callable[[int], str | None] = lambda _status: None,
    ) -> None:
        """Start it. Unless in a session of its own it may ask for a password, and Ctrl-C is not for it.

        `explain` may know better than its last words what an exit status means.
        """
        self.whose, self.path, self._explain = whose, path, explain
        self._said = b""
        with path.open("xb") as output:
            self._process = subprocess.Popen(
                argv if own_session else deaf_to_interrupts(argv), stdin=subprocess.PIPE, stdout=output,
                stderr=subprocess.PIPE, start_new_session=own_session,
            )  # fmt: skip
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stderr, selectors.EVENT_READ)

    def is_attached(self, wait_s: float) -> bool:
        """As its own words on standard error tell."""
        deadline_s = time.monotonic() + wait_s
        while ATTACHED.encode() not in self._said:
            self.check()
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            self._listen(min(left_s, _LOOK_EVERY_S))  # `check` may have taken the words already
        return True

    def check(self) -> None:
        """It has no reason to end by itself."""
        self._listen(0)
        if self._process.poll() is not None:
            self._listen(0)
            raise self._failure()

    def tell_end(self) -> None:
        """Its input ends."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def wait_ended(self, timeout_s: float = END_S) -> None:
        """Its status is 0 where all was written."""
        self.tell_end()
        deadline_s = time.monotonic() + timeout_s
        while self._process.poll() is None:
            if time.monotonic() > deadline_s:
                self.kill()
                raise RecorderFailed(f"{self.whose} has not ended within {timeout_s:.0f} s")
            self._listen(_LOOK_EVERY_S)
        self._listen(0)
        self._selector.close()
        if self._process.returncode:
            raise self._failure()

    def kill(self) -> None:
        """A recorder at the other end of ssh sees its input end."""
        self.tell_end()
        with suppress(OSError):
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILLED_S)
        self._selector.close()

    def _listen(self, wait_s: float) -> None:
        """Take what it says within this time; sleeps where it has closed its standard error."""
        if not self._selector.get_map():
            time.sleep(min(wait_s, _LOOK_EVERY_S))
            return
        for key, _ in self._selector.select(wait_s):
            received = b""
            with suppress(BlockingIOError):
                received = os.read(key.fd, 1 << 16)
                if not received:
                    self._selector.unregister(key.fileobj)
            self._said += received

    def _failure(self) -> RecorderFailed:
        """Of one that has ended; a status that means something else is not the recorder's own."""
        status = self._process.returncode
        explained = self._explain(status)
        if explained is not None:
            return RecorderFailed(f"{self.whose} ended: {explained}")
        return RecorderFailed(f"{self.whose} ended: {self._last_words(status)}", status)

    def _last_words(self, status: int) -> str:
        lines = self._said.decode(errors="replace").strip().splitlines()
        telling = [line for line in lines if line.strip()]
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return printable(telling[-1].removeprefix("balloontrace: ")) if telling else how


def start_host_recorder(pid: int, options: Sequence[str], path: Path) -> ChildRecorder:
    """The recorder of this machine's side."""
    argv = [
        sys.executable, "-P", "-m", "balloontrace", "record", "-o", "-", "--side", "host", "-p", str(pid),
        "--until-eof", *options,
    ]  # fmt: skip
    return ChildRecorder("the host's recorder", argv, path, own_session=True)

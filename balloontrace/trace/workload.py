# SPDX-License-Identifier: GPL-2.0-or-later
"""The command a recording is made around, as in `balloontrace record -- CMD`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from balloontrace.errors import UsageError

_ENDS_S = 5.0


class Workload:
    """A command that runs while recording, ended with it as a context. No command, no effect."""

    def __init__(self, argv: Sequence[str], *, stdout_fd: int | None = None) -> None:
        """Prepare `argv`; entering the context starts it, or raises UsageError.

        Its standard output is `stdout_fd`, ours if that is None.
        """
        self._argv = argv
        self._stdout_fd = stdout_fd
        self._process: subprocess.Popen[bytes] | None = None
        self.fd: int | None = None  # readable once the command has ended

    def __enter__(self) -> Workload:
        if not self._argv:
            return self
        try:
            self._process = subprocess.Popen(
                self._argv, stdout=self._stdout_fd, preexec_fn=_be_an_ordinary_process
            )
        except OSError as error:
            raise UsageError(f"cannot run {self._argv[0]}: {error.strerror}") from error
        self.fd = os.pidfd_open(self._process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None or self.fd is None:
            return
        try:
            if self._process.poll() is None:
                self._process.terminate()
                self._process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            pass
        finally:  # a second Ctrl-C does not wait, but leaves no command behind either
            self._process.kill()
            self._process.wait()
            os.close(self.fd)

    @property
    def ended(self) -> bool:
        """Whether there was a command and it has ended."""
        return self._process is not None and self._process.poll() is not None

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.returncode if self._process else None


def _be_an_ordinary_process() -> None:
    """What the recorder is spared, its workload is not."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("0")

# SPDX-License-Identifier: GPL-2.0-or-later
"""A child that archives what lies in a folder: the recorder itself imports nothing for that.

`archive` takes each recording once, and removes it when it is committed. So it may be killed, or fail for a
while, and is started again later.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from balloontrace.console.missing_libraries import explain_import_error
from balloontrace.console.stderr import say
from balloontrace.errors import BalloontraceError, UsageError

_COMMAND = "balloontrace.commands.archive"
_NEEDED = ("pyarrow", "fsspec")
_NICENESS = 10
_ENDS_S = 60.0
_OOM_SCORE = "500"  # rather than a VM, or the recorder


class Archiver:
    """Archives a folder's recordings into a dataset, one child at a time."""

    def __init__(self, folder: Path, dataset: str) -> None:
        """UsageError where the libraries for it are missing, or in a bundle, which only traces."""
        self._folder, self._dataset = folder, dataset
        self._child: subprocess.Popen[bytes] | None = None
        if find_spec(_COMMAND) is None:
            raise UsageError("a bundle does not archive: record into a file, and archive that elsewhere")
        for name in _NEEDED:
            if find_spec(name) is None:
                raise UsageError(explain_import_error(ModuleNotFoundError(name=name)) or name)

    def start(self) -> None:
        """Archive what lies there; the next time, where a child is still at work."""
        if self._child is not None:
            if self._child.poll() is None:
                return
            if self._child.returncode:
                say(f"balloontrace: warning: {self._what_is_left()}; they are tried again\n")
        self._child = None
        if not any(self._folder.glob("*.bt")):
            return
        words = ["archive", str(self._folder), "--to", self._dataset, "--keep-damaged", "--remove"]
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "balloontrace", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C ends the recorder, which waits for this
            )
        except OSError as error:
            say(f"balloontrace: warning: {self._what_is_left()}: {error.strerror}\n")
        else:
            _be_modest(self._child.pid)

    def finish(self) -> None:
        """Archive the rest, and wait for it. BalloontraceError where something is left."""
        self._wait()
        self.start()
        self._wait()
        if any(self._folder.glob("*.bt")):
            raise BalloontraceError(
                f"{self._what_is_left()}; balloontrace archive {self._folder} --to {self._dataset} --remove"
            )

    def _wait(self) -> None:
        if self._child is None:
            return
        try:
            self._child.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _what_is_left(self) -> str:
        return f"recordings in {self._folder} could not be archived"


class NoArchiver:
    """Leaves recordings where they are, for somebody else to archive."""

    def start(self) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


def _be_modest(pid: int) -> None:
    """Other work comes first. Done from here: what a signal raises while a child forks would be lost."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)
        Path(f"/proc/{pid}/oom_score_adj").write_text(_OOM_SCORE)

# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest reached by ssh: the recorder is started there, and its recording comes back over ssh's output.

One session lasts as long as the measurement: `measure/facts` answers in it, and keeps what was copied.
Recorders have sessions of their own, over the same connection where ssh is OpenSSH. Whatever happens to that,
the guest sees an input end: the recorder stops, and what was copied is removed.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balloontrace.console.option_types import split_words
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure.guest import (
    BUNDLE,
    NOT_PYTHON,
    QUICK_S,
    Guest,
    GuestGone,
    facts_source,
    parse_answer,
)
from balloontrace.measure.line_server import LineServer, ServerGone
from balloontrace.measure.recorder import ChildRecorder
from balloontrace.untrusted import printable

_CONNECT_S = 15
_NO_COMMAND = 127
_FAILED = 255  # ssh's own status, ssh(1)


class SshGuest(Guest):
    """Everything in it is done as the user whom ssh logs in, but recorders, which are root's."""

    def __init__(self, destination: str, ssh: str, *, keep: bool = False) -> None:
        """Nothing is done yet. UsageError for an ssh that cannot be run."""
        super().__init__(destination, keep=keep)
        self._destination = destination
        self._words = split_words(ssh, "--ssh")
        if not self._words or shutil.which(self._words[0]) is None:
            raise UsageError(f"cannot run {printable(ssh)}: no such program; --ssh names another")
        if destination.startswith("-"):
            raise UsageError(f"--guest {printable(destination)}: that is an option of ssh, not a guest")
        self._own_folder = ""  # of this machine: the connection's socket is in it
        self._server: LineServer | None = None

    def _reach(self) -> str:
        """Begin the session that lasts. UsageError where there is none."""
        self._own_folder = tempfile.mkdtemp(prefix="balloontrace-")
        serve = ["python3", "-c", facts_source(), "serve", *(["keep"] if self._keep else [])]
        self._server = LineServer([*self._ssh(), f"exec {shlex.join(serve)}"])
        try:
            # It takes as long as ssh, and who types a password, let it.
            folder = parse_answer(self._server.read_line(None)).get("folder")
        except ServerGone as gone:
            if gone.status == _NO_COMMAND:
                raise UsageError(f"{self.name} has no python3, which the recorder needs") from None
            raise UsageError(f"cannot reach the guest {self.name} by ssh: {gone}") from None
        if not isinstance(folder, str):
            raise BalloontraceError(NOT_PYTHON)
        return folder

    def _copy(self, bundle: bytes) -> None:
        self._ask(["copy", BUNDLE, len(bundle)], QUICK_S, bundle)

    def ask(self, *words: str, timeout_s: float) -> dict[str, Any]:
        """By the session that lasts."""
        return self._ask(list(words), timeout_s)

    def start_recorder(self, options: Sequence[str], path: Path) -> ChildRecorder:
        """It ends when ssh closes its input, or is gone."""
        sudo = [] if self.facts.is_root else ["sudo", "-n"]
        words = [*sudo, *self.program(), "record", "-o", "-", "--side", "guest", "--until-eof", *options]
        argv = [*self._ssh(), f"exec {shlex.join(words)}"]
        if self._is_lost():
            raise GuestGone(f"the connection to {self.name} is lost")
        whose = f"the recorder of {self.name} over ssh"
        return ChildRecorder(whose, argv, path, own_session=False, explain=self._explain)

    def close(self) -> None:
        """What was copied is removed there when the session ends."""
        if self._server is not None:
            self._server.close()
        if self._own_folder:
            shutil.rmtree(self._own_folder, ignore_errors=True)

    def _is_lost(self) -> bool:
        return self._server is None or self._server.has_ended()

    def _explain(self, status: int) -> str | None:
        """What is to be said of a recorder that ended because ssh did."""
        return "the connection is lost" if status < 0 or status == _FAILED or self._is_lost() else None

    def _ssh(self) -> list[str]:
        """The words before the command. Options of the user's come first, and so they count."""
        options: list[str] = []
        if Path(self._words[0]).name == "ssh":
            shared = ("ControlMaster=auto", f"ControlPath={self._own_folder}/%C", "ControlPersist=no")
            lively = (f"ConnectTimeout={_CONNECT_S}", "ServerAliveInterval=15", "ServerAliveCountMax=4")
            options = ["-T", *(word for option in (*shared, *lively) for word in ("-o", option))]
        return [*self._words, *options, self._destination]

    def _ask(self, words: list[Any], timeout_s: float, content: bytes = b"") -> dict[str, Any]:
        assert self._server is not None  # `open` was called
        try:
            return parse_answer(self._server.ask(words, content, timeout_s))
        except ServerGone as gone:
            if gone.status is None:
                raise GuestGone(f"{self.name} does not answer: {gone}") from None
            raise GuestGone(f"the connection to {self.name} is lost") from None

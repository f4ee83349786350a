# SPDX-License-Identifier: GPL-2.0-or-later
"""Speaks with qemu-guest-agent: programs run in a guest, files read and written."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure.answers import MOST_BYTES, connect, parse_object
from balloontrace.measure.guest import GuestGone
from balloontrace.untrusted import printable

_ANSWERS_S = 30.0
_LOOK_EVERY_S = 0.1
_PIECE_BYTES = 32 << 10  # of 256 KiB libvirt 9.0 makes JSON that the agent refuses
_MARK = b"\xff"  # what guest-sync-delimited answers behind
_NO_AGENT = "what answers there is no guest agent"

Exchange = Callable[[dict[str, Any]], dict[str, Any]]
"""A command to the agent and its answer, both as they are in JSON. Raises GuestGone."""


@dataclass(frozen=True)
class Ended:
    """A program that has ended in the guest: its status (128 + the number of a signal), what it said."""

    status: int
    stdout: str
    stderr: str


class GuestAgent:
    """What can be done with the agent of one guest."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def start(self, argv: Sequence[str], *, listen: bool = False) -> int:
        """Start a program; its process number. Its output is kept if we `listen`."""
        arguments = {"path": argv[0], "arg": list(argv[1:]), "capture-output": listen}
        with _understood():
            return int(self._execute("guest-exec", **arguments)["pid"])

    def look(self, pid: int) -> Ended | None:
        """How a program of ours ended; None while it runs. An end is told once."""
        with _understood():
            found = self._execute("guest-exec-status", pid=pid)
            if not found["exited"]:
                return None
            status = int(found["exitcode"] if "exitcode" in found else 128 + found.get("signal", 0))
            return Ended(status, *(_decode(found.get(name, "")) for name in ("out-data", "err-data")))

    def run(self, argv: Sequence[str], timeout_s: float) -> Ended:
        """A program to its end. Raises GuestGone when it takes longer."""
        pid = self.start(argv, listen=True)
        deadline_s = time.monotonic() + timeout_s
        while (ended := self.look(pid)) is None:
            if time.monotonic() > deadline_s:
                raise GuestGone(f"{printable(argv[0])} has not ended in the guest within {timeout_s:.0f} s")
            time.sleep(_LOOK_EVERY_S)
        return ended

    def write_file(self, path: str, content: bytes) -> None:
        """A new file with this in it."""
        handle = self._execute("guest-file-open", path=path, mode="w")
        for place in range(0, len(content), _PIECE_BYTES):
            piece = base64.b64encode(content[place : place + _PIECE_BYTES]).decode()
            self._execute("guest-file-write", handle=handle, **{"buf-b64": piece})
        self._execute("guest-file-close", handle=handle)

    def read_file(self, path: str) -> Iterator[bytes]:
        """What is in a file, piece by piece."""
        handle = self._execute("guest-file-open", path=path, mode="r")
        try:
            while True:
                with _understood():
                    found = self._execute("guest-file-read", handle=handle, count=_PIECE_BYTES)
                    piece = base64.b64decode(found["buf-b64"]) if found["count"] else b""
                    is_last = not piece or found["eof"]
                yield piece
                if is_last:
                    return
        finally:
            self._execute("guest-file-close", handle=handle)

    def _execute(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401 - whatever the agent returns
        answer = self._exchange({"execute": command, "arguments": arguments})
        if "error" in answer:
            error = answer["error"]
            said = error.get("desc", "it does not say why") if isinstance(error, dict) else error
            raise BalloontraceError(f"the guest's agent refused {command}: {printable(str(said))}")
        return answer.get("return", {})


class AgentSocket:
    """The agent's socket on the host, as QEMU's -chardev has it."""

    def __init__(self, path: Path) -> None:
        """Connect, and see that the agent answers. UsageError if not."""
        self._connection = connect(path, "no guest agent answers", _ANSWERS_S)
        self._unread = b""
        self._is_in_step = True
        try:
            self._synchronise()
        except (OSError, GuestGone) as error:
            self.close()
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UsageError(f"no guest agent answers at {printable(str(path))}: {why}") from error

    def exchange(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command and its answer; that to a command before, which a Ctrl-C cut off, is thrown away."""
        try:
            if not self._is_in_step:
                self._synchronise()
            self._is_in_step = False
            self._connection.sendall(json.dumps(command).encode() + b"\n")
            answer = self._parse(self._read_until(b"\n"))
            self._is_in_step = True
            return answer
        except TimeoutError:
            raise GuestGone("the guest's agent does not answer") from None
        except OSError as error:
            raise GuestGone(f"the guest's agent is gone: {error.strerror}") from error

    def close(self) -> None:
        """The agent goes on."""
        self._connection.close()

    def _synchronise(self) -> None:
        """What an earlier connection left unread is thrown away."""
        number = secrets.randbelow(1 << 31)
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._connection.sendall(_MARK + json.dumps(request).encode() + b"\n")
        while True:
            self._read_until(_MARK)
            if self._parse(self._read_until(b"\n")).get("return") == number:
                return

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._unread:
            received = self._connection.recv(1 << 16)
            if not received:
                raise GuestGone("the guest's agent closed the connection")
            self._unread += received
            if len(self._unread) > MOST_BYTES:
                raise GuestGone(_NO_AGENT)
        line, _, self._unread = self._unread.partition(end)
        return line

    @staticmethod
    def _parse(line: bytes) -> dict[str, Any]:
        found = parse_object(line)
        if found is None:
            raise GuestGone(_NO_AGENT)
        return found


@contextmanager
def _understood() -> Iterator[None]:
    """GuestGone for an answer that has not what an agent's has."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise GuestGone(_NO_AGENT) from error


def _decode(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")

# SPDX-License-Identifier: GPL-2.0-or-later
"""Talks to the agent in the guest (image/agent.c): starts commands, signals them, hears when they end."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from lab.errors import LabError

AGENT_PORTS = 4  # as PORTS in image/agent.c: so many programs can talk to one guest at the same time
_MESSAGE_BYTES = 65536
_FIELDS = 1024
_numbers = itertools.count(1)


class AgentGone(LabError):  # noqa: N818
    """The other end closed, or does not answer; callers that know the VM turn this into VMLost."""


def encode_message(fields: Sequence[str]) -> bytes:
    """The bytes of one message. Raises LabError for what the protocol cannot carry."""
    if any("\0" in field for field in fields):
        raise LabError("A NUL byte cannot be part of a command.")
    body = b"".join(os.fsencode(field) + b"\0" for field in fields)
    if len(body) > _MESSAGE_BYTES or len(fields) > _FIELDS:
        raise LabError("The command is too long for the agent; put it into a script and push that.")
    return struct.pack("<I", len(body)) + body


def decode_messages(buffer: bytearray) -> list[list[str]]:
    """Takes the whole messages off the front of `buffer`."""
    messages = []
    while len(buffer) >= 4:
        end = 4 + struct.unpack_from("<I", buffer)[0]
        if len(buffer) < end:
            break
        messages.append([os.fsdecode(field) for field in bytes(buffer[4:end]).split(b"\0")[:-1]])
        del buffer[:end]
    return messages


def new_command_id() -> str:
    """A name no other command has, also not one started by another process."""
    return f"{os.getpid()}-{time.monotonic_ns():x}-{next(_numbers)}"


class AgentClient:
    """One connection to the agent; a thread of its own reads the answers, so any thread may wait for them."""

    def __init__(self, connection: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock  # of time limits
        self._connection = connection
        self._changed = threading.Condition()
        self._is_ready = False
        self._is_gone = False
        self._started: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._exited: dict[str, int] = {}
        self._reader = threading.Thread(target=self._read, name="lab-agent", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Ends the connection; commands in the guest go on."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._connection.close()

    def hello(self, timeout_s: float) -> bool:
        """Whether the agent answers in time. Raises AgentGone when the connection ended."""
        self._is_ready = False
        self._send(["hello"])
        with self._changed:
            self._wait_for(lambda: self._is_ready, timeout_s)
            self._check_gone()
            return self._is_ready

    def start(
        self,
        command_id: str,
        argv: Sequence[str],
        *,
        cwd: str,
        streams: Sequence[str],
        environment: Mapping[str, str],
        timeout_s: float = 60,
    ) -> int:
        """Starts a command with its `streams` (three files of the guest); returns its process id there."""
        variables = [f"{name}={value}" for name, value in environment.items()]
        self._send(["start", command_id, cwd, *streams, str(len(argv)), *argv, *variables])
        with self._changed:
            self._wait_for(lambda: command_id in self._started or command_id in self._refused, timeout_s)
            self._check_gone()
            if command_id in self._refused:
                raise LabError(f"The guest cannot start {argv[0]}: {self._refused[command_id]}.")
            if command_id not in self._started:
                raise AgentGone(f"no answer to `start` within {timeout_s:g} s")
            return self._started[command_id]

    def signal(self, command_id: str, number: int, *, group: bool) -> None:
        """Sends a signal to the command's own process, or to all of its process group."""
        self._send(["signal", command_id, str(int(number)), "group" if group else "process"])

    def set_clock(self) -> None:
        """Gives the guest this machine's time of day, late by as long as the message takes."""
        self._send(["clock", str(time.time_ns())])

    def exit_status(self, command_id: str) -> int | None:
        """Its status if it has ended, negative for a signal as in `subprocess`."""
        with self._changed:
            return self._exited.get(command_id)

    def wait_exited(self, command_id: str, timeout_s: float) -> int | None:
        """Waits for the end of a command; None when it still runs then. Raises AgentGone."""
        with self._changed:
            self._wait_for(lambda: command_id in self._exited, timeout_s)
            if command_id not in self._exited:
                self._check_gone()
            return self._exited.get(command_id)

    def pause(self, seconds: float) -> None:
        """Waits so long, less when something is heard from the agent. Raises AgentGone."""
        with self._changed:
            self._check_gone()
            self._changed.wait(seconds)
            self._check_gone()

    def _wait_for(self, is_there: Callable[[], bool], timeout_s: float) -> None:
        """Waits, with the lock held, until it is there, the connection has ended, or time is up."""
        deadline_s = self.clock() + timeout_s
        while not (self._is_gone or is_there()) and (left_s := deadline_s - self.clock()) > 0:
            self._changed.wait(left_s)

    def _check_gone(self) -> None:
        if self._is_gone:
            raise AgentGone("the connection to the guest's agent ended")

    def _send(self, fields: Sequence[str]) -> None:
        try:
            self._connection.sendall(encode_message(fields))
        except OSError as error:
            raise AgentGone(f"cannot reach the guest's agent: {error.strerror}") from None

    def _read(self) -> None:
        buffer = bytearray()
        while True:
            try:
                received = self._connection.recv(65536)
            except OSError:
                received = b""
            with self._changed:
                buffer += received
                for message in decode_messages(buffer):
                    self._hear(message)
                self._is_gone = not received
                self._changed.notify_all()
            if not received:
                return

    def _hear(self, message: list[str]) -> None:
        """Remembers one answer, also to what another program asked for on this port before us."""
        match message:
            case ["ready"]:
                self._is_ready = True
            case ["started", command_id, pid]:
                self._started[command_id] = int(pid)
            case ["refused", command_id, why]:
                self._refused[command_id] = why
            case ["exited", command_id, "code", number]:
                self._exited[command_id] = int(number)
            case ["exited", command_id, "signal", number]:
                self._exited[command_id] = -int(number)


def describe_status(status: int) -> str:
    """`status 3` or `signal SIGKILL`."""
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"

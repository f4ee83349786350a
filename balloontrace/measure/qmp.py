# SPDX-License-Identifier: GPL-2.0-or-later
"""Speaks QMP, QEMU's control protocol: a JSON object per line, commands answered in turn, events between."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

from balloontrace.errors import BalloontraceError
from balloontrace.measure.answers import MOST_BYTES, parse_object

_ANSWERS_S = 30.0


class QmpRefused(BalloontraceError):  # noqa: N818
    """QEMU understood the command and refused it; `description` is QEMU's sentence."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        self.error_class = error_class
        self.description = description
        super().__init__(f"QEMU refused {command}: {description}")


class QmpGone(BalloontraceError):  # noqa: N818
    """The connection ended, or QEMU does not answer."""


class NotQmp(QmpGone):
    """What answers is something else."""

    def __init__(self) -> None:
        super().__init__("what answers there is not QEMU")


class QmpClient:
    """One connection; commands may come from several threads, events that pass by are kept in `events`."""

    def __init__(self, connection: socket.socket, timeout_s: float = _ANSWERS_S) -> None:
        """Greets QEMU. Raises QmpGone when nobody answers, NotQmp when something else does."""
        self.events: list[dict[str, Any]] = []
        self._connection = connection
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._next_id = 0
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        if "QMP" not in self._read_object():  # QEMU's greeting
            raise NotQmp
        self.execute("qmp_capabilities")

    def close(self) -> None:
        """Ends the connection; QEMU goes on."""
        self._connection.close()

    def execute(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401 - whatever QEMU returns for it
        """QEMU's return value. `_` in argument names stands for `-`. Raises QmpRefused, QmpGone."""
        with self._lock:
            self._deadline_s = time.monotonic() + self._timeout_s
            self._next_id += 1
            request: dict[str, Any] = {"execute": command, "id": self._next_id}
            if arguments:
                request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
            self._send(json.dumps(request).encode() + b"\n")
            answer = self._read_answer(self._next_id)
        error = answer.get("error")
        if isinstance(error, dict):
            raise QmpRefused(command, str(error.get("class")), str(error.get("desc")))
        if "return" not in answer:
            raise NotQmp
        return answer["return"]

    def _read_answer(self, request_id: int) -> dict[str, Any]:
        while True:
            message = self._read_object()
            if "event" in message:
                self.events.append(message)
            elif message.get("id") == request_id:
                return message

    def _send(self, line: bytes) -> None:
        try:
            self._connection.sendall(line)
        except OSError as error:
            raise QmpGone(f"cannot reach QEMU: {error.strerror or error}") from None

    def _read_object(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._connection.settimeout(max(self._deadline_s - time.monotonic(), 0.001))
            try:
                received = self._connection.recv(65536)
            except TimeoutError:
                raise QmpGone("QEMU does not answer") from None
            except OSError as error:
                raise QmpGone(f"cannot reach QEMU: {error.strerror}") from None
            if not received:
                raise QmpGone("QEMU closed its control connection")
            self._buffer += received
            if len(self._buffer) > MOST_BYTES:
                raise NotQmp
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = bytearray(rest)
        message = parse_object(bytes(line))
        if message is None:
            raise NotQmp
        return message

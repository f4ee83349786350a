# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers of whoever has the other end of a socket or a pipe: a JSON object a line, or something else."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, TypeGuard

from balloontrace.errors import UsageError
from balloontrace.untrusted import made_printable, printable

MOST_BYTES = 32 << 20
"""No answer is so long: a guest's agent keeps 16 MiB of a program's output, which are 22 in base64."""


def parse_object(line: bytes | str) -> dict[str, Any] | None:
    """The object, its texts printable; None where the line is something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return made_printable(found) if isinstance(found, dict) else None


def is_whole(value: object) -> TypeGuard[int]:
    """Whether this is a whole number that is not negative; to Python `true` is a number, too."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def connect(path: Path, failure: str, timeout_s: float) -> socket.socket:
    """To a socket of this machine. UsageError: `failure`, at which path, and why."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)  # or it would wait for its turn, behind others that wait
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        busy = isinstance(error, BlockingIOError | TimeoutError)
        why = "others are connected to it" if busy else error.strerror or str(error)
        raise UsageError(f"{failure} at {printable(str(path))}: {why}") from error
    return connection

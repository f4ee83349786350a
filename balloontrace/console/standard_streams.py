# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard streams that the caller has closed, whose reader is gone, or that know few characters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress

STDOUT, STDERR = 1, 2


def write_stdout(pieces: Iterable[str] | Iterable[bytes], *, for_people: bool = False) -> None:
    """Write text as files have it; `for_people` as their terminal has it, `?` for what it lacks.

    A reader who has seen enough ends the writing and is no error: what is checked afterwards still is.
    OSError for anything else, such as a full disk.
    """
    encoding = (for_people and sys.stdout.encoding) or "utf-8"
    try:
        for piece in pieces:
            sys.stdout.buffer.write(encoded(piece, encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        drop(STDOUT)


def encoded(piece: str | bytes, encoding: str = "utf-8") -> bytes:
    """Text as bytes, `?` for what the encoding lacks; bytes as they are."""
    return piece if isinstance(piece, bytes) else piece.encode(encoding, errors="replace")


def drop(fd: int) -> None:
    """What is still buffered would be complained about once more when Python flushes it on exit."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


def drop_unwritable_stderr() -> None:
    """The same of standard error, if it cannot be written to: that would change the exit status."""
    try:
        sys.stderr.flush()
    except OSError:
        drop(STDERR)


def open_missing() -> None:
    """Stand in for streams that the caller has closed: the next file opened would take their place."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The lowest free descriptor is this one: those before it are open by now.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if fd == 0 else "w"))

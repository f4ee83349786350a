# SPDX-License-Identifier: GPL-2.0-or-later
"""A child that answers each line of its input by one of its output, such as ssh to `measure/facts`."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from balloontrace.measure.answers import MOST_BYTES, parse_object
from balloontrace.measure.shell import deaf_to_interrupts
from balloontrace.untrusted import printable

_LEAVE_S = 10.0
_PIECE_BYTES = 1 << 16


class ServerGone(Exception):  # noqa: N818
    """It has ended, with `status`, or does not answer: then that is None. The text tells why."""

    def __init__(self, why: str, status: int | None) -> None:
        super().__init__(why)
        self.status = status


class LineServer:
    """The child, until `close`; Ctrl-C in the terminal is not for it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            deaf_to_interrupts(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        pipes = self._process.stdin, self._process.stdout, self._process.stderr
        assert pipes[0] is not None and pipes[1] is not None and pipes[2] is not None  # noqa: PT018
        self._pipes = [pipe for pipe in pipes if pipe is not None]
        self._input, self._output, errors = (pipe.fileno() for pipe in self._pipes)
        self._errors = [errors]  # until it ends
        for descriptor in (self._input, self._output, errors):
            os.set_blocking(descriptor, False)
        self._received = self._said = b""
        self._asked = 0

    def has_ended(self) -> bool:
        """Whether nobody answers any more."""
        return self._process.poll() is not None

    def ask(self, words: list[Any], content: bytes, timeout_s: float) -> str:
        """A question in JSON with what follows it, and the answer. Raises ServerGone.

        Answers to questions that nobody waited for, as after a Ctrl-C, are thrown away.
        """
        self._asked += 1
        unsent = json.dumps([self._asked, *words]).encode() + b"\n" + content
        while True:
            line, unsent = self._exchange(unsent, timeout_s), b""
            if _number_of(line) in (None, self._asked):
                return line

    def read_line(self, timeout_s: float | None) -> str:
        """What it says unasked. Raises ServerGone."""
        return self._exchange(b"", timeout_s)

    def close(self) -> None:
        """End its input, and so the child."""
        with suppress(OSError):
            self._pipes[0].close()
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.close()

    def _exchange(self, unsent: bytes, timeout_s: float | None) -> str:
        """Send all, and wait for a line. What it says beside is taken too: nobody else reads that."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while unsent or b"\n" not in self._received:
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise ServerGone(f"no answer within {timeout_s:.0f} s", None)
            readable, writable, _ = select.select(
                [self._output, *self._errors], [self._input] if unsent else [], [], left_s
            )
            for errors in set(readable) & set(self._errors):
                said = self._read(errors)
                self._said += said
                if not said:
                    self._errors.remove(errors)
            if self._output in readable:
                received = self._read(self._output)
                self._received += received
                if len(self._received) > MOST_BYTES:
                    raise ServerGone("what answers does not end", None)
                if not received:
                    raise self._gone()
            if writable:
                try:
                    unsent = unsent[os.write(self._input, unsent[:_PIECE_BYTES]) :]
                except BrokenPipeError:
                    raise self._gone() from None
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")

    @staticmethod
    def _read(descriptor: int) -> bytes:
        with suppress(BlockingIOError):
            return os.read(descriptor, _PIECE_BYTES)
        return b""

    def _gone(self) -> ServerGone:
        """It has closed its output."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_S)
        for errors in self._errors:
            self._said += self._read(errors)
        lines = [line for line in self._said.decode(errors="replace").splitlines() if line.strip()]
        return ServerGone(
            printable(lines[-1].strip()) if lines else "it does not say why", self._process.poll()
        )


def _number_of(line: str) -> int | None:
    """Of the question that this answers; None where it is no such answer."""
    number = (parse_object(line) or {}).get("number")
    return number if isinstance(number, int) else None

# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal while something is drawn on it again and again; it is left as it was, whatever happens."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

Lines = Callable[[int, int], Sequence[str]]
"""The lines of a screen of so many columns and rows."""

_HEADINGS = ("stage ", "call ", "time of ")
_TROUBLE = ("failed allocations ", "lost ")


def can_draw() -> bool:
    """Whether standard output is a terminal that can be drawn on, and ours to draw on at the moment."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("", "dumb"):
        return False
    with suppress(OSError):
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    return True  # a terminal that is nobody's, as a test makes one


class Terminal:
    """An alternate screen, and keys without Enter; as a context it puts everything back."""

    def __init__(self) -> None:
        # A shell that exports them would fix the size; what the terminal says is right after a resize too.
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
        self._console = Console(file=sys.stdout, highlight=False)
        self._live: Live | None = None
        self._before: list[Any] | None = None
        self.keys_fd: int | None = (
            sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        )

    def __enter__(self) -> Terminal:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def begin(self) -> None:
        """Take the terminal, at first or after `end`."""
        try:
            self._take()
        except BaseException:  # a signal above all
            self.end()
            raise

    def _take(self) -> None:
        if self.keys_fd is not None:
            with suppress(termios.error):
                self._before = termios.tcgetattr(self.keys_fd)
                _without_lines(self.keys_fd)
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def end(self) -> None:
        """Give the terminal back as it was."""
        live, self._live = self._live, None
        try:
            if live is not None:
                with suppress(OSError):  # a terminal that has gone
                    live.stop()
        finally:
            if self.keys_fd is not None and self._before is not None:
                with suppress(termios.error):
                    termios.tcsetattr(self.keys_fd, termios.TCSANOW, self._before)
                self._before = None

    def draw(self, lines: Lines) -> None:
        """Show what `lines` makes of the size the terminal has now."""
        if self._live is None:
            return
        columns, rows = self._console.size
        texts = [_styled(number, line) for number, line in enumerate(lines(columns, rows))]
        with suppress(OSError):  # the terminal has gone, which a SIGHUP says too
            self._live.update(Group(*texts), refresh=True)


def _styled(number: int, line: str) -> Text:
    trouble = line.startswith(_TROUBLE) and not line.startswith(tuple(f"{words}0 " for words in _TROUBLE))
    style = "reverse" if number == 0 else "bold" if line.startswith(_HEADINGS) else "red" if trouble else ""
    return Text(line, style=style, no_wrap=True, overflow="crop")


def _without_lines(fd: int) -> None:
    """Keys come at once and are not shown; those that send signals still do."""
    local_flags = 3
    changed = termios.tcgetattr(fd)
    changed[local_flags] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(fd, termios.TCSANOW, changed)

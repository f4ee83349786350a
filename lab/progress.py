# SPDX-License-Identifier: GPL-2.0-or-later
"""Shows what a long job is doing: a line per stage, and on a terminal a bar that is redrawn in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

_BAR_COLUMNS = 24
_REDRAW_S = 0.1


class Progress:
    """Stage lines with elapsed seconds on `stream`; in a log (no terminal) one plain line per stage."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._started_s = clock()
        self._drawn_s = 0.0
        self._bar_shown = False

    def stage(self, text: str) -> None:
        """Begins a stage; `text` says what is being done now."""
        self._clear_bar()
        self._write(f"[{self._clock() - self._started_s:5.1f} s] {text}\n")

    def step(self, done: int, total: int, what: str) -> None:
        """`done` of `total` is reached within the stage; drawn on a terminal only, a few times a second."""
        now_s = self._clock()
        if not self._stream.isatty() or (now_s - self._drawn_s < _REDRAW_S and done < total):
            return
        self._drawn_s, self._bar_shown = now_s, True
        filled = "#" * (_BAR_COLUMNS * done // max(total, 1))
        self._write(f"\r          {filled:.<{_BAR_COLUMNS}} {done}/{total} {what[:36]}\x1b[K")

    def close(self) -> None:
        """Leaves the terminal at the start of a line."""
        self._clear_bar()

    def _clear_bar(self) -> None:
        if self._bar_shown:
            self._write("\r\x1b[K")
            self._bar_shown = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

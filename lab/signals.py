# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes SIGTERM end a program in order, so that it leaves no VM and no half-made image."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is like Ctrl-C: what is open is closed on the way out, also by pytest."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raises Terminated on SIGTERM, where nobody has decided about that signal otherwise."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise_terminated(_number: int, _frame: FrameType | None) -> None:
    raise Terminated("SIGTERM")

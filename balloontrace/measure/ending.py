# SPDX-License-Identifier: GPL-2.0-or-later
"""Ended by a signal once: what comes after the first one would cut short what puts everything back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from balloontrace.system.ignore_signals import ignore_signals

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def be_deaf() -> None:
    """From here on no signal ends this process but SIGKILL."""
    ignore_signals(_ENDS)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    be_deaf()
    raise KeyboardInterrupt


@contextmanager
def ended_once() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP is a KeyboardInterrupt; after it this process is deaf."""
    # As nohup leaves it, SIGHUP stays ignored.
    numbers = [
        each for each in _ENDS if signal.getsignal(each) is not signal.SIG_IGN or each == signal.SIGINT
    ]
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, handler)

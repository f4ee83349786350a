# SPDX-License-Identifier: GPL-2.0-or-later
"""The signals that end a recording; a descriptor tells of them, for who waits for other things too."""

from __future__ import annotations

import os
import signal
from types import FrameType

from balloontrace.system.ignore_signals import ignore_signals


class EndSignals:
    """SIGINT, SIGTERM and SIGHUP end a recording; a second SIGINT raises KeyboardInterrupt and drops it."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> EndSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(signal.SIGHUP, self._on_signal)
        signal.set_wakeup_fd(self._write_fd)
        return self

    def __exit__(self, *_: object) -> None:
        # The handlers stay: writing the end must not be torn by the signal that asked for it.
        signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self._write_fd)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.received == signal.SIGINT and number == signal.SIGINT:
            ignore_signals([signal.SIGINT])  # dropping it must not be torn by a third
            raise KeyboardInterrupt
        self.received = number

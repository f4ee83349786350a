# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals to this process, once what is tested takes them: before that they would end the tests."""

from __future__ import annotations

import os
import signal
import threading
import time

_HANDLED_S = 60


def signal_soon(number: int) -> threading.Thread:
    """Sends one a moment after it has got another handler."""
    before = signal.getsignal(number)

    def send() -> None:
        until_s = time.monotonic() + _HANDLED_S
        while signal.getsignal(number) == before and time.monotonic() < until_s:
            time.sleep(0.001)
        time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread

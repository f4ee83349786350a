# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps a service going until a signal or its source ends it: looks, files, and words to systemd."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from balloontrace.live.refresh_loop import Source
from balloontrace.serve.notify import ServiceManager

_WAKE_UP_S = 1.0


@dataclass(frozen=True)
class Duty:
    """What is to be done every so often."""

    every_s: float
    do: Callable[[], None]


def serve_until_end(source: Source, manager: ServiceManager, duties: Sequence[Duty]) -> str:
    """Do the duties, each at once and then at its pace; returns why it ended."""
    with _Ended() as ended:
        manager.tell("READY=1")
        if manager.watchdog_s is not None:
            duties = [*duties, Duty(manager.watchdog_s, lambda: manager.tell("WATCHDOG=1"))]
        due_s = [time.monotonic()] * len(duties)
        poll = select.poll()
        if source.fd is not None:
            poll.register(source.fd, select.POLLIN)
        while True:
            now_s = time.monotonic()
            for place, duty in enumerate(duties):
                if now_s >= due_s[place]:
                    duty.do()
                    due_s[place] = now_s + duty.every_s
            why = ended.why or source.gone
            if why:
                manager.tell("STOPPING=1")
                return why
            until_s = min([*due_s, now_s + _WAKE_UP_S])
            # A signal ends the waiting: its handler raises nothing, so that nothing is cut short.
            ended.wait(poll, max(until_s - time.monotonic(), 0))


class _Ended:
    """SIGINT, SIGTERM and SIGHUP, as what there is to say of them."""

    _WORDS: Mapping[int, str] = {
        signal.SIGINT: "interrupted",
        signal.SIGTERM: "terminated",
        signal.SIGHUP: "terminated",
    }

    def __init__(self) -> None:
        self.why: str | None = None

    def __enter__(self) -> _Ended:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._WORDS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        # The handlers stay: the end must not be torn by another signal.
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)

    def wait(self, poll: select.poll, seconds: float) -> None:
        """Until a signal came, or what `poll` knows has something to say."""
        poll.register(self._read, select.POLLIN)
        poll.poll(seconds * 1000)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.why = self._WORDS[number]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Shows view after view, at even intervals, until the user or the source has had enough."""

from __future__ import annotations

import enum
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Protocol

_QUIT_KEYS = b"qQ"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending(enum.StrEnum):
    """Why the view ended; what the source says of itself comes as plain text."""

    QUIT = "quit"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    COUNT = "count reached"
    DURATION = "duration reached"


_ENDING_OF_SIGNAL: Mapping[int, Ending] = {
    signal.SIGINT: Ending.INTERRUPTED,
    signal.SIGTERM: Ending.TERMINATED,
    signal.SIGHUP: Ending.TERMINATED,
}


@dataclass(frozen=True)
class Schedule:
    """How often to look, and when to stop."""

    interval_s: float
    count: int | None = None
    duration_s: float | None = None


class Source(Protocol):
    """What may end by itself: readable `fd` or `gone` show it."""

    @property
    def fd(self) -> int | None:
        """Becomes readable when the source has gone; None if only `gone` tells."""

    @property
    def gone(self) -> str | None:
        """Why there is nothing more to see."""


class Display(Protocol):
    """Where views are shown."""

    @property
    def keys_fd(self) -> int | None:
        """Where keys come from."""

    def show(self) -> None:
        """Take a new look and show it."""

    def redraw(self) -> None:
        """Show the last look again: the size has changed."""

    def begin(self) -> None:
        """Take the terminal back."""

    def end(self) -> None:
        """Give the terminal away for a while."""


def run_live(source: Source, display: Display, schedule: Schedule) -> str:
    """Show something every interval; returns why that ended."""
    with _Signals() as signals:
        return _Loop(source, display, schedule, signals).run()


class _Loop:
    def __init__(self, source: Source, display: Display, schedule: Schedule, signals: _Signals) -> None:
        self._source = source
        self._display = display
        self._schedule = schedule
        self._signals = signals
        self._shown = 0
        self._poll = select.poll()
        for fd in (signals.fd, source.fd, display.keys_fd):
            if fd is not None:
                self._poll.register(fd, select.POLLIN)

    def run(self) -> str:
        schedule, started_s = self._schedule, time.monotonic()
        deadline_s = None if schedule.duration_s is None else started_s + schedule.duration_s
        next_s = started_s + schedule.interval_s
        while True:
            now_s = time.monotonic()
            wake_s = next_s if deadline_s is None else min(next_s, deadline_s)
            ready = dict(self._poll.poll(max(wake_s - now_s, 0) * 1000))
            ending = self._answer(ready)
            if ending is not None:
                self._show()  # what has happened since the last look
                return ending
            now_s = time.monotonic()
            is_over = deadline_s is not None and now_s >= deadline_s
            gone = self._source.gone
            if now_s >= next_s or is_over or gone:
                self._show()
                # What was missed while stopped or starved is not made up for.
                next_s = max(next_s + schedule.interval_s, now_s)
            if gone:
                return gone
            if schedule.count is not None and self._shown >= schedule.count:
                return Ending.COUNT
            if is_over:
                return Ending.DURATION

    def _show(self) -> None:
        self._display.show()
        self._shown += 1

    def _answer(self, ready: Mapping[int, int]) -> Ending | None:
        """What signals and keys ask for."""
        for number in self._signals.take():
            if number in _ENDING_OF_SIGNAL:
                return _ENDING_OF_SIGNAL[number]
            if number == signal.SIGWINCH:
                self._display.redraw()
            if number == signal.SIGTSTP:
                self._display.end()
                os.kill(os.getpid(), signal.SIGSTOP)
                self._display.begin()
                self._display.redraw()
        keys_fd = self._display.keys_fd
        if keys_fd is not None and ready.get(keys_fd):
            keys = _read(keys_fd)
            if not keys:
                self._poll.unregister(keys_fd)
            if any(key in _QUIT_KEYS for key in keys):
                return Ending.QUIT
        return None


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 64)
    except OSError:  # the terminal has gone
        return b""


class _Signals:
    """Signals become readable, in order; as a context it puts back what they did before."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._handlers: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> _Signals:
        for number in (*_ENDING, signal.SIGWINCH, signal.SIGTSTP):
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # as nohup leaves it
            self._handlers[number] = signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write_fd)

    def take(self) -> bytes:
        """The numbers of the signals that came since the last call."""
        try:
            return os.read(self.fd, 64)
        except BlockingIOError:
            return b""

# SPDX-License-Identifier: GPL-2.0-or-later
"""When the recorder works: decided at each wake-up from counts alone, so that a test can play it through."""

from __future__ import annotations

from balloontrace.collector import Counters
from balloontrace.events import Function

_OLDEST_S = 2.0  # spans wait no longer for being written, save for one wake-up
_FULL_PARTS = 4  # a ring filled to a quarter is drained at once
_ENOUGH_CALLS = 1024  # timed, they tell what a run of a program costs

# Called for each send: what the others cost does not matter, and they may never be called.
_BUSY = (
    Function.UPDATE_BALLOON_SIZE_FUNC,
    Function.FILL_BALLOON,
    Function.LEAK_BALLOON,
    Function.TELL_HOST,
    Function.SEND_RESP_DATA,
    Function.SET_PAGE_BITMAP,
)


class DrainPace:
    """When to drain: once the balloon rests, before the ring is full, and before what waits is old.

    Writing what was traced costs a third of what tracing costs. That is better spent when nobody waits for
    the guest; what a kill can take is bounded by `_OLDEST_S`.
    """

    def __init__(self) -> None:
        self._waiting = 0
        self._since_s: float | None = None

    def is_due(self, waiting: int, filled: float, now_s: float) -> bool:
        """Whether to drain at `now_s` of any clock: `waiting` spans, the fuller ring `filled` (1: full)."""
        resting = waiting == self._waiting
        self._waiting = waiting
        if not waiting:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = now_s
        due = resting or filled * _FULL_PARTS >= 1 or now_s - self._since_s >= _OLDEST_S
        if due:
            self._since_s = None
        return due


class TimingPace:
    """When the kernel shall time the programs, which costs some 100 instructions a run.

    Off as soon as all functions that are being called have been timed enough. On again while the balloon
    rests, if there is one that has not been and may be called next.
    """

    def __init__(self, functions: frozenset[Function]) -> None:
        """`functions` are those attached."""
        self._functions = [function for function in _BUSY if function in functions]
        self._calls = dict.fromkeys(self._functions, 0)
        self._timed_calls = dict.fromkeys(self._functions, 0)

    def is_wanted(self, counters: Counters, *, timing: bool) -> bool:
        """Whether to time from now on, given whether the calls since the last look were timed."""
        busy = []
        for function in self._functions:
            calls = counters.functions[function].returns
            if calls > self._calls[function]:
                busy.append(function)
            if timing:
                self._timed_calls[function] += calls - self._calls[function]
            self._calls[function] = calls
        return any(self._timed_calls[function] < _ENOUGH_CALLS for function in busy or self._functions)

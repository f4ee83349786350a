# SPDX-License-Identifier: GPL-2.0-or-later
"""When the recorder works: decided at each wake-up from counts alone, so that a test can play it through."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from balloontrace.format.guest_counters import Counters
from balloontrace.format.host_counters import SYSTEM_CALLS, HostCounters
from balloontrace.format.vocabulary import Function

_Name = TypeVar("_Name", bound=Hashable)
_Counters = TypeVar("_Counters", contravariant=True)

_OLDEST_S = 2.0  # spans wait no longer to be written, except for one wake-up
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


class _TimedCalls(Generic[_Name]):
    """How often each of some functions was called, and how often while the kernel timed its programs."""

    def __init__(self, names: Iterable[_Name], known: Collection[_Name] = ()) -> None:
        """Of those `known` enough was timed before."""
        self._calls = dict.fromkeys(names, 0)
        self._timed = {name: _ENOUGH_CALLS if name in known else 0 for name in self._calls}

    def add(self, calls: Mapping[_Name, int], *, timing: bool) -> list[_Name]:
        """Take a look at the calls so far; returns those that were called since the last look."""
        before = self._calls.copy()
        self._calls.update((name, calls[name]) for name in before)
        if timing:
            self._timed.update((name, self._timed[name] + calls[name] - before[name]) for name in before)
        return [name for name in before if calls[name] > before[name]]

    @property
    def called(self) -> list[_Name]:
        """Those that were ever called."""
        return [name for name, calls in self._calls.items() if calls]

    def lacking(self, names: Iterable[_Name]) -> bool:
        """Whether one of `names` was not timed often enough to tell what a run costs."""
        return any(self._timed[name] < _ENOUGH_CALLS for name in names)


class Pace(Protocol[_Counters]):
    """When the kernel is to time the programs of one side."""

    @property
    def at_start(self) -> bool:
        """Whether to time before the first look."""

    def is_wanted(self, counters: _Counters, *, timing: bool) -> bool:
        """Whether to time from now on, given whether the calls since the last look were timed."""


class TimingPace:
    """When the kernel should time the programs, which costs some 100 instructions a run.

    Off as soon as all functions that are being called have been timed enough. On again while the balloon
    rests, if there is one that has not been and may be called next.
    """

    def __init__(self, functions: frozenset[Function]) -> None:
        """`functions` are those attached."""
        self._functions = [function for function in _BUSY if function in functions]
        self._timed = _TimedCalls(self._functions)
        self.at_start = True

    def is_wanted(self, counters: Counters, *, timing: bool) -> bool:
        """Whether to time from now on, given whether the calls since the last look were timed."""
        calls = {function: counters.functions[function].returns for function in self._functions}
        busy = self._timed.add(calls, timing=timing)
        return self._timed.lacking(busy or self._functions)


class HostTimingPace:
    """The same of the host's programs, into which other processes run too.

    Off from the start where calls were timed while attaching, else on until the process has made calls and
    those are known: the balloon may move long after attaching. Of the system calls it has never made nothing
    is waited for, as others would pay for that without end.
    """

    def __init__(self, known: Collection[str] = ()) -> None:
        """`known` are the system calls whose programs were timed while attaching."""
        self._timed = _TimedCalls(SYSTEM_CALLS, known)
        self.at_start = not known

    def is_wanted(self, counters: HostCounters, *, timing: bool) -> bool:
        """Whether to time from now on, given whether the calls since the last look were timed."""
        busy = self._timed.add(counters.calls_by_system_call, timing=timing)
        called = self._timed.called
        return self._timed.lacking(busy or called) if called else self.at_start

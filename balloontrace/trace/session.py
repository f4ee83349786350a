# SPDX-License-Identifier: GPL-2.0-or-later
"""One recording from attach to end: joins a collector with a recording file.

Wakes up rarely, decodes nothing, and ends in order whatever ends it: a signal, a duration, a number of
operations, a command, a closed pipe, a full disk. A driver that goes away is waited for.
"""

from __future__ import annotations

import abc
import enum
import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import balloontrace
from balloontrace.format.balloon_size import BalloonSize
from balloontrace.format.format_version import FORMAT_VERSION
from balloontrace.format.moved_pages import Unseen
from balloontrace.format.recording_writer import RecordingWriter
from balloontrace.system.machine import read_machine
from balloontrace.system.own_memory import read_peak_memory_bytes
from balloontrace.trace.attached_programs import AttachedPrograms, follow_pace
from balloontrace.trace.end_signals import EndSignals
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.pace import DrainPace, Pace
from balloontrace.trace.readings import Readings
from balloontrace.trace.workload import Workload

_WAKE_UP_S = 1.0
_WAKE_UP_WATCHED_S = 0.25  # somebody looks on, or waits for a number of operations
_MOST_LATE_S = 60.0  # what still moves then is cut: a balloon may never rest
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_INPUT_BYTES = 4096
_ID_BYTES = 16
_OOM_SCORE_NEVER = -1000

_Counters = TypeVar("_Counters")
Losses = dict[str, dict[str, int | None]]
"""What was missed, by function: of spans, of batches, of calls."""


class Ending(enum.StrEnum):
    """Why a recording ended; the value stands in its end record."""

    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    DURATION = "duration reached"
    OPERATIONS = "operations completed"
    NEXT = "the next recording goes on"
    COMMAND = "command ended"
    INPUT_ENDED = "input ended"
    OUTPUT_CLOSED = "output closed"
    OUTPUT_FAILED = "output failed"
    DRIVER_GONE = "driver unloaded or unbound"
    PROCESS_EXITED = "process exited"

    @property
    def clean(self) -> bool:
        """Whether the recording ended as asked, with nothing cut off."""
        return self not in (Ending.OUTPUT_CLOSED, Ending.OUTPUT_FAILED, Ending.DRIVER_GONE)


@dataclass
class SessionResult:
    """How it went; what `record` tells at the end."""

    ending: Ending
    records: int = 0  # written, of what is named in `what`
    what: tuple[str, str] = ("span", "spans")
    bytes_written: int = 0
    losses: Losses = field(default_factory=dict)
    command_status: int | None = None
    error: OSError | None = None
    unseen: Unseen | None = None
    balloons: tuple[BalloonSize, ...] = ()  # where they stand
    reattached: bool = False  # to a driver that was loaded again, which may have moved pages before


def protect_from_oom_killer() -> None:
    """The balloon squeezes this guest: the one that explains it must not be the first victim."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_NEVER))


class RecordingSession(abc.ABC, Generic[_Counters]):
    """A recording in progress: what is the same whatever is traced.

    A side says what it records, and what ends it beside the user.
    """

    what: tuple[str, str]  # its records, by the name of one and of many
    _parse: Callable[[bytes], _Counters]
    _progress_line_of: Callable[[_Counters, _Counters, int], str]

    def __init__(
        self,
        collector: AttachedPrograms[Any],
        timing: Pace[_Counters],
        output_fd: int,
        options: TraceOptions,
        *,
        say: Callable[[str], None],
    ) -> None:
        """Begin to record what `collector` yields into `output_fd`; `timing` says when programs are timed."""
        self._collector = collector
        self._timing = timing
        self._output_fd = output_fd
        self._options = options
        self._say = say
        self._attached_ns = time.monotonic_ns()
        self._writer = RecordingWriter(output_fd)
        self._counters = self._written_counters = b""
        self._was_moving = False
        self._pace = DrainPace()
        self._readings = Readings(self._writer.write_reading, self._readings_before)
        self._progress: tuple[int, _Counters] | None = None
        self._is_followed = False  # by another recording of the same programs
        self._started = self._ended = clocks()
        self._wakeups = 0
        self._records = 0
        collector.set_timing(timing.at_start)

    @abc.abstractmethod
    def _metadata(self) -> dict[str, object]:
        """What the recording says of itself, beside what `_common_metadata` tells."""

    @abc.abstractmethod
    def _drain_records(self) -> int:
        """Write the finished records; returns their number."""

    @abc.abstractmethod
    def _side_ending(self) -> Ending | None:
        """Whether the side has a reason to end, at its last look."""

    @abc.abstractmethod
    def _last_look(self, result: SessionResult) -> dict[str, object]:
        """Detach, and look at what moved; returns the side's part of the end record."""

    @abc.abstractmethod
    def _losses(self, counters: _Counters) -> Losses:
        """What was missed, by these last counters."""

    @abc.abstractmethod
    def _program_costs(self, counters: _Counters) -> list[dict[str, object]]:
        """What the programs cost, by these last counters."""

    def _read_state(self, *, moving: bool) -> dict[str, object]:  # noqa: ARG002
        """How the machine stands, beside what is traced. Empty: nothing of it is to be kept.

        While something is `moving` each instruction makes that take longer: what is needed then, and no more.
        """
        return {}

    def _activity(self, counters: bytes) -> object:
        """What of these counters differs from before when something has moved."""
        return counters

    def _write_unfinished(self) -> None:
        """Write records that the end has cut short."""

    def _give_up(self, result: SessionResult) -> None:
        """Say in `result` what cannot be written any more."""

    def _final_ending(self, ending: Ending) -> Ending:
        """What a recording that ends for this reason is to be called."""
        return ending

    @property
    def _is_watched(self) -> bool:
        """Whether to wake up often."""
        return False

    @property
    def _readings_before(self) -> int:
        """How many readings from before something moved are kept."""
        return 1

    @property
    def _watched_fd(self) -> int | None:
        """A descriptor that becomes readable when the side has a reason to end."""
        return None

    def follow(self, before: Self) -> None:
        """Begin where another recording of the same programs ended, with what it saw last."""
        self._started = before._ended

    def write_start(self) -> None:
        """Write the metadata: the recording now says what it is. Raises OSError."""
        self._writer.write_metadata({**self._common_metadata(), **self._metadata()})

    def run(
        self, greeting: str = "", *, signals: EndSignals | None = None, next_s: float | None = None
    ) -> SessionResult:
        """Say `greeting`, record until something ends it, then write what is left.

        Whoever waits for the greeting may send a signal at once: from then on one ends the recording in
        order; `signals` are those of the caller, if it has any. From the moment `next_s` (monotonic) on it
        ends as soon as nothing moves, and leaves the programs attached for the next recording. Does not raise
        for output that fails.
        """
        result = SessionResult(Ending.INTERRUPTED)
        try:
            with nullcontext(signals) if signals else EndSignals() as signals:
                self._take_reading(self._collector.read_counters())
                if greeting:
                    self._say(greeting)
                result.ending = self._record_until_end(result, signals, next_s)
            self._is_followed = result.ending is Ending.NEXT
            self._ended = clocks()  # before probes are detached one by one: all was seen until then
            rest = self._finish(result)
            self._writer.write_end({**self._common_end(result), "ended": self._ended, **rest})
        except OSError as error:
            closed = isinstance(error, BrokenPipeError)
            result.ending, result.error = Ending.OUTPUT_CLOSED if closed else Ending.OUTPUT_FAILED, error
            self._give_up(result)
        result.records, result.what = self._records, self.what
        result.bytes_written = self._writer.bytes_written
        return result

    def _look(self) -> None:
        """What every wake-up does: read the shared counters, and drain the ring if it is time to."""
        counters = self._collector.read_counters()
        moving = counters != self._counters
        self._take_reading(counters)
        self._counters = counters
        if moving or self._was_moving:
            self._follow_pace(counters)
        self._was_moving = moving
        if self._pace.is_due(self._collector.waiting, self._collector.filled, time.monotonic()):
            self._drain()

    def _take_reading(self, counters: bytes) -> None:
        """How the machine stands, after a look at the counters: what did not move until then has ended."""
        moving = self._readings.follow(self._activity(counters))
        self._readings.take(self._read_state(moving=moving))

    def _follow_pace(self, counters: bytes) -> None:
        """Have programs timed, or no longer, as these counters want it."""
        follow_pace(self._collector, self._timing, self._parse(counters))

    def _drain(self) -> None:
        """Move what has gathered into the recording; nothing is written when nothing happened."""
        self._records += self._drain_records()
        if self._counters != self._written_counters:
            self._written_counters = self._counters
            self._writer.write_counters(self._counters)

    def _finish(self, result: SessionResult) -> dict[str, object]:
        """Detach, write what is left, fill in the losses; returns the rest of the end record."""
        if self._is_followed:
            self._drain()  # what ends from now on is of the next recording
        last = self._last_look(result)
        self._counters = self._collector.read_counters()
        if self._is_followed:
            self._collector.end_counts()
            self._writer.write_counters(self._counters)
        else:
            self._drain()
            self._write_unfinished()
        activity = self._activity(self._counters)
        self._readings.finish(self._read_state(moving=False), activity)
        counters = self._parse(self._counters)
        result.losses = self._losses(counters)
        return {**last, "own_cost": self._own_cost(self._program_costs(counters))}

    def _progress_line(self) -> str:
        """The line a terminal shows."""
        now_ns, now = time.monotonic_ns(), self._parse(self._counters)
        before_ns, before = self._progress or (now_ns, now)
        self._progress = now_ns, now
        return self._progress_line_of(before, now, now_ns - before_ns)

    def _detach(self) -> None:
        """Take the probes off, unless another recording follows."""
        if not self._is_followed:
            self._collector.detach()

    def _record_until_end(self, result: SessionResult, signals: EndSignals, next_s: float | None) -> Ending:
        options = self._options
        deadline = None if options.duration_s is None else time.monotonic() + options.duration_s
        # What the command writes to standard output is no part of a recording that goes there.
        stdout_fd = _STDERR if self._output_fd == _STDOUT else None
        with Workload(options.command, stdout_fd=stdout_fd) as workload:
            poll = select.poll()
            for fd in (signals.fd, workload.fd, self._watched_fd):
                if fd is not None:
                    poll.register(fd, select.POLLIN)
            if options.until_eof:
                poll.register(_STDIN, select.POLLIN)
            poll.register(self._output_fd, 0)  # what nobody reads any more reports an error or a hang-up
            while True:
                wait_s = _WAKE_UP_WATCHED_S if options.show_progress or self._is_watched else _WAKE_UP_S
                if deadline is not None:
                    wait_s = max(0.0, min(wait_s, deadline - time.monotonic()))
                ready = dict(poll.poll(wait_s * 1000))
                self._wakeups += 1
                self._look()
                if options.show_progress:
                    self._say(f"\r\033[K{self._progress_line()}")
                if workload.ended:
                    result.command_status = workload.status
                ending = self._ending(signals, workload, deadline, ready)
                if ending is not None:
                    return self._final_ending(ending)
                if next_s is not None and self._may_be_followed(time.monotonic() - next_s):
                    return Ending.NEXT

    def _may_be_followed(self, late_s: float) -> bool:
        """Whether to end for the next recording, so long after it was due: an operation is not cut gladly."""
        return late_s >= 0 and (not self._readings.moving or late_s >= _MOST_LATE_S)

    def _ending(
        self, signals: EndSignals, workload: Workload, deadline: float | None, ready: dict[int, int]
    ) -> Ending | None:
        if signals.received is not None:
            return Ending.INTERRUPTED if signals.received == signal.SIGINT else Ending.TERMINATED
        if ready.get(self._output_fd, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        ending = self._side_ending()
        if ending is not None:
            return ending
        if workload.ended:
            return Ending.COMMAND
        if self._options.until_eof and ready.get(_STDIN) and not os.read(_STDIN, _INPUT_BYTES):
            return Ending.INPUT_ENDED
        if deadline is not None and time.monotonic() >= deadline:
            return Ending.DURATION
        return None

    def _common_metadata(self) -> dict[str, object]:
        plan, loaded = self._collector.plan, self._collector.loaded
        return {
            "recording_id": os.urandom(_ID_BYTES).hex(),
            "tool_version": balloontrace.__version__,
            "format": list(FORMAT_VERSION),
            "label": self._options.label,
            "pair": self._options.pair,
            "command_line": sys.argv,
            "clock": "CLOCK_MONOTONIC",
            "started": self._started,
            "machine": read_machine(),
            "probes": plan.describe(loaded.failures),
            "bcc_version": loaded.bcc_version,
            "engine": loaded.engine,
            "engine_version": loaded.engine_version,
        }

    def _common_end(self, result: SessionResult) -> dict[str, object]:
        return {
            "clean": result.ending.clean,
            "reason": str(result.ending),
            "command_status": result.command_status,
            "losses": result.losses,
        }

    def _own_cost(self, programs: list[dict[str, object]]) -> dict[str, object]:
        loaded = self._collector.loaded
        is_first = not self._collector.cpu_ns_before  # which alone had to attach
        return {
            "bpf": programs,
            "cpu_ns": time.process_time_ns() - self._collector.cpu_ns_before,
            "peak_memory_bytes": read_peak_memory_bytes(),
            "setup_cpu_ns": loaded.setup_cpu_ns if is_first else None,
            "setup_peak_memory_bytes": loaded.setup_peak_memory_bytes,
            "wakeups": self._wakeups,
            "bytes_written": self._writer.bytes_written,
            "attach_s": (self._attached_ns - self._options.started_ns) / 1e9 if is_first else None,
        }


def clocks() -> dict[str, int]:
    """Now, by the clock of the spans and by that of the wall."""
    return {"monotonic_ns": time.monotonic_ns(), "realtime_ns": time.time_ns()}

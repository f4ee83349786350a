# SPDX-License-Identifier: GPL-2.0-or-later
"""One recording from attach to end: joins a collector with a recording file.

Wakes up seldom, decodes nothing, and ends in order whatever ends it: a signal, a duration, a number of
operations, a command, a closed pipe, a full disk. A driver that goes away is waited for.
"""

from __future__ import annotations

import abc
import enum
import errno
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import balloontrace
from balloontrace import kernel
from balloontrace.balloonsize import BalloonSize, read_balloon_sizes
from balloontrace.collector import Collector, Counters, parse_counters, summarise_losses
from balloontrace.command import Workload
from balloontrace.diagnosis import Diagnosis
from balloontrace.driverwatch import DriverWatch
from balloontrace.errors import MissingProbeError
from balloontrace.events import Function
from balloontrace.layout import COUNTERS_LAYOUT, PAYLOAD_LAYOUT, SPAN_LAYOUT
from balloontrace.loader import Loaded
from balloontrace.machine import read_machine
from balloontrace.moved import Moved, Unseen, find_unseen, moved_between
from balloontrace.pace import DrainPace, TimingPace
from balloontrace.probes import describe
from balloontrace.progress import progress_line
from balloontrace.recording import FORMAT_VERSION, RecordingWriter
from balloontrace.unseen import UNIT_PAGES, migrations_given_up, pages_of_spans, seen_by_probes, under_way

_WAKE_UP_S = 1.0
_WAKE_UP_WATCHED_S = 0.25  # somebody looks on, or waits for a number of operations
_STDOUT, _STDERR = 1, 2
_ID_BYTES = 16
_OOM_SCORE_NEVER = -1000


class Ending(enum.StrEnum):
    """Why a recording ended; the value stands in its end record."""

    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    DURATION = "duration reached"
    OPERATIONS = "operations completed"
    COMMAND = "command ended"
    OUTPUT_CLOSED = "output closed"
    OUTPUT_FAILED = "output failed"
    DRIVER_GONE = "driver unloaded or unbound"
    PROCESS_EXITED = "process exited"

    @property
    def clean(self) -> bool:
        """Whether the recording ended as asked, with nothing cut off."""
        return self not in (Ending.OUTPUT_CLOSED, Ending.OUTPUT_FAILED, Ending.DRIVER_GONE)


@dataclass(frozen=True)
class SessionOptions:
    """When to stop, and what the user called it."""

    duration_s: float | None = None
    operations: int | None = None
    command: Sequence[str] = ()
    label: str | None = None
    show_progress: bool = False


@dataclass
class SessionResult:
    """How it went; what `record` tells at the end."""

    ending: Ending
    records: int = 0  # written, of what is named in `what`
    what: tuple[str, str] = ("span", "spans")
    bytes_written: int = 0
    losses: dict[str, dict[str, int | None]] = field(default_factory=dict)
    command_status: int | None = None
    error: OSError | None = None
    unseen: Unseen | None = None
    balloons: tuple[BalloonSize, ...] = ()  # where they stand
    reattached: bool = False  # to a driver that was loaded again, which may have moved pages before


def protect_from_oom_killer() -> None:
    """The balloon squeezes this guest: the one that explains it must not be the first victim."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_NEVER))


class RecordingSession(abc.ABC):
    """A recording in progress: what is the same whatever is traced.

    A side says what it records, and what ends it beside the user.
    """

    def __init__(
        self, output_fd: int, options: SessionOptions, *, started_ns: int, say: Callable[[str], None]
    ) -> None:
        """`started_ns` is when the program was started (CLOCK_MONOTONIC), for the cost of attaching."""
        self._output_fd = output_fd
        self._options = options
        self._say = say
        self._started_ns = started_ns
        self._attached_ns = time.monotonic_ns()
        self._writer = RecordingWriter(output_fd)
        self._wakeups = 0
        self._records = 0

    @abc.abstractmethod
    def _metadata(self) -> dict[str, object]:
        """What the recording says of itself, beside what `_common_metadata` tells."""

    @abc.abstractmethod
    def _look(self) -> None:
        """What every wake-up does: read the shared counters, and drain the ring if it is time to."""

    @abc.abstractmethod
    def _side_ending(self) -> Ending | None:
        """Whether the side has a reason to end, at its last look."""

    @abc.abstractmethod
    def _finish(self, result: SessionResult) -> dict[str, object]:
        """Detach, drain what is left, fill in the losses; returns the side's part of the end record."""

    def _give_up(self, result: SessionResult) -> None:  # noqa: B027  (only the guest's side can tell)
        """Say in `result` what cannot be written any more."""

    @abc.abstractmethod
    def _progress_line(self) -> str:
        """The line a terminal shows."""

    def _final_ending(self, ending: Ending) -> Ending:
        """What a recording that ends for this reason is to be called."""
        return ending

    @property
    @abc.abstractmethod
    def _is_watched(self) -> bool:
        """Whether to wake up often."""

    @property
    def _watched_fd(self) -> int | None:
        """A descriptor that becomes readable when the side has a reason to end."""
        return None

    def write_start(self) -> None:
        """Write the metadata: the recording now says what it is. Raises OSError."""
        self._writer.write_metadata({**self._common_metadata(), **self._metadata()})

    def run(self, greeting: str = "") -> SessionResult:
        """Say `greeting`, record until something ends it, then write what is left.

        Whoever waits for the greeting may send a signal at once: from then on one ends the recording in
        order. Does not raise for output that fails.
        """
        result = SessionResult(Ending.INTERRUPTED)
        try:
            with _Signals() as signals:
                if greeting:
                    self._say(greeting)
                result.ending = self._record_until_end(result, signals)
            ended = _clocks()  # before probes are detached one by one: all was seen until then
            side = self._finish(result)
            self._writer.write_end({**self._common_end(result), "ended": ended, **side})
        except OSError as error:
            closed = isinstance(error, BrokenPipeError)
            result.ending, result.error = Ending.OUTPUT_CLOSED if closed else Ending.OUTPUT_FAILED, error
            self._give_up(result)
        result.records, result.bytes_written = self._records, self._writer.bytes_written
        return result

    def _record_until_end(self, result: SessionResult, signals: _Signals) -> Ending:
        options = self._options
        deadline = None if options.duration_s is None else time.monotonic() + options.duration_s
        # What the command writes to standard output is no part of a recording that goes there.
        stdout_fd = _STDERR if self._output_fd == _STDOUT else None
        with Workload(options.command, stdout_fd=stdout_fd) as workload:
            poll = select.poll()
            for fd in (signals.fd, workload.fd, self._watched_fd):
                if fd is not None:
                    poll.register(fd, select.POLLIN)
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

    def _ending(
        self, signals: _Signals, workload: Workload, deadline: float | None, ready: dict[int, int]
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
        if deadline is not None and time.monotonic() >= deadline:
            return Ending.DURATION
        return None

    def _common_metadata(self) -> dict[str, object]:
        return {
            "recording_id": os.urandom(_ID_BYTES).hex(),
            "tool_version": balloontrace.__version__,
            "format": list(FORMAT_VERSION),
            "label": self._options.label,
            "command_line": sys.argv,
            "clock": "CLOCK_MONOTONIC",
            "started": _clocks(),
            "machine": read_machine(),
        }

    def _common_end(self, result: SessionResult) -> dict[str, object]:
        return {
            "clean": result.ending.clean,
            "reason": str(result.ending),
            "command_status": result.command_status,
            "losses": result.losses,
        }

    def _own_cost(self, loaded: Loaded, programs: list[dict[str, object]]) -> dict[str, object]:
        return {
            "bpf": programs,
            "cpu_ns": time.process_time_ns(),
            "peak_memory_bytes": _peak_memory_bytes(),
            "setup_cpu_ns": loaded.setup_cpu_ns,
            "setup_peak_memory_bytes": loaded.setup_peak_memory_bytes,
            "wakeups": self._wakeups,
            "bytes_written": self._writer.bytes_written,
            "attach_s": (self._attached_ns - self._started_ns) / 1e9,
        }


@dataclass(frozen=True)
class _LastLook:
    """What was counted right before probes were detached; `moving`: pages moved meanwhile."""

    vmstat: Mapping[str, int]
    counters: Counters
    moved: Moved | None
    moving: bool


class Session(RecordingSession):
    """A recording of the guest's side, on an attached collector."""

    def __init__(
        self,
        collector: Collector,
        diagnosis: Diagnosis,
        output_fd: int,
        options: SessionOptions,
        *,
        started_ns: int,
        say: Callable[[str], None],
    ) -> None:
        """Times and words as for every `RecordingSession`."""
        super().__init__(output_fd, options, started_ns=started_ns, say=say)
        self._collector = collector
        self._diagnosis = diagnosis
        self._driver = DriverWatch(diagnosis)
        self._driver_state = self._driver.state
        self._driver_seen_ns = time.monotonic_ns()
        self._driver_away = self._driver_lost = self._reattached = False
        self._srcversion = kernel.read_module_srcversion(collector.plan.driver_module)
        self._counters = self._written_counters = b""
        self._seen_counters = b""
        self._was_moving = False
        self._pace = DrainPace()
        self._timing = TimingPace(frozenset(probe.function for probe in collector.plan.attachable))
        self._progress: tuple[int, Counters] | None = None
        self._last_look: _LastLook | None = None
        self._started_vmstat = kernel.read_vmstat()  # with probes attached: what moves from now on is seen
        self._started_balloons = _read_balloons()

    @property
    def _is_watched(self) -> bool:
        # Payloads fill their ring faster than spans do theirs.
        # The sooner a driver's return is noticed, the less it has moved unseen.
        return self._options.operations is not None or self._collector.captures or self._driver_away

    def _finish(self, result: SessionResult) -> dict[str, object]:
        vmstat = self._detach()
        result.unseen, result.reattached = self._find_unseen(), self._reattached
        result.balloons = _read_balloons(device.name for device in self._diagnosis.devices)
        self._counters = self._collector.read_counters()
        self._drain()
        counters = parse_counters(self._counters)
        result.losses = summarise_losses(
            counters,
            self._collector.plan,
            self._collector.read_missed(),
            captures=self._collector.captures,
        )
        programs = self._collector.read_program_costs(counters)
        return {
            "vmstat": vmstat,
            "balloons": [asdict(each) for each in result.balloons],
            "vmstat_traced": dict(self._last_look.vmstat) if self._last_look else {},
            "under_way_pages": result.unseen.under_way_pages if result.unseen else None,
            "own_cost": self._own_cost(self._collector.loaded, programs),
        }

    def _detach(self) -> Mapping[str, int]:
        """Take the probes off, with a last look before; returns /proc/vmstat right after."""
        traced, counters = kernel.read_vmstat(), parse_counters(self._collector.read_counters())
        self._collector.detach()
        vmstat = kernel.read_vmstat()  # at once: a balloon that still moves is no longer traced
        moved = moved_between(self._started_vmstat, traced, UNIT_PAGES)
        self._last_look = _LastLook(traced, counters, moved, moving=vmstat != traced)
        return vmstat

    def _find_unseen(self, *, unwritten_pages: int = 0) -> Unseen | None:
        """Pages that moved up to the last look before detaching, and are not in the recording."""
        look = self._last_look
        if look is None or look.moved is None:
            return None
        plan, layout = self._collector.plan, self._diagnosis.layout
        missed = self._collector.read_missed()
        seen_pages = seen_by_probes(look.counters, plan, layout, look.moved, missed)
        return find_unseen(
            look.moved,
            None if seen_pages is None else max(0, seen_pages - unwritten_pages),
            under_way(look.counters, plan, len(self._diagnosis.devices), moving=look.moving),
            migrations_failed=migrations_given_up(look.counters, look.moved),
        )

    def _give_up(self, result: SessionResult) -> None:
        if self._last_look is None:
            self._detach()
        unwritten_pages: list[int] = []
        first = self._writer.refused_spans_from_byte
        self._collector.drain(lambda raw: unwritten_pages.append(pages_of_spans(raw[first:])))
        result.unseen = self._find_unseen(unwritten_pages=sum(unwritten_pages))

    def _side_ending(self) -> Ending | None:
        if self._driver_lost:
            return Ending.DRIVER_GONE
        wanted = self._options.operations
        if wanted is not None and parse_counters(self._counters).operations >= wanted:
            return Ending.OPERATIONS
        return None

    def _final_ending(self, ending: Ending) -> Ending:
        """A driver that never came back is the end, whatever ended the waiting for it."""
        return Ending.DRIVER_GONE if self._driver_away else ending

    def _follow_driver(self) -> None:
        """Keep what happens to the driver: when it left, and since when its return is traced."""
        before, now_ns = self._driver_state, time.monotonic_ns()
        state = self._driver.look()
        if state is before:
            self._driver_seen_ns = now_ns
            return
        lacking = state.lacks(before)
        if not lacking and state.module == before.module:
            self._driver_state = state  # one more was plugged
            return
        if not state.replaces(before):
            if not self._driver_away:
                self._driver_away = True
                self._tell_driver("gone", lacking)
            return
        reattached = state.module != before.module
        self._reattached |= reattached
        if reattached and not self._reattach():
            self._driver_lost = True
            return
        self._tell_driver("back", lacking, devices_now=sorted(state.bound), reattached=reattached)
        self._driver_away, self._driver_state, self._driver_seen_ns = False, state, time.monotonic_ns()

    def _reattach(self) -> bool:
        """Attach to a module that was loaded again. False where that cannot be done as it was before."""
        module = self._collector.plan.driver_module
        if kernel.read_module_srcversion(module) != self._srcversion:
            self._say("balloontrace: another build of the driver was loaded\n")
            return False
        try:
            self._collector.reattach()
        except (OSError, MissingProbeError) as error:
            self._say(f"balloontrace: probes cannot be attached to the driver loaded again: {error}\n")
            return False
        return True

    def _tell_driver(self, what: str, devices: Sequence[str], **more: object) -> None:
        """Write it down, behind all that was traced before."""
        self._drain()
        event = {"what": what, "at": _clocks(), "seen_ns": self._driver_seen_ns, "devices": list(devices)}
        self._writer.write_driver({**event, "vmstat": kernel.read_vmstat(), **more})
        told = "gone: waiting for it to come back" if what == "gone" else "back, and traced again"
        line = "\r\033[K" if self._options.show_progress else ""
        self._say(f"{line}balloontrace: the driver of {', '.join(devices) or 'the balloon'} is {told}\n")

    def _look(self) -> None:
        self._follow_driver()
        self._counters = self._collector.read_counters()
        moving = self._counters != self._seen_counters
        if moving or self._was_moving:
            timing = self._collector.timing
            if self._timing.is_wanted(parse_counters(self._counters), timing=timing) != timing:
                self._collector.set_timing(not timing)
        self._seen_counters, self._was_moving = self._counters, moving
        if self._pace.is_due(self._collector.waiting, self._collector.filled, time.monotonic()):
            self._drain()

    def _drain(self) -> None:
        """Move what has gathered into the recording; nothing is written when nothing happened."""
        self._records += self._collector.drain(self._writer.write_spans)
        self._collector.drain_payloads(self._writer.write_payloads)
        if self._counters != self._written_counters:
            self._written_counters = self._counters
            self._writer.write_counters(self._counters)

    def _progress_line(self) -> str:
        now_ns, now = time.monotonic_ns(), parse_counters(self._counters)
        before_ns, before = self._progress or (now_ns, now)
        self._progress = now_ns, now
        return progress_line(before, now, now_ns - before_ns)

    def _metadata(self) -> dict[str, object]:
        diagnosis, plan, loaded = self._diagnosis, self._collector.plan, self._collector.loaded
        return {
            "side": "guest",
            "driver": {
                "kind": str(diagnosis.driver_kind),
                "module": plan.driver_module or None,
                "module_srcversion": self._srcversion,
            },
            "devices": [
                {
                    "name": device.name,
                    "index": device.index,
                    "features": list(device.feature_names),
                    "feature_bits": list(device.feature_bits),
                }
                for device in diagnosis.devices
            ],
            "functions": {str(int(function)): function.symbol for function in Function},
            "span_layout": dict(SPAN_LAYOUT),
            "counters_layout": dict(COUNTERS_LAYOUT),
            "capture": "payload" if self._collector.captures else "none",
            "payload_layout": dict(PAYLOAD_LAYOUT),
            "probes": describe(plan, loaded.failures),
            "boundaries": plan.boundaries,
            "layout": {"source": diagnosis.layout.source, "offsets_bytes": diagnosis.layout.offsets},
            "vmstat": self._started_vmstat,
            "balloons": [asdict(each) for each in self._started_balloons],
            "bcc_version": loaded.bcc_version,
        }


class _Signals:
    """SIGINT, SIGTERM and SIGHUP end a recording; a second SIGINT raises KeyboardInterrupt and drops it."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> _Signals:
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
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # dropping it must not be torn by a third
            raise KeyboardInterrupt
        self.received = number


def _read_balloons(known: Iterable[str] = ()) -> tuple[BalloonSize, ...]:
    """Size and target of the balloons there are, and of those `known` whether they are still there."""
    names = [*known, *(device.name for device in kernel.read_balloon_devices())]
    return read_balloon_sizes(dict.fromkeys(names))


def _clocks() -> dict[str, int]:
    return {"monotonic_ns": time.monotonic_ns(), "realtime_ns": time.time_ns()}


def _peak_memory_bytes() -> int | None:
    """VmHWM; ru_maxrss would count the process that started this one, before it became ours."""
    match = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else None

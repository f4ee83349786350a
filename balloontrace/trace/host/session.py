# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording of the host's side: batches of one process, until the user or the process ends it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

from balloontrace.console.progress import host_progress_line
from balloontrace.errors import UsageError
from balloontrace.format.host_counters import HostCounters, parse_host_counters, unfinished_batches
from balloontrace.format.host_layout import BATCH_LAYOUT, COUNTERS_LAYOUT, FREED_COUNTS
from balloontrace.format.vocabulary import Call, Side
from balloontrace.system import kernel
from balloontrace.system.vmm import Memory, Process, has_hugetlb_pages, read_memory
from balloontrace.trace.host.collector import HostCollector, summarise_host_losses
from balloontrace.trace.host.probes import describe_host
from balloontrace.trace.pace import DrainPace, HostTimingPace
from balloontrace.trace.session import Ending, RecordingSession, SessionOptions, SessionResult


class ProcessWatch:
    """Tells when one process, and no later one of its number, has ended."""

    def __init__(self, process: Process) -> None:
        """UsageError when it has ended already."""
        try:
            self.fd = os.pidfd_open(process.pid)
        except OSError as error:
            raise UsageError(f"process {process.pid} cannot be watched: {error.strerror}") from error

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Give the descriptor back."""
        with suppress(OSError):
            os.close(self.fd)


class HostSession(RecordingSession):
    """A recording of the host's side, on an attached collector."""

    def __init__(
        self,
        collector: HostCollector,
        process: Process,
        watch: ProcessWatch,
        output_fd: int,
        options: SessionOptions,
        *,
        started_ns: int,
        say: Callable[[str], None],
    ) -> None:
        """`watch` was begun before probes were attached. The rest as for every `RecordingSession`."""
        super().__init__(output_fd, options, started_ns=started_ns, say=say)
        self._collector = collector
        self._process = process
        self._watch = watch
        self._counters = self._written_counters = b""
        self._pace = DrainPace()
        self._was_moving = False
        self._memory: Memory | None = None
        self._progress: tuple[int, HostCounters] | None = None
        self._timing = HostTimingPace()
        collector.set_timing(True)

    @property
    def _is_watched(self) -> bool:
        return False

    @property
    def _watched_fd(self) -> int:
        return self._watch.fd

    def _side_ending(self) -> Ending | None:
        return Ending.PROCESS_EXITED if self._watch.ended else None

    def _look(self) -> None:
        counters = self._collector.read_counters()
        if counters != self._counters or self._was_moving:
            self._was_moving = counters != self._counters
            self._counters = counters
            set_host_timing(self._collector, self._timing, parse_host_counters(counters))
        if self._pace.is_due(self._collector.waiting, self._collector.filled, time.monotonic()):
            self._drain()

    def _drain(self) -> None:
        """Move what has gathered into the recording; nothing is written when nothing happened."""
        self._records += self._collector.drain(self._writer.write_batches)
        if self._counters != self._written_counters:
            self._written_counters = self._counters
            self._writer.write_counters(self._counters)

    def _finish(self, result: SessionResult) -> dict[str, object]:
        result.what = ("batch", "batches")
        self._collector.detach()
        vmstat, memory = kernel.read_vmstat(prefix="thp_split"), read_memory(self._process.pid)
        self._counters = self._collector.read_counters()
        self._drain()
        self._writer.write_batches(unfinished_batches(self._counters))
        counters = parse_host_counters(self._counters)
        result.losses = summarise_host_losses(counters, self._collector.read_missed())
        programs = self._collector.read_program_costs(counters)
        return {
            "vmstat": vmstat,
            "memory": _as_json(memory),
            "has_hugetlb": self._collector.plan.asks_freed and has_hugetlb_pages(self._process.pid),
            "own_cost": self._own_cost(self._collector.loaded, programs),
        }

    def _progress_line(self) -> str:
        now_ns, now = time.monotonic_ns(), parse_host_counters(self._counters)
        before_ns, before = self._progress or (now_ns, now)
        self._progress = now_ns, now
        return host_progress_line(before, now, now_ns - before_ns)

    def _metadata(self) -> dict[str, object]:
        plan, loaded = self._collector.plan, self._collector.loaded
        return {
            "side": Side.HOST,
            "process": asdict(self._process),
            "calls": {str(int(call)): call.name.lower() for call in Call},
            "batch_layout": dict(BATCH_LAYOUT),
            "counters_layout": dict(COUNTERS_LAYOUT),
            "probes": describe_host(plan, loaded.failures),
            "boundaries": plan.boundaries(loaded.failures),
            "freed_by": plan.freed_by(loaded.failures),
            "freed_counts": FREED_COUNTS if plan.asks_freed else None,
            "vmstat": kernel.read_vmstat(prefix="thp_split"),
            "memory": _as_json(read_memory(self._process.pid)),
            "bcc_version": loaded.bcc_version,
        }


def set_host_timing(collector: HostCollector, pace: HostTimingPace, counters: HostCounters) -> None:
    """Have the programs timed, or no longer, as `pace` wants it after this look at the counters."""
    timing = collector.timing
    if pace.is_wanted(counters, timing=timing) != timing:
        collector.set_timing(not timing)


def _as_json(memory: Memory | None) -> dict[str, object] | None:
    return None if memory is None else asdict(memory)

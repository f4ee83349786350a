# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording of the host's side: batches of one process, until the user or the process ends it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict

from balloontrace.console.progress import host_progress_line
from balloontrace.format.host_counters import (
    HostCounters,
    parse_host_counters,
    unfinished_batches,
)
from balloontrace.format.host_layout import (
    BATCH_LAYOUT,
    COUNTERS_LAYOUT,
    FREED_COUNTS,
    SAMPLED_LAYOUT,
    TAKING_BACK_S,
)
from balloontrace.format.vocabulary import Call, Side
from balloontrace.system import kernel
from balloontrace.system.process_memory import has_hugetlb_pages, read_memory, read_regions
from balloontrace.system.process_state import ProcessState
from balloontrace.system.vmm import Process, read_open_files
from balloontrace.trace.engines.constants import SAMPLE_PERIOD_NS
from balloontrace.trace.host.collector import HostCollector, summarise_host_losses
from balloontrace.trace.host.process_watch import ProcessWatch
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.pace import HostTimingPace
from balloontrace.trace.session import Ending, Losses, RecordingSession, SessionResult


class HostSession(RecordingSession[HostCounters]):
    """A recording of the host's side, on an attached collector."""

    what = ("batch", "batches")
    _collector: HostCollector
    _parse = staticmethod(parse_host_counters)
    _progress_line_of = staticmethod(host_progress_line)

    def __init__(
        self,
        collector: HostCollector,
        process: Process,
        watch: ProcessWatch,
        output_fd: int,
        options: TraceOptions,
        *,
        say: Callable[[str], None],
    ) -> None:
        """`watch` was begun before probes were attached. The rest as for every `RecordingSession`."""
        super().__init__(collector, HostTimingPace(collector.timed), output_fd, options, say=say)
        self._process = process
        self._state = ProcessState(process.pid)
        self._watch = watch
        self._moved: bytes | None = None
        self._moved_s = -math.inf
        self._is_serving = False
        self._last_state: dict[str, object] = {}

    @property
    def _readings_before(self) -> int:
        # The first buffers may come before a sample tells whose they are: the last reading may be among them.
        return 2 if self._collector.plan.sampled_by else 1

    @property
    def _watched_fd(self) -> int:
        return self._watch.fd

    def _side_ending(self) -> Ending | None:
        return Ending.PROCESS_EXITED if self._watch.ended else None

    def _progress_line(self) -> str:
        vm = f"{self._process.vm}: " if self._process.vm else ""
        return f"{vm}{super()._progress_line()}"

    def _follow_pace(self, counters: bytes) -> None:
        # To read counters takes a million instructions, and those of samples say nothing of calls.
        if not self._collector.plan.sampled_by:
            super()._follow_pace(counters)

    def _drain_records(self) -> int:
        return self._collector.drain(self._write_records)

    def _write_records(self, raw: bytes | memoryview) -> None:
        """Batches as what they are: a reader that knows of no samples must not take them for calls."""
        if self._collector.plan.sampled_by:
            self._writer.write_sampled(raw)
        else:
            self._writer.write_batches(raw)

    def _last_look(self, result: SessionResult) -> dict[str, object]:  # noqa: ARG002
        slots = self._read_slots()
        self._detach()
        return {
            "vmstat": kernel.read_vmstat(prefix="thp_split"),
            **slots,
            **self._read_process(),
            "eventfds": self._collector.read_eventfds(),
            "has_hugetlb": self._collector.plan.asks_freed and has_hugetlb_pages(self._process.pid),
        }

    def _losses(self, counters: HostCounters) -> Losses:
        return summarise_host_losses(counters, self._collector.read_missed())

    def _program_costs(self, counters: HostCounters) -> list[dict[str, object]]:
        return self._collector.read_program_costs(counters.calls_by_system_call)

    def _write_unfinished(self) -> None:
        self._write_records(unfinished_batches(self._counters))

    def _metadata(self) -> dict[str, object]:
        plan, loaded = self._collector.plan, self._collector.loaded
        return {
            "side": Side.HOST,
            "process": asdict(self._process),
            "calls": {str(int(call)): call.name.lower() for call in Call},
            "batch_layout": dict(BATCH_LAYOUT),
            "sampled_layout": dict(SAMPLED_LAYOUT) if plan.sampled_by else None,
            "sampling": self._sampling() if plan.sampled_by else None,
            "counters_layout": dict(COUNTERS_LAYOUT),
            "boundaries": plan.boundaries(loaded.failures),
            "call_cost": self._collector.call_cost and asdict(self._collector.call_cost),
            "freed_by": plan.freed_by(loaded.failures),
            "freed_counts": FREED_COUNTS if plan.asks_freed else None,
            "vmstat": kernel.read_vmstat(prefix="thp_split"),
            **self._read_slots(),
            **self._read_process(),
        }

    def _sampling(self) -> dict[str, object]:
        plan, loaded = self._collector.plan, self._collector.loaded
        return {"period_ns": SAMPLE_PERIOD_NS, "discards_by": plan.discards_by(loaded.failures)}

    def _read_slots(self) -> dict[str, object]:
        """Which memory is the guest's: only programs that are attached can tell."""
        slots = self._collector.read_memory_slots()
        return {"memory_slots": None if slots is None else [asdict(slot) for slot in slots]}

    def _read_process(self) -> dict[str, object]:
        """What the process holds and has open, at an end of the recording."""
        memory = read_memory(self._process.pid)
        return {
            "memory": memory and asdict(memory),
            "regions": [asdict(region) for region in read_regions(self._process.pid)],
            "files": read_open_files(self._process.pid),
        }

    def _read_state(self, *, moving: bool) -> dict[str, object]:
        if moving and self._is_serving and self._collector.plan.sampled_by:
            return {}
        state = self._state.read()
        if not state:
            return {}
        if not moving and self._collector.read_moved() != self._moved:
            # It shows what nobody knows of yet: that needs the one before it.
            return self._last_state
        self._last_state = {**state, "traced_faults": self._collector.read_faults()}
        return self._last_state

    def _activity(self, counters: bytes) -> object:
        """Calls, and for a while after them the time: what was given back may be taken again then."""
        before, self._moved = self._moved, self._collector.read_moved(counters)
        self._is_serving = before is not None and before != self._moved
        if self._is_serving:
            self._moved_s = time.monotonic()
        return time.monotonic() if time.monotonic() - self._moved_s < TAKING_BACK_S else self._moved

# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording of the host's side: every VMM there, those too that start later, until the user ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from balloontrace.console.progress import all_progress_line
from balloontrace.console.stderr import note
from balloontrace.format.host_counters import HostCounters, describe_eventfds, parse_host_counters
from balloontrace.format.host_layout import COUNTERS_LAYOUT, FREED_COUNTS
from balloontrace.format.process_layout import (
    NO_COUNTERS,
    PROCESS_BATCH_LAYOUT,
    PROCESS_EVENTFDS,
    added,
    counting_slots,
    unfinished_of_process,
)
from balloontrace.format.vocabulary import Call, Side
from balloontrace.system import kernel
from balloontrace.system.process_memory import read_memory, read_regions
from balloontrace.system.vmm import read_open_files
from balloontrace.trace.host.all_collector import AllCollector
from balloontrace.trace.host.collector import summarise_host_losses
from balloontrace.trace.host.followed_processes import Followed, FollowedProcesses
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.pace import HostTimingPace
from balloontrace.trace.session import Ending, Losses, RecordingSession, SessionResult, clocks


class AllSession(RecordingSession[HostCounters]):
    """A recording of many processes, on an attached collector."""

    what = ("batch", "batches")
    _collector: AllCollector
    _parse = staticmethod(parse_host_counters)

    def __init__(
        self,
        collector: AllCollector,
        processes: FollowedProcesses,
        output_fd: int,
        options: TraceOptions,
        *,
        say: Callable[[str], None],
    ) -> None:
        """As for every `RecordingSession`. Programs are not timed but while attaching."""
        super().__init__(collector, HostTimingPace(collector.timed), output_fd, options, say=say)
        self._processes = processes
        self._of_ended = NO_COUNTERS
        self._written_calls: dict[int, int] = {}  # by number of a process
        self._calls_before = 0

    def write_start(self) -> None:
        """Write the metadata, and what is known of the processes that are there."""
        super().write_start()
        for each in self._processes:
            self._write_came(each)

    def _look(self) -> None:
        for each in self._processes.come():
            self._write_came(each)
        super()._look()
        ended = self._processes.ended()
        if ended:
            self._drain()
        for each in ended:
            self._of_ended = added(self._of_ended, self._write_ended(each, str(Ending.PROCESS_EXITED)))
            self._written_calls.pop(each.number, None)
            self._processes.forget(each)

    def _side_ending(self) -> Ending | None:
        return None

    def _follow_pace(self, counters: bytes) -> None:
        """What was timed while attaching has to do: to parse all counters takes long."""

    def _drain_records(self) -> int:
        return self._collector.drain(self._writer.write_batches)

    def _drain(self) -> None:
        """The sums of those alone that made calls: others' are in the recording already."""
        self._records += self._drain_records()
        if self._counters == self._written_counters:
            return
        self._written_counters = self._counters
        for each in self._processes:
            calls = self._collector.read_calls(each.number)
            if calls != self._written_calls.get(each.number, 0):
                self._written_calls[each.number] = calls
                self._has_hugetlb(each)
                slots = counting_slots(self._collector.read_slots(each.number))
                self._writer.write_process_counters(each.number, slots)

    def _finish(self, result: SessionResult) -> dict[str, object]:
        last = self._last_look(result)
        self._counters = self._collector.read_counters()
        self._drain()
        counters = self._of_ended
        for each in self._processes:
            counters = added(counters, self._write_ended(each, str(result.ending)))
        result.losses = self._losses(counters)
        return {**last, "own_cost": self._own_cost(self._program_costs(counters))}

    def _last_look(self, result: SessionResult) -> dict[str, object]:  # noqa: ARG002
        self._detach()
        return {
            "vmstat": kernel.read_vmstat(prefix="thp_split"),
            "without_room": self._processes.without_room,
        }

    def _losses(self, counters: HostCounters) -> Losses:
        return summarise_host_losses(counters, self._collector.read_missed())

    def _program_costs(self, counters: HostCounters) -> list[dict[str, object]]:
        return self._collector.read_program_costs(counters.calls_by_system_call)

    def _progress_line(self) -> str:
        calls = sum(self._collector.read_calls(each.number) for each in self._processes)
        calls += self._of_ended.all_calls
        before, self._calls_before = self._calls_before, calls
        return all_progress_line(len(self._processes), self._records, calls, calls - before)

    def _metadata(self) -> dict[str, object]:
        plan, loaded = self._collector.plan, self._collector.loaded
        return {
            "side": Side.HOST,
            "is_of_many": True,
            "calls": {str(int(call)): call.name.lower() for call in Call},
            "batch_layout": dict(PROCESS_BATCH_LAYOUT),
            "sampled_layout": None,
            "sampling": None,
            "counters_layout": dict(COUNTERS_LAYOUT),
            "boundaries": plan.boundaries(loaded.failures),
            "call_cost": self._collector.call_cost and asdict(self._collector.call_cost),
            "freed_by": plan.freed_by(loaded.failures),
            "freed_counts": FREED_COUNTS if plan.asks_freed else None,
            "vmstat": kernel.read_vmstat(prefix="thp_split"),
        }

    def _has_hugetlb(self, each: Followed) -> bool:
        """Whether what its calls freed was not counted right; asked for the first time when it has served."""
        return self._collector.plan.asks_freed and each.has_hugetlb

    def _write_came(self, each: Followed) -> None:
        note(lambda: [f"tracing {each.process.description}"])
        slots = self._collector.read_memory_slots(each.process.pid)
        self._writer.write_process(
            {
                "number": each.number,
                "came": clocks(),
                "process": asdict(each.process),
                "memory_slots": None if slots is None else [asdict(slot) for slot in slots],
                **_read_process(each.process.pid),
            }
        )

    def _write_ended(self, each: Followed, reason: str) -> HostCounters:
        """Its last sums, batches cut short, losses; returns the sums. Its last batches have been written."""
        slots = counting_slots(self._collector.read_slots(each.number, ends_counts=self._is_followed))
        counters = parse_host_counters(slots)
        self._writer.write_process_counters(each.number, slots)
        if not self._is_followed:
            self._writer.write_batches(unfinished_of_process(slots, each.number))
        eventfds = describe_eventfds(self._collector.read_eventfds(each.number), PROCESS_EVENTFDS)
        self._writer.write_process(
            {
                "number": each.number,
                "ended": clocks(),
                "reason": reason,
                "losses": summarise_host_losses(counters, None),
                "eventfds": eventfds,
                "has_hugetlb": self._has_hugetlb(each),
                **_read_process(each.process.pid),
            }
        )
        return counters


def _read_process(pid: int) -> dict[str, object]:
    """What a process holds and has open; nothing of one that has ended."""
    memory = read_memory(pid)
    if memory is None:
        return {}
    return {
        "memory": asdict(memory),
        "regions": [asdict(region) for region in read_regions(pid)],
        "files": read_open_files(pid),
    }

# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at what attached programs have summed up of many processes, each by itself."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from balloontrace.format.host_counters import HostCounters, parse_host_counters
from balloontrace.format.live_counters import LiveBatches, parse_live_batches
from balloontrace.format.process_layout import NO_COUNTERS, added, counting_slots
from balloontrace.live.make_views import HostLook
from balloontrace.live.read_sums import estimate_run_time_ns
from balloontrace.system.vmm import Process
from balloontrace.trace.host.all_collector import AllCollector
from balloontrace.trace.host.collector import summarise_host_losses
from balloontrace.trace.host.followed_processes import Followed, FollowedProcesses
from balloontrace.trace.session import Losses


@dataclass(frozen=True)
class VmLook:
    """One process at one time; `number` is never another's. What calls freed may not be counted."""

    number: int
    process: Process
    look: HostLook
    counts_freed: bool = False


@dataclass(frozen=True)
class Tracing:
    """What tracing all processes has cost and missed so far; None: not measured."""

    program_ns: int | None = None
    missed: int | None = None
    without_room: int = 0  # processes not traced, as there were too many at once


@dataclass(frozen=True)
class _Parsed:
    """What the sums of a process were when it had made so many calls and its buffers looked so."""

    calls: int
    raw_batches: bytes
    counters: HostCounters
    batches: LiveBatches


class AllSource:
    """Looks at all VMMs of the host's side, on a collector without a ring."""

    fd: int | None = None

    def __init__(self, collector: AllCollector, processes: FollowedProcesses) -> None:
        self._collector, self._processes = collector, processes
        self._parsed: dict[int, _Parsed] = {}
        self._of_ended = NO_COUNTERS

    def follow(self) -> None:
        """Trace those that came, and no longer those that ended: these are in no look any more."""
        self._processes.come()
        for each in self._processes.ended():
            self._of_ended = added(self._of_ended, self._read(each).counters)
            self._parsed.pop(each.number, None)
            self._processes.forget(each)

    def look(self) -> tuple[VmLook, ...]:
        """The sums of each process as they are now, in the order in which they came."""
        looks = []
        freed = self._collector.plan.freed_by(self._collector.loaded.failures) is not None
        for each in self._processes:
            found, time_ns = self._read(each), time.monotonic_ns()
            look = HostLook(time_ns, found.counters, found.batches)
            counts_freed = freed and found.calls > 0 and not each.has_hugetlb
            looks.append(VmLook(each.number, each.process, look, counts_freed))
        return tuple(looks)

    @property
    def gone(self) -> str | None:
        """There may always be another one."""
        return None

    def tracing(self) -> Tracing:
        """What it has cost and missed since the start, processes that ended included."""
        calls = Counter(self._of_ended.calls_by_system_call)
        for each in self._processes:
            calls.update(self._read(each).counters.calls_by_system_call)
        spent_ns = estimate_run_time_ns(self._collector.read_program_costs(calls))
        return Tracing(spent_ns, self._collector.read_missed(), self._processes.without_room)

    def losses(self) -> Losses:
        """What was missed so far, as a recording has it."""
        counters = self._of_ended
        for each in self._processes:
            counters = added(counters, self._read(each).counters)
        return summarise_host_losses(counters, self._collector.read_missed())

    def _read(self, each: Followed) -> _Parsed:
        """The sums of a process; those of one that did nothing since the last look are not parsed again."""
        calls, raw_batches = (
            self._collector.read_calls(each.number),
            self._collector.read_live_of(each.number),
        )
        known = self._parsed.get(each.number)
        if known is None or known.calls != calls or known.raw_batches != raw_batches:
            counters = parse_host_counters(counting_slots(self._collector.read_slots(each.number)))
            known = _Parsed(calls, raw_batches, counters, parse_live_batches(raw_batches))
            self._parsed[each.number] = known
        return known

# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at what attached programs have summed up, of either side, and why there may be no further ones."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping

from balloontrace.format.balloon_size import count_balloon_pages
from balloontrace.format.guest_counters import parse_counters
from balloontrace.format.host_counters import parse_host_counters
from balloontrace.format.live_counters import parse_live, parse_live_batches
from balloontrace.live.make_views import GuestLook, HostLook
from balloontrace.system import kernel
from balloontrace.system.read_balloon_size import read_balloon_sizes
from balloontrace.trace.attached_programs import follow_pace
from balloontrace.trace.guest.collector import GuestCollector, summarise_losses
from balloontrace.trace.guest.diagnosis import GuestDiagnosis
from balloontrace.trace.guest.driver_watch import DriverWatch
from balloontrace.trace.host.collector import HostCollector, summarise_host_losses
from balloontrace.trace.host.process_watch import ProcessWatch
from balloontrace.trace.pace import HostTimingPace, TimingPace
from balloontrace.trace.session import Losses

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class GuestSource:
    """Looks at the guest's side, on a collector without a ring."""

    fd: int | None = None

    def __init__(self, collector: GuestCollector, diagnosis: GuestDiagnosis) -> None:
        self._collector = collector
        self._watch = DriverWatch(diagnosis)
        self._devices = {device.index: device.name for device in diagnosis.devices}
        self._timing = TimingPace(frozenset(probe.function for probe in collector.plan.attachable))
        collector.set_timing(True)

    def look(self) -> GuestLook:
        """The sums as they are now."""
        balloon_pages = count_balloon_pages(kernel.read_vmstat(), _PAGE_BYTES)
        sizes = dict(zip(self._devices, read_balloon_sizes(self._devices.values()), strict=True))
        # Side by side, before either is parsed: both are to be of one moment.
        raw, raw_live = self._collector.read_counters(), self._collector.read_live()
        counters, live = parse_counters(raw), parse_live(raw_live)
        follow_pace(self._collector, self._timing, counters)
        spent_ns = estimate_run_time_ns(self._collector.read_program_costs(counters))
        return GuestLook(time.monotonic_ns(), counters, live, balloon_pages, spent_ns, sizes)

    def missed(self) -> int:
        """Calls so far for which the kernel did not run the programs, as far as it counts them."""
        return sum(filter(None, self._collector.read_missed().values()))

    @property
    def gone(self) -> str | None:
        """Why nothing can happen any more; None while it can."""
        return "driver unloaded or unbound" if self._watch.gone() else None

    def losses(self) -> Losses:
        """What was missed so far, as a recording has it."""
        counters = parse_counters(self._collector.read_counters())
        return summarise_losses(counters, self._collector.plan, self._collector.read_missed())


class HostSource:
    """Looks at one process of the host's side, on a collector without a ring."""

    def __init__(self, collector: HostCollector, watch: ProcessWatch) -> None:
        self._collector = collector
        self._watch = watch
        self._timing = HostTimingPace(collector.timed)
        self.fd: int | None = watch.fd
        collector.set_timing(self._timing.at_start)

    def look(self) -> HostLook:
        """The sums as they are now."""
        raw, raw_live = self._collector.read_counters(), self._collector.read_live()
        counters, batches = parse_host_counters(raw), parse_live_batches(raw_live)
        follow_pace(self._collector, self._timing, counters)
        spent_ns = estimate_run_time_ns(self._collector.read_program_costs(counters.calls_by_system_call))
        return HostLook(time.monotonic_ns(), counters, batches, spent_ns)

    @property
    def gone(self) -> str | None:
        """Why nothing can happen any more; None while it can."""
        return "process exited" if self._watch.ended else None

    def losses(self) -> Losses:
        """What was missed so far, as a recording has it."""
        counters = parse_host_counters(self._collector.read_counters())
        return summarise_host_losses(counters, self._collector.read_missed())


def estimate_run_time_ns(programs: Iterable[Mapping[str, object]]) -> int | None:
    """What all runs took, by those that were timed; None before any was."""
    spent_ns, known = 0.0, False
    for program in programs:
        runs, timed, time_ns = (program.get(name) for name in ("runs", "timed_runs", "run_time_ns"))
        if isinstance(runs, int) and isinstance(timed, int) and isinstance(time_ns, int) and timed:
            spent_ns += time_ns / timed * runs
            known = True
    return int(spent_ns) if known else None

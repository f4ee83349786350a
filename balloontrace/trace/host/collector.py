# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaches the host's plan to one process, drains its batches, and says what was lost and what tracing cost.

The host's counterpart of `trace/guest/collector`: knows nothing of files and decodes no batch.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from types import TracebackType

from balloontrace.format.guest_layout import RING_HEADER_BYTES
from balloontrace.format.host_counters import (
    SYSTEM_CALLS,
    HostCounters,
    describe_eventfds,
    moved_sums,
    proven_kicks,
    slots_since,
    sum_faults,
    used_slots,
)
from balloontrace.format.host_layout import (
    BATCH,
    EVENTFDS_BYTES,
    FAULTS_BYTES,
    LIVE_SLOTS_BYTES,
    MEMORY_SLOTS,
    SLOTS,
    THREAD,
    THREADS_BYTES,
)
from balloontrace.trace.attached_programs import DEFAULT_RING_BYTES, AttachedPrograms, attach_first
from balloontrace.trace.engines.choose import Engine
from balloontrace.trace.engines.constants import SLOT_CONSTANTS
from balloontrace.trace.engines.request import PAGE_BYTES, SAMPLED, Loaded, LoadRequest
from balloontrace.trace.host.call_cost import CallCost, measure_call_cost, time_calls
from balloontrace.trace.host.memory_slots import MemorySlot, read_memory_slots
from balloontrace.trace.host.probes import TABLE, HostPlan
from balloontrace.trace.mechanism import Mechanism
from balloontrace.trace.shared_maps import RecordRing, SharedPage

FREED_MAPS = ("waiting", "waiting_pages")
"""Only where what calls free is counted."""

_PROCESS_BYTES = 8
_FAULTS = "handle_mm_fault"
_SHOWS_SLOTS = "kvm_vm_ioctl"
_NO_OFFSET = -1  # to bpf/balloon_compat.h: where a member lies is unknown
_RETURNS = frozenset(mechanism.program(returns=True) for mechanism in Mechanism)


class HostPrograms(AttachedPrograms[HostPlan]):
    """The host's programs, of one process or of many."""

    call_cost: CallCost | None = None

    def time_programs(self) -> tuple[str, ...]:
        """Have the kernel time what runs for this process's calls; returns the system calls it timed."""
        if self.call_cost is None:
            return ()
        self.set_timing(True)
        timed = self.timing
        time_calls()
        self.set_timing(False)
        return ("madvise",) if timed else ()

    def read_program_costs(self, calls: Mapping[str, int]) -> list[dict[str, object]]:
        """Each program's runs for what is traced, the runs the kernel timed, and their time.

        `calls` are those that were traced, by system call. Timed are also runs for other processes, which are
        shorter. None: not counted.
        """
        return [
            {
                "program": program,
                "runs": calls.get(program.partition("_")[2]),
                **self.read_timed(program),
            }
            for program in self.loaded.programs
        ]

    @property
    def shows_memory_slots(self) -> bool:
        """Whether a program can say where the memory of a process's guest is."""
        reached = {probe.name for probe in self.plan.attachable} - self.loaded.failures.keys()
        return bool(self.plan.slot_layout) and _SHOWS_SLOTS in reached

    def read_missed(self) -> int | None:
        """Calls for which the kernel did not run the programs on entry; None: it does not count them."""
        counts = [
            self.read_fdinfo(f"fentry_{probe.point.name}").get("recursion_misses")
            for probe in self.plan.attachable
            if probe.point.tracepoint and probe.mechanism is Mechanism.FENTRY
        ]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None


class HostCollector(HostPrograms):
    """A plan attached for one process."""

    def __init__(
        self, plan: HostPlan, pid: int, engines: tuple[Engine, ...], *, ring_bytes: int = DEFAULT_RING_BYTES
    ) -> None:
        """Attach `plan` for process `pid`. Raises as `GuestCollector` does.

        Without a ring (0 bytes) there are no batches; what they would tell is summed up for `read_live`.
        """
        untraced = None if plan.sampled_by else time_calls()
        ways = (plan,) if plan.sampled_by else (plan, plan.with_kprobes(), plan.with_tracepoints())
        plan, loaded = attach_first(engines, ways, lambda plan: _request(plan, ring_bytes))
        maps = loaded.maps
        batch_bytes = RING_HEADER_BYTES + BATCH.size_bytes
        threads = SharedPage(maps["threads"], THREADS_BYTES, writable=True)
        super().__init__(
            plan,
            loaded,
            threads,
            ring=RecordRing(maps["batches"], ring_bytes, batch_bytes) if ring_bytes else None,
            live=None if ring_bytes else SharedPage(maps["live"], LIVE_SLOTS_BYTES),
            links=in_order_of_detaching(loaded),
        )
        self._faults = SharedPage(maps["faults"], FAULTS_BYTES)
        self._eventfds = SharedPage(maps["eventfds"], EVENTFDS_BYTES)
        self._memory_slots = SharedPage(maps["memory_slots"], MEMORY_SLOTS.size_bytes, writable=True)
        self._pid = pid
        self.call_cost = None
        self.timed: tuple[str, ...] = ()
        with closing(SharedPage(maps["target"], _PROCESS_BYTES, writable=True)) as target:
            if untraced is not None:
                target.write(_process(os.getpid()))
                slot = threading.get_native_id() % SLOTS * THREAD.size_bytes
                self.call_cost = measure_call_cost(
                    untraced, lambda: threads.read()[slot : slot + THREAD.size_bytes]
                )
                self.timed = self.time_programs()
                threads.write(bytes(THREAD.size_bytes), slot)
            target.write(_process(pid))
        if plan.sampled_by:
            # No call is counted, so that none is waited for to be timed.
            self.timed = SYSTEM_CALLS

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        for page in (self._faults, self._eventfds, self._memory_slots):
            page.close()

    def read_faults(self) -> dict[str, int]:
        """Sums of the traced process's page faults; empty where they are not traced."""
        traces = any(probe.name == _FAULTS for probe in self.plan.attachable)
        return sum_faults(self._faults.read()) if traces and _FAULTS not in self.loaded.failures else {}

    def read_eventfds(self) -> list[dict[str, object]]:
        """The eventfds that the process has read, by number; none where a program sees no argument."""
        return describe_eventfds(self._eventfds.read())

    def read_moved(self, counters: bytes | None = None) -> bytes:
        """What changes when a balloon's buffer is served; `counters`, if they were read just now."""
        if self.plan.sampled_by:
            return proven_kicks(self._eventfds.read())
        return moved_sums(self.read_counters() if counters is None else counters)

    def read_memory_slots(self) -> tuple[MemorySlot, ...] | None:
        """Which memory of the process is its guest's; None where that cannot be known."""
        return read_memory_slots(self._memory_slots, self._pid) if self.shows_memory_slots else None

    def read_counters(self) -> bytes:
        """The slots in use, with the sums of the recording in progress."""
        return used_slots(super().read_counters())

    def _since(self, raw: bytes, before: bytes) -> bytes:
        return slots_since(raw, before)


def in_order_of_detaching(loaded: Loaded) -> list[int]:
    """First what delimits buffers: one whose calls are no longer all seen must stay unfinished.

    Then the entries of calls before their returns, so that no call is taken for one that never returned.
    """
    calls = {point.name for point in TABLE if point.tracepoint}

    def rank(program: str) -> int:
        end, _, point = program.partition("_")
        return 0 if point not in calls else 2 if end in _RETURNS else 1

    ranked = zip(map(rank, loaded.programs), loaded.links, strict=True)
    return [fd for _, fd in sorted(ranked, key=lambda each: each[0])]


def summarise_host_losses(counters: HostCounters, missed: int | None) -> dict[str, dict[str, int | None]]:
    """What was missed, of batches and of single calls, in the shape of `collector.summarise_losses`."""
    unknown = dict.fromkeys(("entries", "returns", "unmatched_returns", "no_state", "overwritten", "missed"))
    return {
        "batches": {**unknown, "entries": counters.batches, "lost": counters.lost},
        "calls": {
            "entries": None,
            "returns": counters.all_calls,
            "unmatched_returns": counters.unmatched_returns,
            "lost": 0,
            "no_state": counters.no_state,
            "overwritten": counters.overwritten,
            "missed": missed,
        },
    }


def _process(pid: int) -> bytes:
    return pid.to_bytes(_PROCESS_BYTES, sys.byteorder)


def _request(plan: HostPlan, ring_bytes: int) -> LoadRequest:
    return LoadRequest(
        "host.bpf.c",
        host_definitions(plan, ring_bytes),
        plan.attachments,
        _maps(plan, ring_bytes),
    )


def _maps(plan: HostPlan, ring_bytes: int) -> tuple[str, ...]:
    return (
        "batches" if ring_bytes else "live",
        "threads",
        "target",
        "eventfds",
        "faults",
        "memory_slots",
        *(FREED_MAPS if plan.freed_by({}) else ()),
        *(("timers",) if plan.sampled_by else ()),  # which the kernel stops when nobody has the map open
    )


def host_definitions(plan: HostPlan, ring_bytes: int) -> Mapping[str, str | int]:
    """What the BPF source leaves open."""
    definitions: dict[str, str | int] = {
        "COUNT_FREED": PAGE_BYTES if plan.freed_by({}) else 0,
        **dict(plan.page_layout),
        **(dict(plan.slot_layout) or dict.fromkeys(SLOT_CONSTANTS, _NO_OFFSET)),
    }
    if plan.sampled_by:
        definitions |= {SAMPLED: 1, **dict(plan.sampled_by)}
    if ring_bytes:
        definitions["BATCH_RING_PAGES"] = ring_bytes // PAGE_BYTES
    definitions |= {f"KIND_{point.name}": "absent" for point in TABLE}
    definitions |= {f"KIND_{probe.point.name}": str(probe.mechanism) for probe in plan.attachable}
    return definitions

# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaches the host's plan to many processes at once, which come and go.

Programs are attached once, whatever the number of processes. Each of these has a place of a map: slots,
eventfds and sums. A table says which processes are traced; only this module writes to it.
"""

from __future__ import annotations

import os
import sys
import threading
from types import TracebackType

from balloontrace.errors import CannotTraceError
from balloontrace.format.guest_layout import RING_HEADER_BYTES
from balloontrace.format.host_counters import slots_since
from balloontrace.format.host_layout import LIVE_BATCHES, MEMORY_SLOTS, THREAD
from balloontrace.format.process_layout import (
    PROCESS,
    PROCESS_BATCH,
    PROCESS_SLOTS,
    TRACED,
    TRACED_BYTES,
    TRACED_PROCESS,
    TRACED_WAYS,
)
from balloontrace.trace.attached_programs import attach_first
from balloontrace.trace.engines.choose import Engine
from balloontrace.trace.engines.request import PROCESSES, LoadRequest
from balloontrace.trace.host.call_cost import measure_call_cost, time_calls
from balloontrace.trace.host.collector import (
    FREED_MAPS,
    HostPrograms,
    host_definitions,
    in_order_of_detaching,
)
from balloontrace.trace.host.memory_slots import MemorySlot, read_memory_slots
from balloontrace.trace.host.probes import HostPlan
from balloontrace.trace.shared_maps import RecordRing, SharedPage

_WORD_BYTES = 4
_CALLS_BYTES = 8


class AllCollector(HostPrograms):
    """A plan attached for as many processes as there is room for."""

    def __init__(self, plan: HostPlan, engines: tuple[Engine, ...], *, ring_bytes: int, room: int) -> None:
        """Attach `plan` for at most `room` processes at once, for none yet; raises as `HostCollector`."""
        if Engine.PREBUILT not in engines:
            raise CannotTraceError("many processes at once need --engine prebuilt")
        untraced = time_calls()
        ways = (plan, plan.with_kprobes(), plan.with_tracepoints())
        plan, loaded = attach_first((Engine.PREBUILT,), ways, lambda plan: _request(plan, ring_bytes, room))
        maps, batch_bytes = loaded.maps, RING_HEADER_BYTES + PROCESS_BATCH.size_bytes
        self._all = SharedPage(maps["processes"], room * PROCESS.size_bytes, writable=True)
        self._traced = SharedPage(maps["traced"], TRACED_BYTES, writable=True)
        self._memory_slots = SharedPage(maps["memory_slots"], MEMORY_SLOTS.size_bytes, writable=True)
        super().__init__(
            plan,
            loaded,
            self._all,
            ring=RecordRing(maps["batches"], ring_bytes, batch_bytes) if ring_bytes else None,
            live=None,
            links=in_order_of_detaching(loaded),
        )
        self._free = list(range(room - 1, -1, -1))
        self._places: dict[int, tuple[int, int]] = {}  # by number: place in the map, and in the table
        self._last_number = 0
        self._slots_before: dict[int, bytes] = {}
        self._end_slots: dict[int, bytes] = {}
        own = self.add(os.getpid())
        assert own is not None  # nobody else is there
        slot = threading.get_native_id() % PROCESS_SLOTS * THREAD.size_bytes
        self.call_cost = measure_call_cost(
            untraced, lambda: self.read_slots(own)[slot : slot + THREAD.size_bytes]
        )
        self.timed = self.time_programs()
        self.remove(own)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        for page in (self._traced, self._memory_slots):
            page.close()

    def add(self, pid: int) -> int | None:
        """Trace a process from now on; its number, None where there is no room for another one."""
        first = pid * TRACED_WAYS & (TRACED - TRACED_WAYS)
        taken = {entry for _, entry in self._places.values()}
        entry = next((each for each in range(first, first + TRACED_WAYS) if each not in taken), None)
        if entry is None or not self._free:
            return None
        place = self._free.pop()
        self._last_number += 1
        self._places[self._last_number] = place, entry
        at = place * PROCESS.size_bytes
        self._all.write(_word(self._last_number), at + PROCESS.offsets["number"])
        at = entry * TRACED_PROCESS.size_bytes
        self._traced.write(_word(place), at + TRACED_PROCESS.offsets["place"])
        self._traced.write(_word(pid), at + TRACED_PROCESS.offsets["pid"])
        return self._last_number

    def remove(self, number: int) -> None:
        """Trace a process no longer, and forget what was counted of it."""
        place, entry = self._places.pop(number)
        self._slots_before.pop(number, None)
        self._traced.write(bytes(TRACED_PROCESS.size_bytes), entry * TRACED_PROCESS.size_bytes)
        self._all.write(bytes(PROCESS.size_bytes), place * PROCESS.size_bytes)
        self._free.append(place)

    def read_counters(self) -> bytes:
        """The number of each process and its calls: what changes when one of them does anything."""
        return b"".join(_word(number) + self._read_calls(number) for number in self._places)

    def read_calls(self, number: int) -> int:
        """How many calls a process has made."""
        return int.from_bytes(self._read_calls(number), sys.byteorder)

    def read_slots(self, number: int, *, ends_counts: bool = False) -> bytes:
        """The slots of a process's threads, used or not, with the sums of the recording in progress.

        With `ends_counts` what is counted after this look is for the next recording.
        """
        raw = self._read_array(number, "slots", PROCESS_SLOTS * THREAD.size_bytes)
        if ends_counts:
            self._end_slots[number] = raw
        before = self._slots_before.get(number)
        return slots_since(raw, before) if before else raw

    def begin_anew(self) -> None:
        """As for others; each process has sums of its own."""
        super().begin_anew()
        self._slots_before, self._end_slots = self._end_slots, {}

    def _since(self, raw: bytes, before: bytes) -> bytes:  # noqa: ARG002
        return raw  # tells whether anything moved, and is no sum

    def read_live_of(self, number: int) -> bytes:
        """The sums that stand in for batches where there is no ring."""
        return self._read_array(number, "live", PROCESS_SLOTS * LIVE_BATCHES.size_bytes)

    def read_eventfds(self, number: int) -> bytes:
        """The table of eventfds that a process has read."""
        return self._read_array(number, "eventfds", PROCESS.offsets["live"] - PROCESS.offsets["eventfds"])

    def read_memory_slots(self, pid: int) -> tuple[MemorySlot, ...] | None:
        """Which memory of a process is its guest's; None where that cannot be known."""
        return read_memory_slots(self._memory_slots, pid) if self.shows_memory_slots else None

    def _read_calls(self, number: int) -> bytes:
        return self._read_array(number, "calls", _CALLS_BYTES)

    def _read_array(self, number: int, name: str, size_bytes: int) -> bytes:
        place, _ = self._places[number]
        return self._all.read_part(place * PROCESS.size_bytes + PROCESS.offsets[name], size_bytes)


def _word(value: int) -> bytes:
    return value.to_bytes(_WORD_BYTES, sys.byteorder)


def _request(plan: HostPlan, ring_bytes: int, room: int) -> LoadRequest:
    ring = ("batches",) if ring_bytes else ()
    freed = FREED_MAPS if plan.freed_by({}) else ()
    return LoadRequest(
        "host.bpf.c",
        {**host_definitions(plan, ring_bytes), PROCESSES: room},
        plan.attachments,
        (*ring, *freed, "processes", "traced", "memory_slots"),
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Readings of a guest's state into what each operation cost it: differences around the operation."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from balloontrace.analysis.cost_sentences import explain_cost
from balloontrace.analysis.metadata import Json, integer, mapping, text
from balloontrace.format.balloon_size import kernel_page_in_pages
from balloontrace.format.recording import Recording
from balloontrace.results.guest_cost import GuestCost, Killed
from balloontrace.results.operation import Operation

_TICK_NS = 10_000_000  # USER_HZ is 100 on every architecture that Linux has (include/asm-generic/param.h)
MEM_AVAILABLE = "MemAvailable"
_MOST_NAMES = 256
_MOST_KILLED = 64
_MOST_SHARED = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading; the tables have what the kernel shows, by its own names."""

    at_ns: int
    memory_bytes: Mapping[str, int]
    counts: Mapping[str, int]
    pressure_us: Mapping[str, int]
    cpu_ticks: Mapping[str, int]
    killed: tuple[Killed, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether everything was read."""
        return bool(self.counts)


def parse_readings(recording: Recording) -> tuple[Reading, ...]:
    """The readings of a recording of the guest's side, in order of time; none before format 1.6."""
    parsed = (_parse_reading(table) for table in recording.readings)
    return tuple(sorted((each for each in parsed if each is not None), key=lambda reading: reading.at_ns))


class Costs:
    """What operations cost the guest, by its readings; several in a short time share theirs."""

    def __init__(self, readings: Sequence[Reading], page_bytes: int | None) -> None:
        """`page_bytes` is the size of a page of the guest's kernel, in which that counts."""
        self._readings = readings
        self._page_bytes = page_bytes
        # While the balloon moves the recorder reads no more than the memory available.
        self._whole = [place for place, reading in enumerate(readings) if reading.is_whole]
        self._known: dict[tuple[int, int], GuestCost] = {}

    def of(self, start_ns: int, end_ns: int) -> GuestCost | None:
        """Of an operation; None without a whole reading on either side of it."""
        before = bisect_right(self._whole, start_ns, key=self._at_ns) - 1
        after = bisect_left(self._whole, end_ns, key=self._at_ns)
        if before < 0 or after == len(self._whole):
            return None
        first, last = self._whole[before], self._whole[after]
        if (first, last) not in self._known:
            self._known[first, last] = _cost_between(self._readings[first : last + 1], self._page_bytes)
        return replace(
            self._known[first, last],
            before_ns=start_ns - self._at_ns(first),
            after_ns=self._at_ns(last) - end_ns,
        )

    def _at_ns(self, place: int) -> int:
        return self._readings[place].at_ns


def _cost_between(inside: Sequence[Reading], page_bytes: int | None) -> GuestCost:
    """From the first of these readings to the last, and no operation yet."""
    first, last = inside[0], inside[-1]
    counted = _Differences(first, last, page_bytes)
    available = [each.memory_bytes.get(MEM_AVAILABLE) for each in inside]
    known = [each for each in available if each is not None]
    return GuestCost(
        before_ns=0,
        after_ns=0,
        readings=len(inside),
        available_start_bytes=available[0],
        available_least_bytes=min(known, default=None),
        available_end_bytes=available[-1],
        reclaimed_by_kswapd_pages=counted.pages("pgsteal_kswapd"),
        direct_reclaims=counted.starting_with("allocstall_"),
        reclaimed_directly_pages=counted.pages("pgsteal_direct"),
        swapped_out_pages=counted.swapped("pswpout", "swpout_zero"),
        swapped_in_pages=counted.swapped("pswpin", "swpin_zero"),
        major_faults=counted.count("pgmajfault"),
        compactions=counted.count("compact_stall"),
        thp_splits=counted.count("thp_split_page"),
        thp_collapses=counted.count("thp_collapse_alloc"),
        memory_pressure_some_ns=counted.pressure_ns("memory_some"),
        memory_pressure_full_ns=counted.pressure_ns("memory_full"),
        cpu_pressure_some_ns=counted.pressure_ns("cpu_some"),
        steal_ns=counted.ticks_ns("steal"),
        processors_ns=counted.all_ticks_ns(),
        oom_kills=counted.count("oom_kill"),
        killed=tuple(each for reading in inside if reading is not first for each in reading.killed),
    )


@dataclass(frozen=True, slots=True)
class _Differences:
    """Between two readings; None for what one of them has not, or what went back."""

    first: Reading
    last: Reading
    page_bytes: int | None

    def _of(self, table: Callable[[Reading], Mapping[str, int]], name: str) -> int | None:
        before, after = (table(reading).get(name) for reading in (self.first, self.last))
        return None if before is None or after is None or after < before else after - before

    def count(self, name: str) -> int | None:
        """Of /proc/vmstat."""
        return self._of(lambda reading: reading.counts, name)

    def pages(self, name: str) -> int | None:
        """Of /proc/vmstat, pages of the kernel in units of 4 KiB."""
        count = self.count(name)
        unit_pages = kernel_page_in_pages(self.page_bytes)
        return None if count is None or unit_pages is None else count * unit_pages

    def swapped(self, written: str, zeros: str) -> int | None:
        """Pages written or read, and since Linux 6.12 those full of zeros, which are only noted."""
        pages = self.pages(written)
        return None if pages is None else pages + (self.pages(zeros) or 0)

    def starting_with(self, start: str) -> int | None:
        """The sum of those of /proc/vmstat whose names begin so: one a zone."""
        counts = [self.count(name) for name in self.first.counts if name.startswith(start)]
        return None if not counts or None in counts else sum(count or 0 for count in counts)

    def pressure_ns(self, name: str) -> int | None:
        """Of /proc/pressure, which counts microseconds."""
        passed_us = self._of(lambda reading: reading.pressure_us, name)
        return None if passed_us is None else passed_us * 1000

    def ticks_ns(self, name: str) -> int | None:
        """Of /proc/stat."""
        ticks = self._of(lambda reading: reading.cpu_ticks, name)
        return None if ticks is None else ticks * _TICK_NS

    def all_ticks_ns(self) -> int | None:
        """Of all processors, whatever they did."""
        each = [self.ticks_ns(name) for name in self.first.cpu_ticks]
        return None if not each or None in each else sum(ns or 0 for ns in each)


def _parse_reading(table: Json) -> Reading | None:
    at_ns = integer(table, "monotonic_ns")
    if at_ns is None:
        return None
    killed = table.get("killed")
    return Reading(
        at_ns,
        memory_bytes=_numbers(table, "memory_bytes"),
        counts=_numbers(table, "counts"),
        pressure_us=_numbers(table, "pressure_us"),
        cpu_ticks=_numbers(table, "cpu_ticks"),
        killed=tuple(
            Killed(integer(each, "pid"), text(each, "name"))
            for each in (killed[:_MOST_KILLED] if isinstance(killed, list) else [])
            if isinstance(each, dict)
        ),
    )


def _numbers(reading: Json, name: str) -> dict[str, int]:
    table = mapping(reading, name)
    found = ((name, integer(table, name)) for name in list(table)[:_MOST_NAMES])
    return {name: value for name, value in found if value is not None}


def add_costs(
    operations: Sequence[Operation], readings: Sequence[Reading], page_bytes: int | None
) -> tuple[Operation, ...]:
    """The operations with what each cost the guest, and what is to be said of it."""
    costs = Costs(readings, page_bytes)
    measured = [costs.of(each.started_ns, each.started_ns + each.wall_ns) for each in operations]
    return tuple(
        operation if cost is None else _with_cost(operation, cost, operations)
        for operation, cost in zip(operations, measured, strict=True)
    )


def _with_cost(operation: Operation, cost: GuestCost, operations: Sequence[Operation]) -> Operation:
    cost = replace(cost, shared_with=_others_in(cost, operation, operations))
    return replace(
        operation, guest_cost=cost, verdict=(*operation.verdict, *explain_cost(cost, operation.wall_ns))
    )


def _others_in(cost: GuestCost, operation: Operation, operations: Sequence[Operation]) -> tuple[int, ...]:
    """The numbers of the nearest operations that were under way between its readings."""
    first_ns = operation.started_ns - cost.before_ns
    last_ns = operation.started_ns + operation.wall_ns + cost.after_ns
    at = operation.number - 1
    near = (*operations[max(0, at - _MOST_SHARED) : at], *operations[at + 1 : at + 1 + _MOST_SHARED])
    inside = (
        each for each in near if each.started_ns < last_ns and each.started_ns + each.wall_ns > first_ns
    )
    return tuple(each.number for each in inside)[:_MOST_SHARED]

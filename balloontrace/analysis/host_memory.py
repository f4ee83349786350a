# SPDX-License-Identifier: GPL-2.0-or-later
"""What calls of the host did to its memory: of each operation, and of each period as the host sees it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from balloontrace.analysis.columns import Batches, Column, Mask
from balloontrace.analysis.host_evidence import Asked, Beside
from balloontrace.analysis.host_freed import judge
from balloontrace.analysis.host_readings import HostReading, HostReadings
from balloontrace.analysis.host_regions import NO_REGION, MemoryKind, Regions, describe_regions
from balloontrace.analysis.host_sentences import explain_taken_back
from balloontrace.analysis.operations import NO_OPERATION
from balloontrace.format.host_layout import TAKING_BACK_S
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES, BatchFlag, Call, Queue
from balloontrace.results.host_memory import DiscardPeriod, Freed, HostRegion, TakenBack
from balloontrace.results.recording_header import Machine
from balloontrace.units import NS_PER_S

GIVES_BACK, WANTS_BACK = "gives back", "wants back"
_GIVING = (
    Call.MADVISE_DONTNEED, Call.MADVISE_REMOVE, Call.MADVISE_FREE, Call.FALLOCATE_PUNCH_HOLE,
    Call.PROCESS_MADVISE,
)  # fmt: skip
_REST_NS = NS_PER_S
_MOST_PERIODS = 4096
_MOST_FILES = 64
# A reading is taken each second, and it may come late.
_TAKEN_FOR_NS = round((TAKING_BACK_S + 1) * NS_PER_S)


@dataclass(frozen=True)
class HostMemoryTable:
    """All that verdicts are made of."""

    batches: Batches
    readings: HostReadings
    regions: Regions
    files: Mapping[str, str]
    machine: Machine

    def periods(self) -> tuple[DiscardPeriod, ...]:
        """Buffers that give memory back, and others that want it back, each in periods without a rest."""
        if not self.readings:
            return ()
        gives, wants = self._directions
        found = [
            self._period(what, rows)
            for what, mask in ((GIVES_BACK, gives), (WANTS_BACK, wants))
            for rows in self._cut(np.flatnonzero(mask))[:_MOST_PERIODS]
        ]
        ordered = sorted(found, key=lambda period: period.started_ns)
        starts = [period.started_ns for period in ordered]
        return tuple(self._with_price(period, starts) for period in ordered)

    def of_operations(
        self, operation_of_batch: Column, pages: Sequence[int | None]
    ) -> tuple[tuple[Freed | None, TakenBack | None], ...]:
        """The same of the guest's operations, each of so many pages; None of one without a buffer."""
        if not self.readings:
            return ((None, None),) * len(pages)
        order = np.argsort(operation_of_batch, kind="stable")
        ends = np.searchsorted(operation_of_batch[order], np.arange(len(pages) + 1))
        rows = [order[start:end] for start, end in pairwise(ends.tolist())]
        bounds = [self._bounds(some) for some in rows]
        starts = sorted(each[0] for each in bounds if each is not None)
        return tuple(
            (None, None) if each is None else self._of_operation(some, each, size, starts)
            for some, each, size in zip(rows, bounds, pages, strict=True)
        )

    def discarded(self) -> tuple[HostRegion, ...]:
        """The regions that calls named."""
        places = self._named(np.flatnonzero(self._whole))
        return describe_regions(self.regions, places)

    @cached_property
    def _whole(self) -> Mask:
        """Batches that were kicked and completed, or all if there are none."""
        whole = self.batches.has(BatchFlag.KICK_SEEN) & self.batches.has(BatchFlag.DONE_SEEN)
        return whole if whole.any() else ~whole

    @cached_property
    def _directions(self) -> tuple[Mask, Mask]:
        if self.batches.sampled:  # many a buffer has no sample inside a call, but its eventfd has
            queue = self.batches.queue
            return self._whole & (queue == Queue.INFLATE), self._whole & (queue == Queue.DEFLATE)
        gives, wants = self.batches.calls(*_GIVING), self.batches.calls(Call.MADVISE_WILLNEED)
        return self._whole & (gives > 0) & (gives >= wants), self._whole & (wants > gives)

    @cached_property
    def _named_bytes(self) -> Column:
        """What each batch named to be given back; 0 of one that wants memory back as well."""
        if self.batches.counts_discards:
            return self.batches.int64("discarded_bytes")
        gives, wants = self.batches.calls(*_GIVING), self.batches.calls(Call.MADVISE_WILLNEED)
        named = np.maximum(self.batches.int64("madvise_bytes"), self.batches.int64("fallocate_bytes"))
        return np.where((gives > 0) & (wants == 0), named, 0)

    @cached_property
    def _knows_bytes(self) -> bool:
        """Whether it was counted what each batch named: a page discarded twice over is told of twice."""
        if not self.batches.sampled:
            return True
        punches = self.batches.calls(Call.FALLOCATE_PUNCH_HOLE).any()
        advises = self.batches.calls(Call.MADVISE_DONTNEED, Call.MADVISE_REMOVE).any()
        return self.batches.counts_discards and not (punches and advises)

    @cached_property
    def _region_of_batch(self) -> Column:
        return self.regions.of_addresses(self.batches.int64("address"))

    @cached_property
    def _columns(self) -> dict[str, Column]:
        """What is summed up, by name."""
        names = ("errors", "last_errno", "thp_splits", "file")
        return {name: self.batches.int64(name) for name in names}

    @cached_property
    def _times(self) -> tuple[Column, Column]:
        """From when to when each batch made calls; where they were sampled, from kick to completion."""
        first_ns, last_ns = self.batches.int64("first_call_ns"), self.batches.int64("last_return_ns")
        if not self.batches.sampled:
            return first_ns, last_ns
        kick_ns, done_ns = self.batches.int64("kick_ns"), self.batches.int64("done_ns")
        return np.where(kick_ns > 0, kick_ns, first_ns), np.where(done_ns > 0, done_ns, last_ns)

    @cached_property
    def _calls(self) -> dict[Call, Column]:
        return {call: self.batches.calls(call) for call in _GIVING}

    def _named(self, rows: Column) -> list[int]:
        """Places of all regions that some batches named, by address or by the descriptor of a file."""
        places = set(np.unique(self._region_of_batch[rows]).tolist()) - {NO_REGION}
        descriptors = np.unique(self._columns["file"][rows]).tolist()[:_MOST_FILES]
        names = (self.files.get(str(number - 1), "") for number in descriptors if number)
        return sorted(places | self.regions.of_files(names))

    def _cut(self, rows: Column) -> list[Column]:
        """Rows, in order of time, cut where nothing was served for a while."""
        if not len(rows):
            return []
        first_ns, last_ns = (column[rows] for column in self._times)
        rests = first_ns[1:] - np.maximum.accumulate(last_ns)[:-1] >= _REST_NS
        return np.split(rows, np.flatnonzero(rests) + 1)

    def _bounds(self, rows: Column) -> tuple[int, int] | None:
        """From the first call of some batches to the return of the last."""
        if not len(rows):
            return None
        first_ns, last_ns = (column[rows] for column in self._times)
        return int(first_ns.min()), int(last_ns.max())

    def _period(self, what: str, rows: Column) -> DiscardPeriod:
        bounds = self._bounds(rows)
        assert bounds is not None  # periods have rows
        freed = self._judge(rows, bounds, None) if what == GIVES_BACK else None
        return DiscardPeriod(what, *bounds, len(rows), freed, None)

    def _with_price(self, period: DiscardPeriod, starts: Sequence[int]) -> DiscardPeriod:
        bounds = period.started_ns, period.ended_ns
        return replace(period, taken_back=self._price(bounds, starts, gives=period.what == GIVES_BACK))

    def _of_operation(
        self, rows: Column, bounds: tuple[int, int], pages: int | None, starts: Sequence[int]
    ) -> tuple[Freed | None, TakenBack | None]:
        gives = self._gives(rows)
        freed = self._judge(rows, bounds, pages) if gives else None
        return freed, self._price(bounds, starts, gives=gives)

    def _gives(self, rows: Column) -> bool:
        """Whether an operation's buffers give memory back; of samples no call need be seen."""
        if self.batches.sampled:
            return bool((self.batches.queue[rows] == Queue.INFLATE).any())
        return any(int(column[rows].sum()) for column in self._calls.values())

    def _judge(self, rows: Column, bounds: tuple[int, int], pages: int | None) -> Freed:
        found = [self.regions.found[place] for place in self._named(rows)]
        before, after = self.readings.last_before(bounds[0]), self.readings.first_after(bounds[1])
        beside = None
        if before is not None and after is not None:
            beside = Beside(found, before, after, self.regions.mlocked_bytes, self.machine)
        return judge(self._asked(rows, beside, pages), beside, found)

    def _asked(self, rows: Column, beside: Beside | None, pages: int | None) -> Asked:
        columns = self._columns
        errnos = columns["last_errno"][rows]
        asked_bytes = int(self._named_bytes[rows].sum()) if self._knows_bytes else None
        if self.batches.sampled and pages is not None:
            asked_bytes = pages * BALLOON_PAGE_BYTES
        return Asked(
            {call: int(column[rows].sum()) for call, column in self._calls.items()},
            int(columns["errors"][rows].sum()),
            int(errnos[errnos > 0][-1]) if (errnos > 0).any() else 0,
            asked_bytes,
            self._bytes_meanwhile(beside) if self._knows_bytes and beside is not None else None,
            int(columns["thp_splits"][rows].sum()) if self.batches.splits_counted else None,
            int(self.batches.int64("discards")[rows].sum()) if self.batches.counts_discards else None,
            self.batches.sampled,
        )

    def _bytes_meanwhile(self, beside: Beside) -> int:
        """What all calls between two readings named to be given back."""
        limits = beside.before.at_ns, beside.after.began_ns
        first, last = np.searchsorted(self.batches.int64("first_call_ns"), limits)
        return int(self._named_bytes[first:last].sum())

    def _price(self, bounds: tuple[int, int], starts: Sequence[int], *, gives: bool) -> TakenBack | None:
        """Faults from the reading before what wants memory back, or behind what gave it, on.

        `starts` are those of all operations, in order: what follows another one is that one's.
        """
        started_ns, ended_ns = bounds
        later = starts[bisect_right(starts, ended_ns) :][:1]
        until_ns = min([ended_ns + _TAKEN_FOR_NS, *later])
        readings = self.readings
        first = readings.first_after(ended_ns) if gives else readings.last_before(started_ns)
        last = readings.last_before(until_ns)
        if first is None or last is None or last.at_ns <= max(first.at_ns, ended_ns):
            return None
        huge_files = {each.file for each in self.regions.found if each.kind is MemoryKind.SHARED_HUGETLB}
        return _taken_back(first, last, ended_ns, huge_files)


def _taken_back(
    first: HostReading, last: HostReading, ended_ns: int, huge_files: set[str | None]
) -> TakenBack:
    def more(field: str) -> int | None:
        before, after = getattr(first, field), getattr(last, field)
        return None if before is None or after is None else max(0, after - before)

    held = [_held(first, huge_files), _held(last, huge_files)]
    grown = None if None in held else (held[1] or 0) - (held[0] or 0)
    taken = TakenBack(
        from_ns=first.at_ns,
        until_ns=last.at_ns,
        after_ns=last.at_ns - ended_ns,
        faults=more("faults"),
        major_faults=more("major_faults"),
        traced_faults=more("traced_faults"),
        huge_faults=more("huge_faults"),
        fault_ns=more("fault_ns"),
        huge_pages_collapsed=more("collapsed"),
        bytes=grown if grown is not None and grown >= 0 else None,
    )
    return replace(taken, sentence=explain_taken_back(taken))


def _held(reading: HostReading, huge_files: set[str | None]) -> int | None:
    """What the process and its files hold; pages of hugetlbfs that it has mapped may be those of a file."""
    if reading.anon_bytes is None:
        return None
    in_huge_files = sum(size for file, size in reading.allocated_bytes.items() if file in huge_files)
    huge = max(0, (reading.hugetlb_bytes or 0) - in_huge_files)
    return reading.anon_bytes + sum(reading.allocated_bytes.values()) + huge


def operations_of_batches(send_of_batch: Column, send_operation: Column) -> Column:
    """The operation that each batch was served for, or NO_OPERATION; batches have the index of a send."""
    served = send_of_batch >= 0
    found = np.full(len(send_of_batch), NO_OPERATION, dtype=np.int64)
    found[served] = send_operation[send_of_batch[served]]
    return found

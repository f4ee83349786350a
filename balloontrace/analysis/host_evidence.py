# SPDX-License-Identifier: GPL-2.0-or-later
"""What a verdict on freed memory is made of: what calls asked for, and the process before and after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from balloontrace.analysis.host_readings import HostReading
from balloontrace.analysis.host_regions import MemoryKind, Region
from balloontrace.format.vocabulary import Call
from balloontrace.results.recording_header import Machine

PAGE_BYTES = 4096
OWN_KINDS = frozenset({MemoryKind.ANONYMOUS, MemoryKind.PRIVATE_FILE})
WHOLE = 0.9
"""So much of something is all of it."""

_HUGE_BYTES = 2 << 20  # of transparent huge pages, where a recording does not tell
# Linux counts by processor, and adds up when one has counted so many pages (percpu_counter_batch).
_PAGES_APART, _PAGES_APART_BY_CPU = 32, 2
_FREES = (Call.MADVISE_DONTNEED, Call.MADVISE_REMOVE, Call.FALLOCATE_PUNCH_HOLE, Call.PROCESS_MADVISE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What some buffers asked for. `bytes` is None where that was not counted, and without failed calls.

    Where they are `sampled`, `calls` are samples of calls, and how many failed is not known. `discards` were
    counted or are None.
    """

    calls: Mapping[Call, int]
    errors: int
    last_errno: int
    bytes: int | None
    all_bytes: int | None  # by all calls between the readings, these among them
    huge_pages_split: int | None
    discards: int | None = None
    sampled: bool = False

    @property
    def count(self) -> int:
        """Calls that are there to free."""
        return sum(self.calls.get(call, 0) for call in (*_FREES, Call.MADVISE_FREE))

    @property
    def only_unmaps(self) -> bool:
        """Whether no call takes pages out of a file."""
        return not any(self.calls.get(call, 0) for call in _FREES if call is not Call.MADVISE_DONTNEED)


@dataclass(frozen=True, slots=True)
class Beside:
    """What calls are judged by: the memory they named, and the readings before and after them.

    `mlocked_bytes` are in regions that are known to be locked.
    """

    regions: Sequence[Region]
    before: HostReading
    after: HostReading
    mlocked_bytes: int
    machine: Machine

    @property
    def kinds(self) -> set[MemoryKind]:
        """Kinds of memory."""
        return {region.kind for region in self.regions}

    @property
    def is_own(self) -> bool:
        """Whether all of it is memory of the process itself, for which its control group is charged."""
        return bool(self.kinds) and self.kinds <= OWN_KINDS

    @property
    def off_bytes(self) -> int:
        """By how much the kernel's counts may be off."""
        count = max(self.machine.cpus or 1, 1)
        return max(_PAGES_APART, _PAGES_APART_BY_CPU * count) * count * self._page_bytes

    @property
    def has_child(self) -> bool:
        """Whether a child has all that the process had."""
        had = self.before.anon_bytes or 0
        return self.after.child_bytes >= WHOLE * had > 0

    @property
    def pinned_bytes(self) -> int:
        """What is pinned for devices: what is counted as such, and what is locked without mlock."""
        readings = (self.before, self.after)
        locked = max(each.locked_bytes or 0 for each in readings) - self.mlocked_bytes
        return max(each.pinned_bytes or 0 for each in readings) + max(0, locked)

    @property
    def huge_bytes(self) -> int:
        """How large a transparent huge page is."""
        return self.machine.thp_bytes or _HUGE_BYTES

    @property
    def fault_bytes(self) -> int:
        """The most that a fault brings which no huge page answers: a page, or a smaller huge one."""
        sizes = [size for size in self.machine.thp_sizes_bytes or () if size < self.huge_bytes]
        return max([self._page_bytes, *sizes])

    @property
    def _page_bytes(self) -> int:
        return self.machine.page_size_bytes or PAGE_BYTES

    @property
    def collapsed(self) -> int | None:
        """How many huge pages khugepaged made meanwhile, of whatever process; None: not known."""
        less = self.less("collapsed")
        return None if less is None else max(0, -less)

    @property
    def collapsed_bytes(self) -> int:
        """The most that these brought in: so many pages may be missing of each, and hugetlbfs has none."""
        if all(region.kind.is_hugetlb for region in self.regions):
            return 0
        missing = self.machine.khugepaged_max_ptes_none
        each = self.huge_bytes if missing is None else missing * self._page_bytes
        return (self.collapsed or 0) * min(each, self.huge_bytes)

    @property
    def merged_bytes(self) -> int:
        """What of the process KSM had merged: to unmap a page frees nothing while another user is left."""
        merged = max(self.before.merged_pages or 0, self.after.merged_pages or 0)
        return merged * self._page_bytes if self.kinds & OWN_KINDS else 0

    @property
    def unswapped_bytes(self) -> int:
        """How much less of the process's own memory is in swap: given back there, or brought in."""
        return max(0, self.less("swap_bytes") or 0) if self.kinds & OWN_KINDS else 0

    @property
    def cached_bytes(self) -> int:
        """Of that, what may have been in memory still, and became free there; all where it is not known."""
        cached = self.before.swap_cached_bytes
        return self.unswapped_bytes if cached is None else min(self.unswapped_bytes, cached)

    @property
    def swapped_in_bytes(self) -> int:
        """Of the same, what may have been brought in: for KVM a kernel thread does it, by its own faults."""
        less = self.less("swapped_in_pages")
        brought_in = self.unswapped_bytes if less is None else max(0, -less) * self._page_bytes
        return min(self.unswapped_bytes, brought_in)

    @property
    def may_be_unswapped_bytes(self) -> int:
        """The same of files behind shared memory, at the most: what they take may be in memory or in swap."""
        files = [region for region in self.regions if region.kind.is_shared and not region.kind.is_hugetlb]
        return max(0, self.less("swap_used_bytes") or 0) if files else 0

    def less(self, field: str) -> int | None:
        """How much less the second reading has of something."""
        return less_by(getattr(self.before, field), getattr(self.after, field))


def less_by(before: int | None, after: int | None) -> int | None:
    """How much less there is; None where either is not known."""
    return None if before is None or after is None else before - after

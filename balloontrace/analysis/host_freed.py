# SPDX-License-Identifier: GPL-2.0-or-later
"""Did the host get memory back: from readings around some calls, what they asked for, and what the memory is.

What became free lies between two bounds. What a process holds less is the one: it takes pages back
meanwhile, by faults or as khugepaged fills its huge pages, so that more may have become free. What others may
still hold of that is taken off the other bound. A verdict is given only where both bounds agree on it.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from balloontrace.analysis.host_readings import HostReading
from balloontrace.analysis.host_regions import MemoryKind, Region
from balloontrace.analysis.host_sentences import explain_freed
from balloontrace.format.vocabulary import Call
from balloontrace.results.host_memory import Freed, Reason, Verdict
from balloontrace.results.recording_header import Machine

PAGE_BYTES = 4096
HUGE_BYTES = 2 << 20  # of transparent huge pages, where a recording does not tell
# A tenth of what was asked for is the least that counts as a part, nine tenths are all of it.
_PART, _HALF, _WHOLE = 0.1, 0.5, 0.9
_OWN = frozenset({MemoryKind.ANONYMOUS, MemoryKind.PRIVATE_FILE})
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
        return bool(self.kinds) and self.kinds <= _OWN

    @property
    def off_bytes(self) -> int:
        """By how much the kernel's counts may be off."""
        count = max(self.machine.cpus or 1, 1)
        return max(_PAGES_APART, _PAGES_APART_BY_CPU * count) * count * PAGE_BYTES

    @property
    def has_child(self) -> bool:
        """Whether a child has all that the process had."""
        had = self.before.anon_bytes or 0
        return self.after.child_bytes >= _WHOLE * had > 0

    @property
    def pinned_bytes(self) -> int:
        """What is pinned for devices: what is counted as such, and what is locked without mlock."""
        readings = (self.before, self.after)
        locked = max(each.locked_bytes or 0 for each in readings) - self.mlocked_bytes
        return max(each.pinned_bytes or 0 for each in readings) + max(0, locked)

    @property
    def huge_bytes(self) -> int:
        """How large a transparent huge page is."""
        return self.machine.thp_bytes or HUGE_BYTES

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

    def less(self, field: str) -> int | None:
        """How much less the second reading has of something."""
        values = getattr(self.before, field), getattr(self.after, field)
        return _less(*values)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """How much became free, and what it rests on."""

    resident: int | None  # the process or its files hold less by so much
    group: int | None
    least: int | None
    most: int | None


def judge(asked: Asked, beside: Beside | None, regions: Sequence[Region]) -> Freed:
    """The verdict on some calls that named these regions; without `beside` there are no readings."""
    bounds = _bound(asked, beside) if beside else None
    verdict, reason = _decide(asked, beside, bounds, regions)
    freed = Freed(
        verdict,
        None if asked.sampled else asked.count,
        None if asked.sampled else asked.errors,
        reason,
        memory=" and ".join(sorted({region.kind.value for region in regions})) or None,
        asked_bytes=asked.bytes,
        least_bytes=bounds.least if bounds else None,
        most_bytes=bounds.most if bounds else None,
        resident_bytes=bounds.resident if bounds else None,
        group_bytes=bounds.group if bounds else None,
        page_bytes=max((region.page_bytes or 0 for region in regions), default=0) or None,
        huge_pages_split=asked.huge_pages_split,
        huge_pages_collapsed=beside.collapsed if beside else None,
        from_ns=beside.before.at_ns if beside else None,
        until_ns=beside.after.began_ns if beside else None,
    )
    return replace(freed, sentence=explain_freed(freed))


def _decide(
    asked: Asked, beside: Beside | None, bounds: _Bounds | None, regions: Sequence[Region]
) -> tuple[Verdict, Reason | None]:
    if asked.count and asked.errors >= _WHOLE * asked.count:
        return Verdict.NOTHING, _why_failed(asked, regions)
    if asked.calls.get(Call.MADVISE_FREE, 0) == asked.count > 0:
        return Verdict.LATER, None
    if asked.bytes is None or _hides_calls(asked, regions):
        return Verdict.UNKNOWN, Reason.SAMPLED
    if not regions:
        return Verdict.UNKNOWN, Reason.NO_REGION
    if _is_too_large(asked, regions):
        return Verdict.NOTHING, Reason.HUGETLB
    if beside is None or bounds is None or bounds.least is None or bounds.most is None:
        return Verdict.UNKNOWN, Reason.NO_READING
    # Of calls that were sampled some may have been others, which the files show then.
    seems_unmapped = asked.only_unmaps and not (asked.sampled and bounds.most > _PART * asked.bytes)
    if all(kind.is_shared for kind in beside.kinds) and seems_unmapped:
        return (Verdict.NOTHING, Reason.SHARED) if _in_files(beside) else _untouched(asked, beside)
    if asked.bytes * _PART <= beside.off_bytes:
        return Verdict.UNKNOWN, Reason.TOO_SMALL
    return _weigh(asked, asked.bytes, beside, bounds.least, bounds.most, bounds.resident or 0)


def _weigh(
    asked: Asked, bytes_: int, beside: Beside, least: int, most: int, resident: int
) -> tuple[Verdict, Reason | None]:
    """Where between nothing and all that was asked for the bounds lie."""
    if most <= _PART * bytes_:
        reason = _why_nothing(asked, bytes_, beside, resident)
        return _untouched(asked, beside) if reason is None else (Verdict.NOTHING, reason)
    if asked.all_bytes is not None and bytes_ < _WHOLE * asked.all_bytes:
        return Verdict.UNKNOWN, Reason.OTHERS
    if least >= (_WHOLE if most < bytes_ else _HALF) * bytes_:
        return Verdict.FREED, None
    if least > _PART * bytes_ and most < _WHOLE * bytes_:
        return Verdict.PART, None
    # Had it made no huge page, the bounds would be less than half as far apart.
    if beside.collapsed_bytes and beside.collapsed_bytes * 2 >= most - least:
        return Verdict.UNKNOWN, Reason.COLLAPSED
    return Verdict.UNKNOWN, _why_unclear(asked, beside)


def _hides_calls(asked: Asked, regions: Sequence[Region]) -> bool:
    """Whether no sample shows what kind of call it was. Where KVM tells of discards, memory alone may do."""
    in_files = any(region.kind.is_shared for region in regions)
    return asked.sampled and not asked.count and (in_files or not asked.discards)


def _untouched(asked: Asked, beside: Beside) -> tuple[Verdict, Reason | None]:
    """Nothing was there, or calls failed that were sampled: on some memory they do."""
    may_fail = any(region.locked is not False or region.kind.is_hugetlb for region in beside.regions)
    if asked.sampled and not asked.discards and may_fail:
        return Verdict.NOTHING, Reason.UNTOUCHED_OR_FAILED
    return Verdict.UNTOUCHED, None


def _why_failed(asked: Asked, regions: Sequence[Region]) -> Reason:
    """Of memory that is locked, and of a part of a huge page, madvise(2) says EINVAL."""
    if asked.last_errno == errno.EINVAL:
        if any(region.locked for region in regions):
            return Reason.LOCKED
        if any(region.kind.is_hugetlb for region in regions):
            return Reason.HUGETLB
    return Reason.FAILED


def _is_too_large(asked: Asked, regions: Sequence[Region]) -> bool:
    """Whether the pages of hugetlbfs are larger than each call on average: a part of one frees none."""
    done = asked.discards or 0 if asked.sampled else asked.count - asked.errors
    if not asked.bytes or done <= 0:
        return False
    each = asked.bytes / done
    return all(region.kind.is_hugetlb and each < (region.page_bytes or 0) for region in regions)


def _in_files(beside: Beside) -> bool:
    """Whether there is more in the files behind shared memory than what counts may be off by."""
    files = {region.file or "" for region in beside.regions}
    return sum(beside.before.allocated_bytes.get(file, 0) for file in files) > beside.off_bytes


def _bound(asked: Asked, beside: Beside) -> _Bounds:
    resident = _less_resident(beside)
    group = beside.less("charged_bytes") if beside.is_own else None
    taken = _taken(beside)
    freed = resident if group is None else group
    if freed is None or taken is None:
        return _Bounds(resident, group, None, None)
    most = max(0, freed) + taken
    if group is not None:
        return _Bounds(resident, group, max(0, freed), most)
    held = _may_be_held(asked, beside, freed)
    has_all = beside.is_own and (
        beside.has_child or beside.pinned_bytes >= _WHOLE * (beside.before.anon_bytes or 1)
    )
    return _Bounds(resident, group, max(0, freed - held), taken if has_all else most)


def _less_resident(beside: Beside) -> int | None:
    """How much less the process, or its files, hold of the kinds that were named."""
    changes: list[int | None] = []
    if beside.kinds & _OWN:
        swapped = beside.less("swap_bytes") or 0
        changes.append(_sum(beside.less("anon_bytes"), swapped))
    if MemoryKind.HUGETLB in beside.kinds:
        changes.append(beside.less("hugetlb_bytes"))
    before, after = beside.before.allocated_bytes, beside.after.allocated_bytes
    files = {region.file for region in beside.regions if region.kind.is_shared and region.file}
    changes += [_less(before.get(file), after.get(file)) for file in files]
    return _sum(*changes)


def _less(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else before - after


def _sum(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _taken(beside: Beside) -> int | None:
    """The most that page faults, and khugepaged, can have brought in meanwhile."""
    more, huge = beside.less("faults"), beside.less("huge_faults")
    if more is None:
        return None
    faults = max(0, -more)
    may_be_huge = any(region.huge_bytes or region.kind.is_hugetlb for region in beside.regions)
    known = min(faults, max(0, -huge)) if huge is not None else faults * may_be_huge
    pages = [region.page_bytes or 0 for region in beside.regions if region.kind.is_hugetlb]
    by_faults = (faults - known) * beside.fault_bytes + known * max([beside.huge_bytes, *pages])
    return by_faults + beside.collapsed_bytes


def _may_be_held(asked: Asked, beside: Beside, resident: int) -> int:
    """Of what the process holds less, the most that may still be in use by others."""
    held = beside.pinned_bytes
    if beside.kinds & _OWN:
        held += beside.after.child_bytes + sum(region.shared_bytes or 0 for region in beside.regions)
        split = asked.huge_pages_split
        size_bytes = beside.huge_bytes
        unknown = _may_be_split(asked, beside)
        left = resident if unknown else _left_in_huge_pages(split or 0, resident, size_bytes)
        held += min(left, _partly_mapped(beside, resident))
    return min(max(resident, 0), held)


def _may_be_split(asked: Asked, beside: Beside) -> bool:
    """Whether there are huge pages, or may be, of which nobody counted how many were split."""
    return asked.huge_pages_split is None and any(region.huge_bytes != 0 for region in beside.regions)


def _left_in_huge_pages(split: int, resident: int, size_bytes: int) -> int:
    """How much may be kept by huge pages of which some part is still in use.

    So many were split. If all of them were given back whole, all of it is free. What is missing to that may
    be spread over as many of them.
    """
    missing = split * size_bytes - resident
    if missing <= 0:
        return 0
    kept = min(split, missing // PAGE_BYTES + 1)
    return max(0, min(resident, kept * size_bytes - missing))


def _partly_mapped(beside: Beside, resident: int) -> int:
    """What huge pages keep of which some part is in use, at the most: all that there are on the machine.

    Those that are being swapped are not counted among them.
    """
    mapped = beside.after.partly_mapped_bytes
    swaps = any(each.swap_bytes != 0 for each in (beside.before, beside.after))
    return resident if mapped is None or mapped < 0 or swaps else min(mapped, resident)


def _why_nothing(asked: Asked, bytes_: int, beside: Beside, resident: int) -> Reason | None:
    """Why nothing became free; None where a tenth of what was asked for, at most, was there."""
    least = max(beside.off_bytes, _PART * bytes_)
    if beside.kinds == {MemoryKind.PRIVATE_FILE} and resident <= least:
        return Reason.PRIVATE_FILE if (beside.less("mapped_bytes") or 0) > least else None
    if resident <= least:
        return None
    if beside.has_child:
        return Reason.CHILD
    if beside.pinned_bytes >= _WHOLE * resident:
        return Reason.PINNED
    if _may_be_split(asked, beside):
        return Reason.HUGE_IN_USE if (beside.after.partly_mapped_bytes or 0) >= resident else Reason.UNCLEAR
    return Reason.HUGE_IN_USE if asked.huge_pages_split else Reason.HELD


def _why_unclear(asked: Asked, beside: Beside) -> Reason:
    """What it is that makes the bounds wide."""
    if asked.huge_pages_split or (_may_be_split(asked, beside) and _partly_mapped(beside, beside.huge_bytes)):
        return Reason.HUGE_IN_USE
    return Reason.PINNED if beside.pinned_bytes else Reason.UNCLEAR

# SPDX-License-Identifier: GPL-2.0-or-later
"""Did the host get memory back: from readings around some calls, what they asked for, and what the memory is.

What became free lies between two bounds. What a process holds less is the one: it takes pages back
meanwhile, by faults or as khugepaged fills its huge pages, so that more may have become free. What others may
still hold of that is taken off the other bound. A verdict is given only where both bounds agree on it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace

from balloontrace.analysis.host_evidence import OWN_KINDS, PAGE_BYTES, WHOLE, Asked, Beside, less_by
from balloontrace.analysis.host_regions import MemoryKind, Region
from balloontrace.analysis.host_sentences import explain_freed
from balloontrace.format.vocabulary import Call
from balloontrace.results.host_memory import Freed, Reason, Verdict

# Of what was asked for a tenth is the least that counts as a part.
_PART, _HALF = 0.1, 0.5


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
        swap_bytes=_freed_of_swap(beside) if beside else None,
        from_ns=beside.before.at_ns if beside else None,
        until_ns=beside.after.began_ns if beside else None,
    )
    return replace(freed, sentence=explain_freed(freed))


def _decide(
    asked: Asked, beside: Beside | None, bounds: _Bounds | None, regions: Sequence[Region]
) -> tuple[Verdict, Reason | None]:
    if asked.count and asked.errors >= WHOLE * asked.count:
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
    if asked.all_bytes is not None and bytes_ < WHOLE * asked.all_bytes:
        return Verdict.UNKNOWN, Reason.OTHERS
    if least >= (WHOLE if most < bytes_ else _HALF) * bytes_:
        return Verdict.FREED, None
    if least > _PART * bytes_ and most < WHOLE * bytes_:
        return Verdict.PART, None
    return Verdict.UNKNOWN, _why_unclear(asked, beside, most - least)


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
    most += beside.cached_bytes
    held = _may_be_held(asked, beside, freed)
    has_all = beside.is_own and (
        beside.has_child or beside.pinned_bytes >= WHOLE * (beside.before.anon_bytes or 1)
    )
    return _Bounds(resident, group, max(0, freed - held), taken if has_all else most)


def _less_resident(beside: Beside) -> int | None:
    """How much less the process, or its files, hold of the kinds that were named."""
    changes: list[int | None] = []
    if beside.kinds & OWN_KINDS:
        swapped_out = max(0, -(beside.less("swap_bytes") or 0))
        changes.append(_sum(beside.less("anon_bytes"), -swapped_out))
    if MemoryKind.HUGETLB in beside.kinds:
        changes.append(beside.less("hugetlb_bytes"))
    before, after = beside.before.allocated_bytes, beside.after.allocated_bytes
    files = {region.file for region in beside.regions if region.kind.is_shared and region.file}
    changes += [less_by(before.get(file), after.get(file)) for file in files]
    return _sum(*changes)


def _sum(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _taken(beside: Beside) -> int | None:
    """The most that page faults, khugepaged and others can have brought in meanwhile."""
    more, huge = beside.less("faults"), beside.less("huge_faults")
    if more is None:
        return None
    faults = max(0, -more)
    may_be_huge = any(region.huge_bytes or region.kind.is_hugetlb for region in beside.regions)
    known = min(faults, max(0, -huge)) if huge is not None else faults * may_be_huge
    pages = [region.page_bytes or 0 for region in beside.regions if region.kind.is_hugetlb]
    by_faults = (faults - known) * beside.fault_bytes + known * max([beside.huge_bytes, *pages])
    return by_faults + beside.collapsed_bytes + beside.swapped_in_bytes


def _freed_of_swap(beside: Beside) -> int | None:
    """How much of swap became free at the least: the rest may have been brought in."""
    taken = _taken(beside)
    return None if taken is None else max(0, beside.unswapped_bytes - taken)


def _may_be_held(asked: Asked, beside: Beside, resident: int) -> int:
    """Of what the process holds less, the most that may still be in use by others."""
    held = beside.pinned_bytes + beside.merged_bytes + beside.may_be_unswapped_bytes
    if beside.kinds & OWN_KINDS:
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
        return Reason.SWAPPED if beside.unswapped_bytes > least else None
    if beside.has_child:
        return Reason.CHILD
    if beside.pinned_bytes >= WHOLE * resident:
        return Reason.PINNED
    if beside.merged_bytes >= WHOLE * resident:
        return Reason.MERGED
    if _may_be_split(asked, beside):
        return Reason.HUGE_IN_USE if (beside.after.partly_mapped_bytes or 0) >= resident else Reason.UNCLEAR
    return Reason.HUGE_IN_USE if asked.huge_pages_split else Reason.HELD


def _why_unclear(asked: Asked, beside: Beside, width: int) -> Reason:
    """What it is that makes the bounds so wide: without it they were less than half as far apart."""
    causes = (
        (Reason.COLLAPSED, beside.collapsed_bytes),
        (Reason.MERGED, beside.merged_bytes),
        (Reason.SWAPPED, beside.cached_bytes + beside.swapped_in_bytes + beside.may_be_unswapped_bytes),
    )
    for reason, bytes_ in causes:
        if 0 < bytes_ >= width / 2:
            return reason
    if asked.huge_pages_split or (_may_be_split(asked, beside) and _partly_mapped(beside, beside.huge_bytes)):
        return Reason.HUGE_IN_USE
    return Reason.PINNED if beside.pinned_bytes else Reason.UNCLEAR

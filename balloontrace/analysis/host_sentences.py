# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the host got its memory back, and what it costs to take it again: one sentence each."""

from __future__ import annotations

from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES
from balloontrace.results.host_memory import Freed, Reason, TakenBack, Verdict
from balloontrace.units import (
    format_bytes,
    format_count,
    format_duration_ns,
    format_share,
    format_things,
)

_WHY = {
    Reason.SHARED: "MADV_DONTNEED only unmaps shared memory, and the file behind it keeps the pages",
    Reason.PRIVATE_FILE: "the pages are those of a mapped file, which the kernel keeps in its page cache",
    Reason.HUGE_IN_USE: "each huge page is partly in use, so the kernel keeps it until memory is short",
    Reason.LOCKED: "the memory is locked by mlock, so the kernel refuses to unmap it",
    Reason.PINNED: "the memory is pinned for a device (VFIO, io_uring)",
    Reason.CHILD: "a child process of it still holds the pages",
    Reason.MERGED: "KSM has merged the pages with others of the same content, which are still in use",
    Reason.HELD: "somebody else still holds the pages",
    Reason.UNTOUCHED_OR_FAILED: "the memory had not been touched before, or the calls failed, which samples "
    "do not show",
    Reason.UNCLEAR: "huge pages of which a part is in use, or somebody else, still hold the pages",
}
_UNKNOWN = {
    Reason.NO_REGION: "the recording does not tell which memory the calls named",
    Reason.NO_READING: "the recording has no reading of the process before and after it",
    Reason.TOO_SMALL: "it asked for less than what the kernel's counts may be off by",
    Reason.OTHERS: "other discards of the process came meanwhile",
    Reason.SAMPLED: "calls were sampled, so that what they named was not counted",
    Reason.HUGE_IN_USE: "huge pages were split, and a part still in use keeps all of one",
    Reason.PINNED: "some of its memory is pinned for a device",
    Reason.MERGED: "KSM has merged pages of it with others of the same content",
    Reason.SWAPPED: "some of it was in swap, or may have been",
    Reason.UNCLEAR: "it took memory back meanwhile, or others hold some of it",
}


# Less than so much of an operation's time and pages does not stand out.
_NOTED_SHARE = 0.01


def name_what_is_known(
    freed: Freed | None, taken: TakenBack | None, wall_ns: int | None, pages: int | None
) -> tuple[str, ...]:
    """What stands out of an operation's memory on the host, without what the recording does not tell."""
    known = freed if freed is not None and freed.verdict is not Verdict.UNKNOWN else None
    price = taken if taken is not None and _stands_out(taken, wall_ns, pages) else None
    sentences = (each.sentence for each in (known, price) if each is not None)
    return tuple(sentence for sentence in sentences if sentence is not None)


def _stands_out(taken: TakenBack, wall_ns: int | None, pages: int | None) -> bool:
    """Whether what came back took a part of the operation's time, or is a part of its pages, that counts."""
    if taken.fault_ns is None and taken.bytes is None:
        return True
    least_bytes = _NOTED_SHARE * (pages or 0) * BALLOON_PAGE_BYTES
    return (taken.fault_ns or 0) >= _NOTED_SHARE * (wall_ns or 0) or (taken.bytes or 0) >= least_bytes


def explain_freed(freed: Freed) -> str:
    """What became free, or why nothing did, or why that is not known."""
    asked = format_bytes(freed.asked_bytes)
    match freed.verdict:
        case Verdict.FREED | Verdict.PART:
            return f"{_range(freed)} of {asked} became free for the host{_and_swap(freed)}"
        case Verdict.UNTOUCHED if freed.least_bytes:
            return (
                f"{_range(freed)} of {asked} became free for the host: the rest had not been touched before"
            )
        case Verdict.UNTOUCHED:
            return f"nothing became free for the host: none of {asked} had been touched before"
        case Verdict.LATER:
            return f"{asked} become free for the host when it needs memory (MADV_FREE)"
        case Verdict.NOTHING:
            return f"nothing became free for the host: {_why(freed)}"
        case _:
            known = ""
            if freed.least_bytes is not None and freed.most_bytes is not None:
                most = min(freed.most_bytes, freed.asked_bytes or freed.most_bytes)
                known = f" ({format_bytes(freed.least_bytes)} to {format_bytes(most)})"
            return f"how much of {asked} became free for the host is not known{known}: {_why_unknown(freed)}"


def explain_taken_back(taken: TakenBack) -> str | None:
    """What the process took back by page faults, its guest's among them; None where nothing came back.

    khugepaged brings pages back without a fault, of whatever process it makes huge pages.
    """
    collapsed, back = taken.huge_pages_collapsed, ""
    until = f"until {format_duration_ns(taken.after_ns)} after it"
    if taken.bytes:
        back = f": {format_bytes(taken.bytes)} came back"
    made = f"khugepaged made {format_things(collapsed, 'huge page')} on this machine"
    if not taken.faults:
        return f"{made} {until}{back}" if collapsed and back else None
    faults = format_things(taken.faults, "page fault")
    took = f", {format_duration_ns(taken.fault_ns)} in the kernel" if taken.fault_ns is not None else ""
    huge = f", {format_count(taken.huge_faults)} of them huge" if taken.huge_faults else ""
    beside = f", and {made}" if collapsed else ""
    return f"{faults} {until}{took}{huge}{beside}{back}"


def _range(freed: Freed) -> str:
    """`512 MiB`, or `at least 500 MiB` where more is possible."""
    least, most = freed.least_bytes or 0, freed.most_bytes or 0
    shown = format_bytes(min(least, freed.asked_bytes or least))
    return shown if most <= least else f"at least {shown}"


def _and_swap(freed: Freed) -> str:
    """What was in swap stands out from a hundredth of what was asked for on."""
    swap = freed.swap_bytes or 0
    stands_out = swap > _NOTED_SHARE * (freed.asked_bytes or 0)
    return f", and {format_bytes(swap)} of swap" if stands_out else ""


def _why_unknown(freed: Freed) -> str:
    match freed.reason:
        case Reason.HUGE_IN_USE if freed.huge_pages_split is None:
            return "huge pages may have been split, and a part still in use keeps all of one"
        case Reason.COLLAPSED:
            made = format_things(freed.huge_pages_collapsed, "huge page")
            return f"khugepaged made {made} meanwhile, and may have filled again what had been freed of them"
        case _:
            return _UNKNOWN.get(freed.reason or Reason.UNCLEAR, "")


def _why(freed: Freed) -> str:
    if freed.reason is Reason.HUGETLB:
        return f"a call named less than a page of hugetlbfs, which has {format_bytes(freed.page_bytes)}"
    if freed.reason is Reason.FAILED:
        calls = freed.calls or 0
        share = (freed.errors or 0) / calls if calls else None
        return f"{format_share(share)} of {format_things(calls, 'call')} failed"
    if freed.reason is Reason.SWAPPED:
        return f"the memory was in swap, of which {format_bytes(freed.swap_bytes)} became free"
    return _WHY.get(freed.reason or Reason.HELD, "")

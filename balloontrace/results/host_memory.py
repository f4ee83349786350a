# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host's memory did while a process served its balloon, as plain frozen data; None: not measured."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """Whether the host got memory back, in the words of every output."""

    FREED = "freed"
    PART = "freed in part"
    UNTOUCHED = "not touched before"
    NOTHING = "freed nothing"
    LATER = "freed later"  # when the kernel needs it
    UNKNOWN = "unknown"


class Reason(enum.StrEnum):
    """Why nothing became free, or why that is not known."""

    SHARED = "shared memory"  # MADV_DONTNEED unmaps it; the file keeps it
    PRIVATE_FILE = "private mapping of a file"  # the same, of what was never written to
    HUGETLB = "hugetlb page larger than the discard"
    HUGE_IN_USE = "huge page partly in use"
    MERGED = "merged with other pages"  # by KSM
    SWAPPED = "in swap"
    COLLAPSED = "huge pages made meanwhile"  # by khugepaged, which fills what is missing of them
    LOCKED = "locked"
    PINNED = "pinned"
    CHILD = "held by a child process"
    HELD = "held by another user"
    FAILED = "calls failed"
    NO_REGION = "memory not known"
    NO_READING = "no reading beside it"
    TOO_SMALL = "smaller than what the kernel's counts may be off by"
    OTHERS = "other discards meanwhile"
    SAMPLED = "bytes not counted"
    UNTOUCHED_OR_FAILED = "not touched before, or failed"
    UNCLEAR = "within wide bounds"


@dataclass(frozen=True, slots=True)
class Freed:
    """What became free for the calls of one operation, between two readings of the process.

    `calls` and `errors` are None where calls were sampled. `memory` is the kind of memory that the calls
    named. At least `least_bytes` became free, at most `most_bytes`. They differ by what the process may have
    taken back meanwhile, and by what others may hold. `resident_bytes` is how much less the process had
    mapped or its files took; `group_bytes` how much less its control group is charged for, where nobody else
    is in that. Of swap at least `swap_bytes` became free. khugepaged made `huge_pages_collapsed` on the
    machine. `from_ns` and `until_ns` are the readings.
    """

    verdict: Verdict
    calls: int | None
    errors: int | None
    reason: Reason | None = None
    memory: str | None = None
    asked_bytes: int | None = None
    least_bytes: int | None = None
    most_bytes: int | None = None
    resident_bytes: int | None = None
    group_bytes: int | None = None
    page_bytes: int | None = None
    huge_pages_split: int | None = None
    huge_pages_collapsed: int | None = None
    swap_bytes: int | None = None
    from_ns: int | None = None
    until_ns: int | None = None
    sentence: str | None = None


@dataclass(frozen=True, slots=True)
class TakenBack:
    """Page faults of the process, its guest's among them, from an operation on until some seconds after it.

    `until_ns` is the last reading of these, `after_ns` from the operation's end to it. `bytes` is how much
    more the process holds; None where it holds less. `fault_ns` is the time inside `traced_faults`, of
    which `huge_faults` were answered by a huge page; the three are None where faults were not traced.
    Meanwhile khugepaged made `huge_pages_collapsed` on the machine, and filled them without a fault.
    """

    from_ns: int
    until_ns: int
    after_ns: int
    faults: int | None = None
    major_faults: int | None = None
    traced_faults: int | None = None
    huge_faults: int | None = None
    fault_ns: int | None = None
    huge_pages_collapsed: int | None = None
    bytes: int | None = None
    sentence: str | None = None


@dataclass(frozen=True, slots=True)
class DiscardPeriod:
    """Buffers of one kind, served with less than a second between them: an operation, as a host sees it.

    `what` is `gives back` or `wants back`, by the calls.
    """

    what: str
    started_ns: int
    ended_ns: int
    buffers: int
    freed: Freed | None
    taken_back: TakenBack | None


@dataclass(frozen=True, slots=True)
class HostRegion:
    """Memory of the process that its calls named, when the recording began and when it ended.

    `kind` is e.g. `anonymous` or `shared file`. `huge_before_bytes` were in transparent huge pages.
    """

    kind: str
    name: str | None
    bytes: int
    page_bytes: int | None
    locked: bool | None
    resident_before_bytes: int | None
    resident_after_bytes: int | None
    huge_before_bytes: int | None
    huge_after_bytes: int | None

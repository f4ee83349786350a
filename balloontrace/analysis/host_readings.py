# SPDX-License-Identifier: GPL-2.0-or-later
"""Readings of the process that serves a balloon: what it held at one time, and how many faults it had had."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from balloontrace.analysis.metadata import Json, integer, mapping, text
from balloontrace.format.recording import Recording

_MOST_FILES = 64
_MOST_PIDS = 64
_STAT = ("file", "shmem", "kernel", "sock")


@dataclass(frozen=True, slots=True)
class HostReading:
    """What is in it was so at some time between `began_ns` and `at_ns`; None: not known.

    `allocated_bytes` is by file. `charged_bytes` is what the control group is charged for memory of processes
    and for memory files; None where a process is in the group that is no child of this one. `child_bytes` is
    the most that a child holds. `partly_mapped_bytes` are the machine's huge pages of which a part is in use;
    `collapsed` are those that khugepaged has made since the machine was booted. `merged_pages` of the process
    KSM has merged with others. `swap_bytes` has what a process holds in swap, without its memory files;
    `swap_used_bytes` all of the machine, of which `swap_cached_bytes` are in memory still;
    so many pages were `swapped_in_pages` since it was booted.
    """

    began_ns: int
    at_ns: int
    anon_bytes: int | None
    swap_bytes: int | None
    mapped_bytes: int | None
    hugetlb_bytes: int | None
    locked_bytes: int | None
    pinned_bytes: int | None
    allocated_bytes: Mapping[str, int]
    charged_bytes: int | None
    child_bytes: int
    faults: int | None
    major_faults: int | None
    traced_faults: int | None
    huge_faults: int | None
    fault_ns: int | None
    partly_mapped_bytes: int | None
    collapsed: int | None
    merged_pages: int | None
    swap_used_bytes: int | None
    swap_cached_bytes: int | None
    swapped_in_pages: int | None


class HostReadings:
    """Readings in order of time, one after the other."""

    def __init__(self, found: Iterable[HostReading]) -> None:
        """Of two that overlap the first one is kept: one recorder takes them in turn."""
        self._found: list[HostReading] = []
        for each in sorted(found, key=lambda each: each.at_ns):
            if not self._found or each.began_ns >= self._found[-1].at_ns:
                self._found.append(each)

    def __bool__(self) -> bool:
        return bool(self._found)

    def __iter__(self) -> Iterator[HostReading]:
        return iter(self._found)

    def last_before(self, at_ns: int) -> HostReading | None:
        """The last one that shows nothing of what came after this time."""
        place = bisect_right(self._found, at_ns, key=lambda each: each.at_ns)
        return self._found[place - 1] if place else None

    def first_after(self, at_ns: int) -> HostReading | None:
        """The first one that shows all that was until this time."""
        place = bisect_left(self._found, at_ns, key=lambda each: each.began_ns)
        return self._found[place] if place < len(self._found) else None


def parse_host_readings(recording: Recording) -> HostReadings:
    """Readings of the process; none in recordings before format 1.6."""
    found = (_parse(row) for row in recording.readings)
    return HostReadings(each for each in found if each is not None)


def _parse(row: Json) -> HostReading | None:
    began_ns, at_ns = integer(row, "began_ns"), integer(row, "monotonic_ns")
    names = ("memory", "faults", "traced_faults", "swap")
    memory, faults, traced, swap = (mapping(row, name) for name in names)
    if began_ns is None or at_ns is None or at_ns < began_ns or not memory:
        return None
    children = mapping(row, "children")
    held = [integer(children, pid) or 0 for pid in list(children)[:_MOST_PIDS]]
    minor, major = integer(faults, "minor"), integer(faults, "major")
    return HostReading(
        began_ns,
        at_ns,
        anon_bytes=integer(memory, "rss_anon_bytes"),
        swap_bytes=integer(memory, "swap_bytes"),
        mapped_bytes=_sum(integer(memory, "rss_shmem_bytes"), integer(memory, "rss_file_bytes")),
        hugetlb_bytes=integer(memory, "hugetlb_bytes"),
        locked_bytes=integer(memory, "locked_bytes"),
        pinned_bytes=integer(memory, "pinned_bytes"),
        allocated_bytes=_allocated(memory),
        charged_bytes=_charged(mapping(row, "cgroup"), children),
        child_bytes=max(held, default=0),
        faults=_sum(minor, major),
        major_faults=major,
        traced_faults=integer(traced, "faults"),
        huge_faults=integer(traced, "huge"),
        fault_ns=integer(traced, "fault_ns"),
        partly_mapped_bytes=integer(row, "partly_mapped_bytes"),
        collapsed=integer(row, "collapsed"),
        merged_pages=integer(row, "merged_pages"),
        swap_used_bytes=integer(swap, "used_bytes"),
        swap_cached_bytes=integer(swap, "cached_bytes"),
        swapped_in_pages=integer(swap, "brought_in_pages"),
    )


def _sum(*values: int | None) -> int | None:
    """None unless all are known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _allocated(memory: Json) -> dict[str, int]:
    value = memory.get("shared_files")
    files = (
        [each for each in value[:_MOST_FILES] if isinstance(each, dict)] if isinstance(value, list) else []
    )
    pairs = ((text(each, "file"), integer(each, "allocated_bytes")) for each in files)
    return {file: size for file, size in pairs if file and size is not None}


def _charged(group: Json, children: Json) -> int | None:
    current, stat = integer(group, "current_bytes"), mapping(group, "stat")
    known = {name: value for name in _STAT if (value := integer(stat, name)) is not None}
    others = group.get("others")
    if current is None or len(known) < len(_STAT) or not isinstance(others, list):
        return None
    if any(str(pid) not in children for pid in others[:_MOST_PIDS]):
        return None
    return max(0, current - (known["file"] - known["shmem"]) - known["kernel"] - known["sock"])

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which memory of a process its calls named: regions of its addresses, as they were at both ends."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from balloontrace.analysis.columns import Column
from balloontrace.analysis.metadata import Json, boolean, integer, text
from balloontrace.results.host_memory import HostRegion

_MOST_REGIONS = 64
_MEMORY_FILES = ("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV")  # noqa: S108  (names, nothing is made there)
NO_REGION = -1


class MemoryKind(enum.StrEnum):
    """What a discard can mean for a region."""

    ANONYMOUS = "anonymous"
    SHARED = "shared memory"
    SHARED_FILE = "shared file"
    PRIVATE_FILE = "private mapping of a file"
    HUGETLB = "hugetlbfs"
    SHARED_HUGETLB = "shared hugetlbfs"

    @property
    def is_shared(self) -> bool:
        """Whether a file keeps what is unmapped."""
        return self in (MemoryKind.SHARED, MemoryKind.SHARED_FILE, MemoryKind.SHARED_HUGETLB)

    @property
    def is_hugetlb(self) -> bool:
        """Whether its pages go back to a pool of their own."""
        return self in (MemoryKind.HUGETLB, MemoryKind.SHARED_HUGETLB)


@dataclass(frozen=True, slots=True)
class Region:
    """A region as it was at one end of the recording; None: not looked at."""

    start: int
    end: int
    kind: MemoryKind
    name: str
    file: str | None
    page_bytes: int | None
    locked: bool | None
    resident_bytes: int | None
    shared_bytes: int | None
    huge_bytes: int | None


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions by address; `after` has how each was at the end, by its start.

    `has_all` large ones: a process may have more than a recording keeps.
    """

    found: tuple[Region, ...]
    after: Mapping[int, Region]
    has_all: bool = False

    def of_addresses(self, address: Column) -> Column:
        """By address the place of the region it is in; NO_REGION where that is not known."""
        if not self.found:
            return np.full(len(address), NO_REGION, dtype=np.int64)
        starts = np.array([region.start for region in self.found], dtype=np.int64)
        ends = np.array([region.end for region in self.found], dtype=np.int64)
        place = np.searchsorted(starts, address, side="right") - 1
        inside = (address > 0) & (place >= 0) & (address < ends[np.maximum(place, 0)])
        return np.where(inside, place, NO_REGION)

    @property
    def mlocked_bytes(self) -> int:
        """How much of the process is locked by mlock."""
        return sum(region.end - region.start for region in self.found if region.locked)

    def of_files(self, names: Iterable[str]) -> set[int]:
        """Places of the regions that files of these names are mapped in."""
        wanted = set(names)
        return {place for place, region in enumerate(self.found) if region.file and region.name in wanted}


def parse_regions(metadata: Json, end: Json) -> Regions:
    """Regions of both ends; of one that is there at both, the first. None in recordings before format 1.6."""
    sides = [_parse(table) for table in (metadata, end)]
    before, after = ({each.start: each for each in side} for side in sides)
    both = sorted((after | before).values(), key=lambda region: region.start)
    apart: list[Region] = []
    for region in both:
        if not apart or region.start >= apart[-1].end:
            apart.append(region)
    return Regions(tuple(apart), after, all(0 < len(side) < _MOST_REGIONS for side in sides))


def describe_regions(regions: Regions, places: Sequence[int]) -> tuple[HostRegion, ...]:
    """What the report shows of these."""
    return tuple(
        _described(regions.found[place], regions.after.get(regions.found[place].start)) for place in places
    )


def _described(region: Region, after: Region | None) -> HostRegion:
    return HostRegion(
        kind=region.kind,
        name=region.name or None,
        bytes=region.end - region.start,
        page_bytes=region.page_bytes,
        locked=region.locked,
        resident_before_bytes=region.resident_bytes,
        resident_after_bytes=after.resident_bytes if after else None,
        huge_before_bytes=region.huge_bytes,
        huge_after_bytes=after.huge_bytes if after else None,
    )


def _parse(table: Json) -> list[Region]:
    value = table.get("regions")
    rows = (
        [each for each in value[:_MOST_REGIONS] if isinstance(each, dict)] if isinstance(value, list) else []
    )
    return [region for region in map(_parse_region, rows) if region is not None]


def _parse_region(row: Json) -> Region | None:
    start, end = integer(row, "start"), integer(row, "end")
    if start is None or end is None or end <= start:
        return None
    name, file = text(row, "name") or "", text(row, "file")
    return Region(
        start,
        end,
        _kind(row, name, file),
        name,
        file,
        *(integer(row, "page_bytes"), boolean(row, "locked")),
        *(integer(row, f"{what}_bytes") for what in ("rss", "shared", "huge")),
    )


def _kind(row: Json, name: str, file: str | None) -> MemoryKind:
    shared = boolean(row, "shared") is True
    if boolean(row, "hugetlb") is True:
        return MemoryKind.SHARED_HUGETLB if shared else MemoryKind.HUGETLB
    if shared:
        return MemoryKind.SHARED if name.startswith(_MEMORY_FILES) else MemoryKind.SHARED_FILE
    return MemoryKind.ANONYMOUS if file is None else MemoryKind.PRIVATE_FILE

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which discards of a process named memory of its guest, and which its own: what malloc trims, stacks.

KVM's memory slots tell it. Where there are none, the process's mappings tell of small ones alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from balloontrace.analysis.columns import Batches, Column, Mask
from balloontrace.analysis.host_regions import NO_REGION, Regions
from balloontrace.analysis.metadata import Json, integer
from balloontrace.format.vocabulary import BatchFlag

_MOST_SLOTS = 1024  # of eight VMs, in either list
BY_SLOTS, BY_MAPPINGS = "memory slots", "mappings"

_Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class GuestMemory:
    """`slots` are addresses by their first and the one behind the last, in order; None: not known."""

    regions: Regions
    slots: tuple[_Range, ...] | None

    @property
    def told_by(self) -> str:
        """What tells memory of the process's own."""
        return BY_MAPPINGS if self.slots is None else BY_SLOTS

    @property
    def bytes(self) -> int | None:
        """How much the guest has; None where that is not known."""
        return None if self.slots is None else sum(end - start for start, end in self.slots)

    def is_own(self, batches: Batches) -> Mask:
        """Which batches began with a discard of what is surely no memory of the guest."""
        address = batches.int64("address")
        if self.slots is not None:
            return (address > 0) & ~_inside(address, self.slots)
        if not self.regions.has_all:
            return np.zeros(len(batches), dtype=np.bool_)
        return np.asarray((address > 0) & (self.regions.of_addresses(address) == NO_REGION))

    def is_surely_no_send(self, batches: Batches) -> Mask:
        """Which batches never take part in matching.

        What looks like a buffer does: a thread may trim its own memory while it serves one.
        """
        buffer = batches.has(BatchFlag.KICK_SEEN) & batches.has(BatchFlag.DONE_SEEN)
        none = np.zeros(len(batches), dtype=np.bool_)
        return none if self.slots is None else self.is_own(batches) & ~buffer


def parse_guest_memory(metadata: Json, end: Json, regions: Regions) -> GuestMemory:
    """Slots of both ends. Of a VM that began or ended in between, those of one end are known.

    A VM without slots has no memory yet: then they are not known.
    """
    slots = sorted(each for table in (metadata, end) for each in _parse(table.get("memory_slots")))
    return GuestMemory(regions, tuple(_joined(slots)) or None)


def _parse(table: object) -> Iterator[_Range]:
    rows = table[:_MOST_SLOTS] if isinstance(table, list) else []
    for row in rows:
        start, size = (integer(row, name) if isinstance(row, dict) else None for name in ("address", "bytes"))
        if start is not None and size:
            yield start, start + size


def _joined(ranges: list[_Range]) -> Iterator[_Range]:
    """Ranges in order, each address in one of them."""
    end = 0
    for start, until in ranges:
        if until > end:
            yield max(start, end), until
            end = until


def _inside(address: Column, ranges: tuple[_Range, ...]) -> Mask:
    if not ranges:
        return np.zeros(len(address), dtype=np.bool_)
    # A stranger's slots may end beyond 63 bits; addresses of processes are whole numbers as floats too.
    starts, ends = (np.array(each, dtype=np.float64) for each in zip(*ranges, strict=True))
    place = np.searchsorted(starts, address, side="right") - 1
    return (place >= 0) & (address < ends[np.maximum(place, 0)])

# SPDX-License-Identifier: GPL-2.0-or-later
"""The size of each balloon over time, and how fast it grew or shrank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from balloontrace.analysis.operations import NO_OPERATION, FoundOperation, Operations
from balloontrace.analysis.report_operations import device_name
from balloontrace.analysis.work_items import NOT_MEASURED
from balloontrace.export.tracks import Rows, grouped
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES
from balloontrace.results.recording_header import Header
from balloontrace.results.time_line import Counter
from balloontrace.units import rate_bytes_per_s

_MIB_BYTES = 1 << 20
_RATES = 200  # points of the rate in one operation, at most


def balloon_counters(operations: Operations, header: Header, origin_ns: int) -> Iterator[Counter]:
    """Size and rate of each balloon; of one whose size nobody saw there is no such counter."""
    names = {device.index: device.name for device in header.devices if device.index is not None}
    items = operations.items
    of_devices: dict[int, list[FoundOperation]] = {}
    for found in operations.found:
        of_devices.setdefault(found.device, []).append(found)
    for device, mine in grouped(items.device, np.arange(len(items)), "devices"):
        name = device_name(device, names)
        sizes, rates = _sizes(operations, mine, of_devices.get(device, [])), _rates(operations, mine)
        for what, unit, points in (("balloon", "MiB", sizes), ("rate", "MiB/s", rates)):
            shown = [(at_ns - origin_ns, value) for at_ns, value in points]
            if shown:
                yield Counter(f"{what} of {name}", unit, shown)


def _sizes(
    operations: Operations, rows: Rows, of_device: Sequence[FoundOperation]
) -> list[tuple[int, float]]:
    """The balloon's size before each operation and after each work item, in MiB."""
    items = operations.items
    known = rows[items.actual_pages[rows] != NOT_MEASURED]
    points = list(zip(items.end_ns[known].tolist(), items.actual_pages[known].tolist(), strict=True))
    points += [
        (found.start_ns, found.actual_before_pages)
        for found in of_device
        if found.actual_before_pages is not None
    ]
    return [(at_ns, pages * BALLOON_PAGE_BYTES / _MIB_BYTES) for at_ns, pages in sorted(points)]


def _rates(operations: Operations, rows: Rows) -> Iterator[tuple[int, float]]:
    """How fast pages moved from one point to the next, in MiB/s, and 0 after an operation.

    Work items within a two-hundredth of their operation make up one point. Nothing of an operation in which
    not every work item's pages are known.
    """
    items = operations.items
    of = operations.item_operation
    for index, mine in grouped(of, rows[of[rows] != NO_OPERATION]):
        found = operations.found[index]
        if not items.pages_known[mine].all():
            continue
        end_ns, moved = items.end_ns[mine], np.cumsum(items.pages[mine])
        part = (end_ns - found.start_ns) * _RATES // max(1, found.end_ns - found.start_ns)
        lasts = np.flatnonzero(np.append(part[1:] != part[:-1], True))
        at_ns, before = found.start_ns, 0
        for then_ns, pages in zip(end_ns[lasts].tolist(), moved[lasts].tolist(), strict=True):
            rate = rate_bytes_per_s(pages - before, then_ns - at_ns)
            if rate is not None:
                yield at_ns, rate / _MIB_BYTES
                at_ns, before = then_ns, pages
        yield found.end_ns, 0.0

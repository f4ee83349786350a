# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls of one side as columns: the sends of a guest, or the buffers its host served."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask

UNKNOWN_PAGES = -1
UNKNOWN_QUEUE = -1


@dataclass(frozen=True, slots=True)
class Window:
    """When a side was recording, by its own clock, and what to add to that clock for the time of day.

    `pair` is what the user called it and the other side's recording; None where it has no such name.
    """

    start_ns: int
    end_ns: int
    realtime_offset_ns: int | None
    pair: str | None = None


@dataclass(frozen=True, slots=True)
class Calls:
    """Sends of a guest, or buffers served by a host, as columns in order of start.

    For a send, from the entry to the return of the function that sends; for a buffer, from the first
    call for it until the last one returned, after which the guest may see that it was used. Queues are
    indices or UNKNOWN_QUEUE, pages may be UNKNOWN_PAGES.
    """

    start_ns: Column
    end_ns: Column
    queue: Column
    pages: Column
    window: Window

    def __len__(self) -> int:
        return len(self.start_ns)

    def only(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Calls:
        """Some of them, by a mask or by their indices in order."""
        return Calls(
            self.start_ns[which], self.end_ns[which], self.queue[which], self.pages[which], self.window
        )


def overlap(sends: int, batches: int, shift: int) -> tuple[slice, slice]:
    """The rows of either side that have a partner when send i is buffer i + shift."""
    first, end = max(0, -shift), min(sends, batches - shift)
    return slice(first, end), slice(first + shift, end + shift)


def agree(mine: Column, theirs: Column, unknown: int) -> bool:
    """Whether both sides say the same wherever both know it."""
    differ = mine != theirs
    return not (differ.any() and np.any(differ & (mine != unknown) & (theirs != unknown)))


def agree_each(mine: Column, theirs: Column, unknown: int) -> Mask:
    """Of each row, whether both sides say the same wherever both know it."""
    agrees: Mask = ((mine == theirs) | (mine == unknown) | (theirs == unknown)).all(axis=1)
    return agrees

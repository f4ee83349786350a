# SPDX-License-Identifier: GPL-2.0-or-later
"""The vocabulary every other module speaks: traced functions, queues, and what a recording says of itself.

Nothing here reads or computes; light enough for `record`.
"""

from __future__ import annotations

import enum
from collections.abc import Collection


class Side(enum.StrEnum):
    """Which side of the boundary something is of, as recordings say it."""

    GUEST = "guest"
    HOST = "host"


class Kind(enum.StrEnum):
    """What an operation does to a balloon, in the words of every output."""

    INFLATE = "inflate"
    DEFLATE = "deflate"

    @property
    def direction(self) -> int:
        """Which way the balloon's size goes: 1 or -1."""
        return _DIRECTIONS[self]

    @classmethod
    def of_direction(cls, direction: int) -> Kind:
        """The kind that goes this way."""
        return next(kind for kind, way in _DIRECTIONS.items() if way == direction)


_DIRECTIONS = {Kind.INFLATE: 1, Kind.DEFLATE: -1}


class DriverKind(enum.StrEnum):
    """Which driver runs, by its symbols and members: feature bit 3 means two things."""

    STOCK = "stock"
    PATCHED = "patched"
    NONE = "none"


class Status(enum.StrEnum):
    """What becomes of a probe point, as recordings say it."""

    ATTACH = "attach"
    ATTACHED = "attached"
    INLINED = "inlined"  # every driver has the function, this kernel has no symbol for it
    ABSENT = "absent"
    NOT_NEEDED = "not needed"
    FAILED = "failed"  # the kernel refused it


class Function(enum.IntEnum):
    """Traced functions, by their kernel names. A number, once released, keeps its meaning."""

    UPDATE_BALLOON_SIZE_FUNC = 1  # the driver's work item
    FILL_BALLOON = 2
    LEAK_BALLOON = 3
    TELL_HOST = 4
    VIRTBALLOON_CHANGED = 5  # configuration-change interrupt
    VIRTIO_BALLOON_OOM_NOTIFY = 6
    VIRTBALLOON_MIGRATEPAGE = 7
    CONFIG_GET = 8  # counted only, never a span of its own
    CONFIG_SET = 9  # the same
    SEND_RESP_DATA = 10  # page-bitmap patch: one send of records
    SET_PAGE_BITMAP = 11  # page-bitmap patch: pages into bitmaps, records and sends
    EXTEND_PAGE_BITMAP = 12  # page-bitmap patch: memory for the bitmaps
    VIRTBALLOON_FREE_PAGE_REPORT = 13  # free blocks told to the host; the guest keeps them
    PAGE_REPORTING_PROCESS = 14  # mm/page_reporting.c: the work item that collects those blocks
    PAYLOAD = 15  # no function: its counters count the pieces of captured payloads
    VIRTBALLOON_FREEZE = 16  # before the machine sleeps: everything leaves the balloon
    VIRTBALLOON_RESTORE = 17  # it has woken up: queues are made anew, and a work item is queued
    VIRTBALLOON_REMOVE = 18  # the driver leaves its device, with everything out of the balloon
    STATS_REQUEST = 19  # interrupt: the host asks for statistics
    UPDATE_BALLOON_STATS_FUNC = 20  # the work item that collects and sends them
    REPORT_FREE_PAGE_FUNC = 21  # the work item of hinting: sends free blocks, or gives them back
    VIRTIO_BALLOON_SHRINKER_SCAN = 22  # hinted blocks given back because memory is short
    BALLOON_ACK = 23  # interrupt: the host has answered; counted only, its time is in the span of the send
    ALLOCATION_PARTS = 24  # no function: what a work item did while it allocated, a span for each part
    SCHED_SWITCH = 25  # this and what follows are tracepoints that tell of those parts; counted only
    MM_VMSCAN_DIRECT_RECLAIM_BEGIN = 26
    MM_VMSCAN_DIRECT_RECLAIM_END = 27
    MM_COMPACTION_BEGIN = 28
    MM_COMPACTION_END = 29
    CONTENTION_BEGIN = 30
    CONTENTION_END = 31

    @property
    def symbol(self) -> str:
        """The kernel's own spelling, e.g. `tell_host`."""
        return self.name.lower()


ALLOCATION_TRACEPOINTS = (
    Function.SCHED_SWITCH,
    Function.MM_VMSCAN_DIRECT_RECLAIM_BEGIN,
    Function.MM_VMSCAN_DIRECT_RECLAIM_END,
    Function.MM_COMPACTION_BEGIN,
    Function.MM_COMPACTION_END,
    Function.CONTENTION_BEGIN,
    Function.CONTENTION_END,
)

COUNTED_ONLY = (Function.CONFIG_GET, Function.CONFIG_SET, Function.BALLOON_ACK, *ALLOCATION_TRACEPOINTS)
"""Parts of other functions' spans; not of the balloon alone but for one, so their counts show no loss."""


class Part(enum.IntEnum):
    """What a work item does while it allocates. A number, once released, keeps its meaning."""

    RECLAIM = 0  # direct, with all that it waits for
    COMPACTION = 1  # with all that it waits for
    PUFF = 2  # asleep after "Out of puff"
    LOCK = 3  # waiting for a lock
    OFF_CPU = 4  # off the processor for another reason


class SpanFlag(enum.IntFlag):
    """Which optional fields of a span were measured."""

    DEVICE = 1 << 0
    QUEUE = 1 << 1
    PAGES = 1 << 2
    RESULT = 1 << 3
    TARGET = 1 << 4
    ACTUAL = 1 << 5
    CONFIG = 1 << 6
    BYTES = 1 << 7
    ACK = 1 << 8
    RUN_DELAY = 1 << 9


class Call(enum.IntEnum):
    """System calls that give memory back or take it. A number, once released, keeps its meaning."""

    MADVISE_DONTNEED = 0
    MADVISE_REMOVE = 1
    MADVISE_FREE = 2
    MADVISE_WILLNEED = 3
    MADVISE_OTHER = 4  # any other advice
    FALLOCATE_PUNCH_HOLE = 5
    FALLOCATE_OTHER = 6
    PROCESS_MADVISE = 7  # with any advice; its bytes are those it says it advised


class BatchFlag(enum.IntFlag):
    """How a batch was delimited."""

    KICK_SEEN = 1 << 0  # kick_ns was measured: an eventfd was read
    KICK_VCPU = 1 << 1  # a vCPU thread left the guest, which it also does for other reasons
    DONE_SEEN = 1 << 2  # done_ns was measured: an eventfd was written
    DONE_IOCTL = 1 << 3  # an interrupt was sent by ioctl
    UNFINISHED = 1 << 4  # recording ended inside this batch


class Queue(enum.IntEnum):
    """Virtqueues of a balloon device, by index (virtio 1.2, section 5.5.2; the first two always exist)."""

    INFLATE = 0
    DEFLATE = 1


def c_definitions() -> dict[str, int]:
    """What the BPF sources call these numbers, e.g. BT_TELL_HOST: given to whatever compiles them."""
    return {
        **{f"BT_{each.name}": each.value for words in (Function, Call, BatchFlag) for each in words},
        **{f"BT_HAS_{flag.name}": flag.value for flag in SpanFlag},
        **{f"BT_{queue.name}_QUEUE": queue.value for queue in Queue},
        **{f"BT_PART_{part.name}": part.value for part in Part},
    }


BALLOON_PAGE_BYTES = 4096
"""Unit of every page count on the wire and in the configuration space, whatever PAGE_SIZE is."""


STATS_BIT = 1

DEFLATE_ON_OOM_BIT = 2

FREE_PAGE_HINT_BIT = 3
"""To mainline's driver; the page-bitmap patch gave the bit to PAGE_BITMAP before."""

REPORTING_BIT = 5


def untraced_features(
    feature_bits: Collection[int], traced: Collection[Function], *, patched: bool
) -> tuple[tuple[str, str], ...]:
    """What else gives pages to the host by these features and is not traced: each by word and feature."""
    found = []
    if REPORTING_BIT in feature_bits and Function.VIRTBALLOON_FREE_PAGE_REPORT not in traced:
        found.append(("free page reporting", "REPORTING"))
    hints_traced = Function.REPORT_FREE_PAGE_FUNC in traced
    if FREE_PAGE_HINT_BIT in feature_bits and not patched and not hints_traced:
        found.append(("free page hinting", "FREE_PAGE_HINT"))
    return tuple(found)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations and their stages, as plain frozen data; None means "not measured"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balloontrace.format.stages import Place
from balloontrace.format.vocabulary import Kind
from balloontrace.results.guest_cost import GuestCost
from balloontrace.results.host_memory import Freed, TakenBack
from balloontrace.results.payload import (
    PayloadSends,
    PayloadStatistics,
)
from balloontrace.results.what_if import WhatIf

REACHED = "reached"
IN_PROGRESS = "in progress"
STALLED = "stalled"
SUPERSEDED = "superseded"
DRIVER_REMOVED = "driver removed"


@dataclass(frozen=True, slots=True)
class StageRow:
    """One line of a stage table. `part_of` names the stage that a finer row belongs to.

    `count` is how many calls, work items or gaps the row sums up, and the quantiles (nearest rank) are over
    those; `share` is of the operation's wall time. With `error_ns` the total is an estimate, and in 19 of 20
    cases off by no more; it has no quantiles.
    """

    stage: str
    name: str
    where: Place
    part_of: str | None = None
    count: int | None = None
    total_ns: int | None = None
    share: float | None = None
    p50_ns: int | None = None
    p90_ns: int | None = None
    p99_ns: int | None = None
    max_ns: int | None = None
    error_ns: int | None = None


@dataclass(frozen=True, slots=True)
class BitmapUse:
    """How the patched driver went through the pages of an operation.

    `passes` are walks over the list of pages; `windows` those of them that found a page; `bitmaps` make up a
    window, at the least in this operation; `bytes_sent` is response data without its headers.
    """

    windows: int | None
    passes: int | None
    bitmaps: int | None
    mid_window_sends: int | None
    bytes_sent: int | None


@dataclass(frozen=True, slots=True)
class Served:
    """What the host did for the sends of one operation, all of which were matched with their buffers.

    `calls` are those that give memory back or take it, `errors` the failed ones among them. A page of memory
    that is backed by a file may be in both `madvise_bytes` and `fallocate_bytes`. `thp_splits` are huge pages
    split inside the calls; None where their probe was not attached. `tracing_c_ns` and `tracing_d_ns` are
    what tracing added to stages c and d, by what was measured while attaching; None where it was not.

    Where calls were sampled they were not counted, and all but the buffers is None: `samples_inside` of
    `samples` were inside calls. `discards` of `discarded_bytes` are as in `HostSide`.
    """

    buffers: int
    calls: int | None
    errors: int | None
    madvise_bytes: int | None
    fallocate_bytes: int | None
    thp_splits: int | None
    tracing_c_ns: int | None = None
    tracing_d_ns: int | None = None
    samples: int | None = None
    samples_inside: int | None = None
    discards: int | None = None
    discarded_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One inflate or deflate of one device towards a target; `outcome` is one of the words above.

    `run_delay_ns` is how long the driver's thread, ready to run, waited for a processor in its work items.
    """

    number: int
    device: str
    kind: Kind
    outcome: str | None
    started_ns: int
    wall_ns: int
    pages: int | None
    target_pages: int | None
    targets_pages: tuple[int, ...]
    actual_before_pages: int | None
    actual_after_pages: int | None
    rate_bytes_per_s: float | None
    sends: int | None
    work_items: int
    starts_at: str
    started_before_recording: bool | None
    short_work_items: int
    short_ns: int
    oom_notifications: int | None
    oom_pages: int | None
    verdict: tuple[str, ...]
    stages: tuple[StageRow, ...]
    bitmap: BitmapUse | None = None
    payload: PayloadStatistics | None = None
    payload_sends: PayloadSends | None = None
    served: Served | None = None
    freed: Freed | None = None
    taken_back: TakenBack | None = None
    what_if: WhatIf | None = None
    run_delay_ns: int | None = None
    guest_cost: GuestCost | None = None


def longest(operations: Sequence[Operation], most: int) -> list[Operation]:
    """Those that took longest, at most so many, in their order: for where not all can be shown."""
    by_length = sorted(operations, key=lambda operation: operation.wall_ns, reverse=True)
    return sorted(by_length[:most], key=lambda operation: operation.number)


@dataclass(frozen=True, slots=True)
class Total:
    """All operations of one kind together."""

    kind: Kind
    operations: int
    pages: int | None
    wall_ns: int
    rate_bytes_per_s: float | None
    sends: int | None
    stages: tuple[StageRow, ...]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Work items into operations: one inflate or deflate of one device towards a target.

An operation is a run of active work items of one device in one direction. It ends where the balloon has
reached its target, turns round, or the driver goes away; a target that moves on in the same direction moves
the operation's target. Work items that find nothing to do belong to no operation: the kernel runs one
whenever an interrupt arrives while another item is running. An operation begins at the configuration
interrupt that queued its first work item, if that was seen, else at that work item; it ends where its last
active item returns, so that waiting for memory at its end counts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.consistency import understand
from balloontrace.analysis.nesting import NO_SPAN, Nesting, look_up
from balloontrace.analysis.operation_events import Events, find_gone, find_removals
from balloontrace.analysis.summed_migrations import MIGRATIONS, SENDS_OF_MIGRATIONS
from balloontrace.analysis.work_items import NOT_MEASURED, UNKNOWN_AT_START, AtStart, WorkItems
from balloontrace.format.vocabulary import Function, Kind, SpanFlag
from balloontrace.results.operation import DRIVER_REMOVED, IN_PROGRESS, REACHED, STALLED, SUPERSEDED
from balloontrace.results.recording_header import DriverGap
from balloontrace.results.report import Outside

NO_OPERATION = -1

MOST_OPERATIONS = 50_000
"""What comes from the next one on is left out."""

# Where the target was not measured, a pause this long between work items ends an operation: re-queueing
# takes microseconds.
_PAUSE_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class FoundOperation:
    """What an operation was; times in ns of the recording's clock, pages in 4 KiB units."""

    device: int
    kind: Kind
    outcome: str | None
    start_ns: int
    end_ns: int
    interrupt_ns: int | None
    started_before_recording: bool | None
    targets_pages: tuple[int, ...]
    actual_before_pages: int | None
    actual_after_pages: int | None
    oom_notifications: int
    oom_pages: int


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations in order of start, with the columns their stages are computed from.

    `spans` are those that everything else here is about: consistent, and no more than are followed.
    `removals` are calls of leak_balloon by which the driver empties the balloon when it is removed or frozen.
    `item_operation` and `send_operation` give the operation's place in `found`, or NO_OPERATION, for each
    row of `items` and each span.
    """

    spans: Spans
    found: tuple[FoundOperation, ...]
    nesting: Nesting
    items: WorkItems
    item_operation: Column
    send_operation: Column
    removals: Mask
    outside: tuple[Outside, ...]


def find_operations(
    spans: Spans,
    *,
    interrupts_traced: bool,
    gaps: Sequence[DriverGap] = (),
    unit_pages: int = 1,
    at_start: AtStart = UNKNOWN_AT_START,
    callers_seen: bool = True,
) -> Operations:
    """Group spans; `interrupts_traced` tells whether a missing interrupt came before the recording.

    No operation spans one of the `gaps` in which its device was seen to have no driver. `unit_pages` are
    balloon pages in one page of the kernel: nearer to its target no driver comes. `at_start` is what balloons
    began from. `callers_seen`: whether all calls are there inside which leak_balloon runs while the driver
    stays. Contradictory spans are left out, and those from the operation on that is one too many.
    """
    understood = understand(spans, unit_pages, at_start)
    spans, nesting = understood.spans, understood.nesting
    items, send_row = understood.items, understood.send_row
    removal = find_removals(spans, nesting, callers_seen=callers_seen)
    gone = find_gone(items, gaps)
    rows, firsts = _split(
        items,
        np.concatenate([nesting.device[removal], np.array([device for device, _ in gone], dtype=np.int64)]),
        np.concatenate([spans.int64("start_ns")[removal], np.array([at for _, at in gone], dtype=np.int64)]),
    )
    if np.count_nonzero(firsts) > MOST_OPERATIONS:
        begins_ns = np.sort(items.start_ns[rows[firsts]])
        beyond = spans.int64("start_ns") >= begins_ns[MOST_OPERATIONS]
        fewer = replace(spans.without(beyond), beyond=spans.beyond + int(np.count_nonzero(beyond)))
        return find_operations(
            fewer, interrupts_traced=interrupts_traced, gaps=gaps, unit_pages=unit_pages, at_start=at_start,
            callers_seen=callers_seen,
        )  # fmt: skip
    events = Events(spans, nesting, removal, gone, gaps)
    found = _describe(items, rows, firsts, events, interrupts_traced=interrupts_traced)
    order = sorted(range(len(found)), key=lambda index: (found[index].start_ns, found[index].device))
    rank = np.empty(len(found), dtype=np.int64)
    rank[order] = np.arange(len(found))
    item_operation = np.full(len(items), NO_OPERATION, dtype=np.int64)
    item_operation[rows] = rank[np.cumsum(firsts) - 1]
    return Operations(
        spans=spans,
        found=tuple(found[index] for index in order),
        nesting=nesting,
        items=items,
        item_operation=item_operation,
        send_operation=look_up(item_operation, send_row, NO_OPERATION),
        removals=removal,
        outside=_outside(spans, nesting, items, send_row, removal),
    )


def operation_of_spans(spans: Spans, operations: Operations) -> Column:
    """For each span the operation whose work item it is part of, or NO_OPERATION."""
    nesting = operations.nesting
    operation = np.full(len(spans), NO_OPERATION, dtype=np.int64)
    operation[operations.items.span] = operations.item_operation
    own = (nesting.oom == NO_SPAN) & (nesting.migrate == NO_SPAN)
    return np.where(own, look_up(operation, nesting.work, NO_OPERATION), NO_OPERATION)


def _split(items: WorkItems, removal_device: Column, removal_ns: Column) -> tuple[Column, Mask]:
    """Rows of the active items, and which of those rows begin an operation."""
    rows = np.flatnonzero(items.active).astype(np.int64)
    device, direction, start_ns = items.device[rows], items.direction[rows], items.start_ns[rows]
    firsts = np.ones(len(rows), dtype=np.bool_)
    if len(rows) > 1:
        unguided = ~items.measured[rows][1:]
        paused = start_ns[1:] - items.end_ns[rows][:-1] > _PAUSE_NS
        removals_before = _counts_before(removal_device, removal_ns, device, start_ns)
        firsts[1:] = (
            (device[1:] != device[:-1])
            | (direction[1:] != direction[:-1])
            | items.reached[rows][:-1]
            | (removals_before[1:] != removals_before[:-1])
            | (unguided & paused)
        )
    return rows, firsts


def _counts_before(event_device: Column, event_ns: Column, device: Column, start_ns: Column) -> Column:
    """A running count of events at each (device, start); only differences within a device mean something."""
    is_event = np.arange(len(event_ns) + len(start_ns)) < len(event_ns)
    order = np.lexsort((np.concatenate([event_ns, start_ns]), np.concatenate([event_device, device])))
    running = np.empty(len(order), dtype=np.int64)
    running[order] = np.cumsum(is_event[order])
    return running[len(event_ns) :]


def _describe(
    items: WorkItems, rows: Column, firsts: Mask, events: Events, *, interrupts_traced: bool
) -> list[FoundOperation]:
    """The operations in the order of `rows`: by device, then time."""
    bounds = np.append(np.flatnonzero(firsts), len(rows))
    targets = _targets(items, rows, firsts)
    found: list[FoundOperation] = []
    for index, (first, last) in enumerate(zip(bounds[:-1].tolist(), (bounds[1:] - 1).tolist(), strict=True)):
        previous = found[-1] if found and found[-1].device == int(items.device[rows[first]]) else None
        following = int(rows[last + 1]) if last + 1 < len(rows) else None
        found.append(
            _describe_one(
                items,
                (int(rows[first]), int(rows[last]), following),
                targets[index],
                previous,
                events,
                interrupts_traced=interrupts_traced,
            )
        )
    return found


def _describe_one(
    items: WorkItems,
    rows: tuple[int, int, int | None],
    targets_pages: tuple[int, ...],
    previous: FoundOperation | None,
    events: Events,
    *,
    interrupts_traced: bool,
) -> FoundOperation:
    """One operation: `rows` are those of its first and last work item, and of the next active one."""
    first, last, following = rows
    device = int(items.device[first])
    interrupt_ns = _queued_by(items, first, events)
    start_ns = int(items.start_ns[first])
    if interrupt_ns is not None:
        # While the last item of the operation before was still running, that operation's time was passing.
        start_ns = max(interrupt_ns, min(previous.end_ns, start_ns)) if previous else interrupt_ns
    end_ns = int(items.end_ns[last])
    ooms = events.ooms.get(device, [])
    oom_low, oom_high = bisect_left(ooms, start_ns), bisect_right(ooms, end_ns)
    direction = int(items.direction[first])
    actual_first = _optional(items.actual_pages[first])
    return FoundOperation(
        device=device,
        kind=Kind.of_direction(direction),
        outcome=_outcome(items, last, following, events),
        start_ns=start_ns,
        end_ns=end_ns,
        interrupt_ns=interrupt_ns,
        started_before_recording=_started_before(
            None if previous and events.is_blind_between(previous.end_ns, start_ns) else previous,
            interrupt_ns,
            interrupts_traced=interrupts_traced,
        ),
        targets_pages=targets_pages,
        actual_before_pages=(
            None
            if actual_first is None or not items.pages_known[first]
            else _not_negative(actual_first - direction * int(items.pages[first]))
        ),
        actual_after_pages=_optional(items.actual_pages[last]),
        oom_notifications=oom_high - oom_low,
        oom_pages=sum(events.oom_pages[device][oom_low:oom_high]),
    )


def _not_negative(pages: int) -> int | None:
    """None for fewer than no pages: sends name pages twice over."""
    return pages if pages >= 0 else None


def _queued_by(items: WorkItems, first: int, events: Events) -> int | None:
    """Start of the earliest interrupt since the work item before (of any sort) began: it queued this one."""
    interrupts = events.interrupts.get(int(items.device[first]), [])
    has_previous = first > 0 and items.device[first - 1] == items.device[first]
    low = bisect_right(interrupts, int(items.start_ns[first - 1])) if has_previous else 0
    # What came for a driver that went before it acted queued nothing of the one that came back.
    removals = events.removals.get(int(items.device[first]), [])
    left = bisect_right(removals, int(items.start_ns[first]))
    low = max(low, bisect_right(interrupts, removals[left - 1]) if left else 0)
    if low < len(interrupts) and interrupts[low] <= int(items.start_ns[first]):
        return interrupts[low]
    return None


def _started_before(
    previous: FoundOperation | None, interrupt_ns: int | None, *, interrupts_traced: bool
) -> bool | None:
    if previous is not None or interrupt_ns is not None:
        return False
    return True if interrupts_traced else None


def _outcome(items: WorkItems, last: int, following: int | None, events: Events) -> str | None:
    """How an operation ended; None when target or progress was not measured, unless it waits."""
    device = int(items.device[last])
    goal_pages, actual_pages = _optional(items.goal_pages[last]), _optional(items.actual_pages[last])
    measured = goal_pages is not None and actual_pages is not None
    if not measured:
        return STALLED if following is None and bool(items.short[last]) else None
    if goal_pages == actual_pages:
        return REACHED
    successor = following if following is not None and int(items.device[following]) == device else None
    next_ns = int(items.start_ns[successor]) if successor is not None else None
    removals = events.removals.get(device, [])
    after = bisect_left(removals, int(items.end_ns[last]))
    if after < len(removals) and (next_ns is None or removals[after] <= next_ns):
        return DRIVER_REMOVED
    if successor is not None and items.direction[successor] != items.direction[last]:
        return SUPERSEDED
    return STALLED if bool(items.short[last]) else IN_PROGRESS


def _targets(items: WorkItems, rows: Column, firsts: Mask) -> list[tuple[int, ...]]:
    """The targets each operation went for, in order, without repeats in a row."""
    targets = items.target_pages[rows]
    changed = firsts.copy()
    changed[1:] |= targets[1:] != targets[:-1]
    found: list[list[int]] = [[] for _ in range(int(np.count_nonzero(firsts)))]
    operation = np.cumsum(firsts) - 1
    picks = np.flatnonzero(changed & (targets != NOT_MEASURED))
    for index, target in zip(operation[picks].tolist(), targets[picks].tolist(), strict=True):
        if not found[index] or found[index][-1] != target:
            found[index].append(target)
    return [tuple(pages) for pages in found]


def _optional(value: np.int64) -> int | None:
    return None if value == NOT_MEASURED else int(value)


def _outside(
    spans: Spans, nesting: Nesting, items: WorkItems, send_row: Column, removal: Mask
) -> tuple[Outside, ...]:
    """Calls that are part of no operation, by what they are; kinds that did not occur are left out."""
    sends, leaks = nesting.send, spans.of(Function.LEAK_BALLOON)
    unknown = ~look_up(items.active, send_row, none=True)
    idle = np.zeros(len(spans), dtype=np.bool_)
    idle[items.span[~items.active]] = True
    alone = (nesting.work == NO_SPAN) & (nesting.oom == NO_SPAN) & (nesting.migrate == NO_SPAN)
    kinds = (
        (MIGRATIONS, spans.of(Function.VIRTBALLOON_MIGRATEPAGE)),
        (SENDS_OF_MIGRATIONS, sends & (nesting.migrate != NO_SPAN)),
        ("virtio_balloon_oom_notify", spans.of(Function.VIRTIO_BALLOON_OOM_NOTIFY)),
        ("send of virtio_balloon_oom_notify", sends & (nesting.oom != NO_SPAN) & (send_row == NO_SPAN)),
        ("leak_balloon of a driver being removed or frozen", removal),
        ("leak_balloon without its work item", leaks & alone & ~removal),
        ("send without its work item", sends & alone & (nesting.body == NO_SPAN)),
        ("send of unknown direction", sends & unknown),
        ("work item that found nothing to do", idle),
    )
    pages, durations_ns = spans.measured("pages", SpanFlag.PAGES), spans.int64("duration_ns")
    return tuple(
        Outside(
            what,
            int(np.count_nonzero(which)),
            int(pages[which].sum()) if spans.has(SpanFlag.PAGES)[which].any() else None,
            int(durations_ns[which].sum()),
        )
        for what, which in kinds
        if which.any()
    )

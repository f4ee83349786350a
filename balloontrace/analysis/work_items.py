# SPDX-License-Identifier: GPL-2.0-or-later
"""Spans into work items: which calls ran inside each `update_balloon_size_func`, and what it moved.

A send made by `virtballoon_migratepage` (compaction may run it inside the work item's own allocation) or by
an out-of-memory notification is not a send of the work item. Its time stays in whatever the work item was
doing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.group_statistics import sums
from balloontrace.analysis.nesting import NO_SPAN, Nesting, look_up
from balloontrace.format.vocabulary import Function, SpanFlag

NOT_MEASURED = -1

PAGES_PER_WORK_ITEM = 256
"""VIRTIO_BALLOON_ARRAY_PFNS_MAX in drivers/virtio/virtio_balloon.c: what one fill or leak moves at most."""

FAILED_ALLOCATION_SLEEP_NS = 180_000_000
"""fill_balloon calls msleep(200) when it gets no page; used only where target or progress is unknown.

msleep counts ticks, and the one under way when it begins is the first: with 100 ticks a second it can be
10 ms short. 199.2 ms were seen in a guest with 250.
"""


@dataclass(frozen=True, slots=True)
class WorkItems:
    """One row a work item, ordered by device, then start. Pages are 4 KiB units, NOT_MEASURED is -1.

    `body` is `fill_balloon` or `leak_balloon` where that was traced. Where it is inlined, an inflate's body
    is the work item up to the end of its last send. That is the last thing `fill_balloon` does in every
    driver; what follows writes `actual` and queues the next item. A deflate releases its pages after the
    send, so there the whole work item stands in. `body_bounded` tells items whose body is known to end before
    they do. `direction` is 1 inflate, -1 deflate, 0 nothing to do; `active` items moved pages or tried to.
    `goal_pages` is the target in whole pages of the kernel, as the driver takes it. `pages` is 0 where
    nothing says how many, which `pages_known` tells. `short` ones got fewer pages than they asked for.
    `build_ns`, of the patched driver only, is the time of making bitmaps and records; it is part of the body.
    `run_delay_ns` is how long the thread, ready to run, waited for a processor, or NOT_MEASURED.
    """

    span: Column
    device: Column
    start_ns: Column
    end_ns: Column
    direction: Column
    active: Mask
    pages: Column
    pages_known: Mask
    target_pages: Column
    goal_pages: Column
    actual_pages: Column
    short: Mask
    sends: Column
    send_ns: Column
    send_in_body_ns: Column
    build_ns: Column
    body_bounded: Mask
    body_ns: Column
    config_measured: Mask
    config_calls: Column
    config_ns: Column
    config_in_body_ns: Column
    run_delay_ns: Column

    def __len__(self) -> int:
        return len(self.span)

    @property
    def a_ns(self) -> Column:
        """Stage a of each: its body less what is of other stages."""
        return np.asarray(self.body_ns - self.send_in_body_ns - self.config_in_body_ns - self.build_ns)

    @property
    def measured(self) -> Mask:
        """Items whose target and progress are both known."""
        return np.asarray((self.target_pages != NOT_MEASURED) & (self.actual_pages != NOT_MEASURED))

    @property
    def reached(self) -> Mask:
        """Items after which the balloon had the size it should have."""
        return np.asarray(self.measured & (self.goal_pages == self.actual_pages))

    @property
    def untold(self) -> Mask:
        """Items that sent nobody knows how many pages."""
        return np.asarray((self.sends > 0) & ~self.pages_known)


@dataclass(frozen=True, slots=True)
class AtStart:
    """Sizes of balloons at a time since which every work item was seen; `pages` are by device."""

    at_ns: int = 0
    pages: Mapping[int, int] = field(default_factory=dict)


UNKNOWN_AT_START = AtStart()


def find_work_items(
    spans: Spans, nesting: Nesting, unit_pages: int = 1, at_start: AtStart = UNKNOWN_AT_START
) -> tuple[WorkItems, Column]:
    """All work items, and for each span the row of the work item whose send it is, or NO_SPAN.

    `unit_pages` are balloon pages in one page of the kernel; `at_start` is what the first item began from.
    """
    work_spans = np.flatnonzero(spans.of(Function.UPDATE_BALLOON_SIZE_FUNC))
    work_spans = work_spans[np.argsort(nesting.device[work_spans], kind="stable")]
    row_of_span = np.full(len(spans), NO_SPAN, dtype=np.int64)
    row_of_span[work_spans] = np.arange(len(work_spans))
    row = look_up(row_of_span, nesting.work, NO_SPAN)
    own = (nesting.oom == NO_SPAN) & (nesting.migrate == NO_SPAN)
    is_body = spans.of(Function.FILL_BALLOON, Function.LEAK_BALLOON) & (nesting.oom == NO_SPAN)
    made = _Made(
        sends=_calls(row, nesting.send & own, len(work_spans)),
        bodies=_calls(row, is_body, len(work_spans)),
        bitmaps=_calls(row, (nesting.bitmap == np.arange(len(spans))) & own, len(work_spans)),
    )
    send_row = np.full(len(spans), NO_SPAN, dtype=np.int64)
    send_row[made.sends.spans] = made.sends.rows
    if spans.damaged or spans.contradictory:
        at_start = UNKNOWN_AT_START
    sizes = _read_sizes(spans, work_spans, unit_pages, at_start)
    return _collect(spans, nesting, work_spans, made, sizes), send_row


@dataclass(frozen=True, slots=True)
class _Calls:
    """Calls of one sort: the span of each, and the row of the work item that it was made for."""

    spans: NDArray[np.intp]
    rows: Column
    item_count: int

    def among(self, wanted: Mask) -> _Calls:
        """Those whose span is one of `wanted`."""
        kept = wanted[self.spans]
        return _Calls(self.spans[kept], self.rows[kept], self.item_count)

    def sum(self, values: Column) -> Column:
        """For each work item the sum of its calls' `values`, which are by span."""
        return sums(values[self.spans], self.rows, self.item_count)

    def largest(self, values: Column) -> Column:
        """Likewise the largest one, at least 0."""
        found = np.zeros(self.item_count, dtype=np.int64)
        np.maximum.at(found, self.rows, values[self.spans])
        return found

    @property
    def number(self) -> Column:
        """How many each work item made."""
        return np.bincount(self.rows, minlength=self.item_count).astype(np.int64)

    @property
    def any(self) -> Mask:
        """Which work items made some."""
        return np.asarray(self.number > 0)


def _calls(row: Column, which: Mask, item_count: int) -> _Calls:
    """Those of `which` that ran inside a work item; `row` is that of each span, or NO_SPAN."""
    found = np.flatnonzero(which & (row != NO_SPAN))
    return _Calls(found, row[found], item_count)


@dataclass(frozen=True, slots=True)
class _Made:
    """What work items called themselves: sends, fill_balloon or leak_balloon, set_page_bitmap or windows."""

    sends: _Calls
    bodies: _Calls
    bitmaps: _Calls


def _collect(
    spans: Spans, nesting: Nesting, work_spans: NDArray[np.intp], made: _Made, sizes: _Sizes
) -> WorkItems:
    start_ns, item_ns = spans.int64("start_ns")[work_spans], spans.int64("duration_ns")[work_spans]
    send_ns = made.sends.sum(spans.int64("duration_ns"))
    slept = item_ns - send_ns >= FAILED_ALLOCATION_SLEEP_NS
    moved = _find_moved(spans, nesting, work_spans, made, sizes, slept)
    body = _time_bodies(spans, nesting, work_spans, made, moved.direction)
    return WorkItems(
        span=work_spans.astype(np.int64),
        device=nesting.device[work_spans],
        start_ns=start_ns,
        end_ns=start_ns + item_ns,
        direction=moved.direction,
        active=moved.direction != 0,
        pages=moved.pages,
        pages_known=moved.known,
        target_pages=sizes.target,
        goal_pages=sizes.goal,
        actual_pages=sizes.actual,
        short=moved.short,
        sends=made.sends.number,
        send_ns=send_ns,
        build_ns=_build_ns(spans, nesting, made),
        send_in_body_ns=body.send_ns,
        body_bounded=body.bounded,
        body_ns=body.ns,
        config_measured=spans.has(SpanFlag.CONFIG)[work_spans],
        config_calls=spans.measured("config_calls", SpanFlag.CONFIG)[work_spans],
        config_ns=spans.measured("config_ns", SpanFlag.CONFIG)[work_spans],
        config_in_body_ns=body.config_ns,
        run_delay_ns=_run_delay_ns(spans, work_spans),
    )


def _run_delay_ns(spans: Spans, work_spans: NDArray[np.intp]) -> Column:
    """How long each work item waited for a processor; no longer than it took, by another clock."""
    delay_ns = np.minimum(spans.int64("wait_ns"), spans.int64("duration_ns"))
    return np.where(spans.has(SpanFlag.RUN_DELAY), delay_ns, NOT_MEASURED)[work_spans]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of each work item the target, the same in whole pages of the kernel, and `actual`; or NOT_MEASURED."""

    target: Column
    goal: Column
    actual: Column
    at_start: AtStart

    @property
    def tried(self) -> Mask:
        """An item with nothing to do returns before it writes `actual`: both are known only if it tried."""
        return np.asarray((self.goal != NOT_MEASURED) & (self.actual != NOT_MEASURED))


def _read_sizes(spans: Spans, work_spans: NDArray[np.intp], unit_pages: int, at_start: AtStart) -> _Sizes:
    target = _optional(spans, "target_pages", SpanFlag.TARGET)[work_spans]
    # towards_target in virtio_balloon.c: else it would inflate and deflate for ever.
    goal = np.where(target == NOT_MEASURED, target, -(-target // unit_pages) * unit_pages)
    return _Sizes(target, goal, _optional(spans, "actual_pages", SpanFlag.ACTUAL)[work_spans], at_start)


def _optional(spans: Spans, name: str, flag: SpanFlag) -> Column:
    return np.where(spans.has(flag), spans.int64(name), NOT_MEASURED)


@dataclass(frozen=True, slots=True)
class _Moved:
    """Which way each work item went and how far, whether that is known, and whether it was too short."""

    direction: Column
    pages: Column
    known: Mask
    short: Mask


def _find_moved(
    spans: Spans, nesting: Nesting, work_spans: NDArray[np.intp], made: _Made, sizes: _Sizes, slept: Mask
) -> _Moved:
    """By what the calls say, else by how far `actual` moved; `slept` tells which items slept for a page."""
    pages, known = _pages(spans, work_spans, made)
    step, step_known = _steps(spans, nesting, work_spans, made, sizes)
    by_step = ~known & step_known
    pages, known = np.where(by_step, np.abs(step), pages), known | by_step
    asleep = ~sizes.tried & slept
    direction = _direction(spans, made, sizes, asleep)
    # What its calls say of no queue: it sent the way that `actual` moved.
    sent = step_known & (made.sends.any | made.bitmaps.any)
    direction = np.where((by_step | sent) & (direction == 0), np.sign(step), direction)
    short = _short(direction, pages, sizes, asleep, made.bitmaps.any)
    return _Moved(direction, pages, known, short & (known | ~sizes.tried | (slept & (direction > 0))))


@dataclass(frozen=True, slots=True)
class _Bodies:
    """Of each work item the time in its fill or leak, or what stands in: all, of sends, reading the target.

    `bounded` tells where the end of the body is known.
    """

    bounded: Mask
    ns: Column
    send_ns: Column
    config_ns: Column


def _time_bodies(
    spans: Spans, nesting: Nesting, work_spans: NDArray[np.intp], made: _Made, direction: Column
) -> _Bodies:
    """An inflate without a fill ends with its last send, as far as its body goes; else the item stands in."""
    duration_ns, config_ns = spans.int64("duration_ns"), spans.measured("config_ns", SpanFlag.CONFIG)
    has_body = made.bodies.any
    sent_ns = np.maximum(made.sends.largest(spans.end_ns), made.bitmaps.largest(spans.end_ns))
    by_send = ~has_body & (direction > 0) & (sent_ns > 0)
    stand_in_ns = np.where(by_send, sent_ns - spans.int64("start_ns")[work_spans], duration_ns[work_spans])
    in_body = made.sends.among(nesting.body != NO_SPAN)
    return _Bodies(
        bounded=has_body | by_send,
        ns=np.where(has_body, made.bodies.sum(duration_ns), stand_in_ns),
        send_ns=np.where(has_body, in_body.sum(duration_ns), made.sends.sum(duration_ns)),
        config_ns=np.where(has_body, made.bodies.sum(config_ns), config_ns[work_spans]),
    )


def _build_ns(spans: Spans, nesting: Nesting, made: _Made) -> Column:
    """Time of each work item in making bitmaps and records: its set_page_bitmap less the sends in it."""
    duration_ns = spans.int64("duration_ns")
    in_bitmap = made.sends.among(nesting.bitmap != NO_SPAN)
    return np.where(made.sends.any, made.bitmaps.sum(duration_ns) - in_bitmap.sum(duration_ns), 0)


def _pages(spans: Spans, work_spans: NDArray[np.intp], made: _Made) -> tuple[Column, Mask]:
    """Pages moved by each item, and whether anything says so.

    Its set_page_bitmap or windows do, else its sends, else its fill or leak, else the item itself. That no
    send was seen says nothing: it may have been lost.
    """
    has_pages, has_result = spans.has(SpanFlag.PAGES), spans.has(SpanFlag.RESULT)
    pages = spans.measured("pages", SpanFlag.PAGES)
    # leak_balloon and fill_balloon return how many pages they moved.
    returned = np.maximum(spans.measured("result", SpanFlag.RESULT), 0)
    counted = made.bitmaps.among(has_pages)
    # Where windows stand in, each counts the pages of all of them.
    by_bitmap = counted.largest(pages)
    by_send = np.where(by_bitmap > 0, by_bitmap, made.sends.sum(pages))
    by_body = made.bodies.sum(np.where(has_pages, pages, returned))
    moved = np.where(by_send > 0, by_send, np.where(by_body > 0, by_body, pages[work_spans]))
    by_all_sends = made.sends.any & ~made.sends.among(~has_pages).any
    said = made.bodies.among(has_pages | has_result).any | counted.any
    return moved, by_all_sends | said | has_pages[work_spans]


def _moved_by_others(spans: Spans, nesting: Nesting) -> tuple[Column, Column]:
    """Starts and ends, each in order, of the calls which move a balloon's size outside of work items."""
    leak = spans.of(Function.LEAK_BALLOON) & (nesting.work == NO_SPAN)
    which = spans.of(Function.VIRTIO_BALLOON_OOM_NOTIFY) | leak
    return np.sort(spans.int64("start_ns")[which]), np.sort(spans.end_ns[which])


def _steps(
    spans: Spans, nesting: Nesting, work_spans: NDArray[np.intp], made: _Made, sizes: _Sizes
) -> tuple[Column, Mask]:
    """How far `actual` moved since the item before of the same device, and where both are known.

    Not where something else moved it meanwhile. Before the first item of a device is its size at the start;
    where the item seems to have moved more than one can, that is not what it began from.
    """
    device, end_ns = nesting.device[work_spans], spans.end_ns[work_spans]
    begins_ns, ends_ns = _moved_by_others(spans, nesting)
    begun = np.searchsorted(begins_ns, end_ns, side="right")
    over = np.searchsorted(ends_ns, end_ns, side="left")
    first = np.append(True, device[1:] != device[:-1])[: len(device)]
    before = np.where(first, NOT_MEASURED, np.roll(sizes.actual, 1))
    over = np.where(first, 0, np.roll(over, 1))
    since_ns = np.where(first, sizes.at_start.at_ns, 0)
    for row in np.flatnonzero(first).tolist():
        before[row] = sizes.at_start.pages.get(int(device[row]), NOT_MEASURED)
    step = sizes.actual - before
    known = (sizes.actual != NOT_MEASURED) & (before != NOT_MEASURED) & (begun <= over)
    known &= spans.int64("start_ns")[work_spans] >= since_ns
    known &= ~first | made.bitmaps.any | (np.abs(step) <= PAGES_PER_WORK_ITEM)
    return np.where(known, step, 0), known


def _direction(spans: Spans, made: _Made, sizes: _Sizes, asleep: Mask) -> Column:
    """Which way each item went: by its calls' queue, the function it called, or where the target lay."""
    direction = np.where(sizes.tried, np.sign(sizes.goal - sizes.actual), np.where(asleep, 1, 0))
    filled = spans.of(Function.FILL_BALLOON)[made.bodies.spans]
    direction[made.bodies.rows] = np.where(filled, 1, -1)
    for calls in (made.bitmaps, made.sends):  # the sends last: what they say holds
        queued = calls.among(spans.has(SpanFlag.QUEUE))
        ways = spans.directions[queued.spans]
        direction[queued.rows[ways != 0]] = ways[ways != 0]
    return direction.astype(np.int64)


def _short(direction: Column, pages: Column, sizes: _Sizes, asleep: Mask, by_bitmap: Mask) -> Mask:
    """Items which moved less than they could although the target was farther away.

    An item moves one full send of page numbers at most, by bitmaps the whole distance.
    """
    distance = direction * (sizes.goal - sizes.actual) + pages
    got_less = pages < np.where(by_bitmap, distance, np.minimum(distance, PAGES_PER_WORK_ITEM))
    return np.asarray((direction != 0) & np.where(sizes.tried, got_less, asleep))

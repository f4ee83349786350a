# SPDX-License-Identifier: GPL-2.0-or-later
"""Spans into work items: which calls ran inside each `update_balloon_size_func`, and what it moved.

A send is a call of `send_resp_data`, or of `tell_host` where it sends page numbers itself. In the driver with
the page-bitmap patch `tell_host` is otherwise a window of bitmaps, with `send_resp_data` inside; or without,
where the patch as posted loses the only page of a window.

Nesting comes from time and thread alone. A send made by `virtballoon_migratepage` (compaction may run
it inside the work item's own allocation) or by an out-of-memory notification is not a send of the work item.
Its time stays in whatever the work item was doing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.group_statistics import sums
from balloontrace.format.vocabulary import Function, Queue, SpanFlag

NO_SPAN = -1
NOT_MEASURED = -1
UNKNOWN_DEVICE = -1

PAGES_PER_WORK_ITEM = 256
"""VIRTIO_BALLOON_ARRAY_PFNS_MAX in drivers/virtio/virtio_balloon.c: what one fill or leak moves at most."""

FAILED_ALLOCATION_SLEEP_NS = 180_000_000
"""fill_balloon calls msleep(200) when it gets no page; used only where target or progress is unknown.

msleep counts ticks, and the one under way when it begins is the first: with 100 ticks a second it can be
10 ms short. 199.2 ms were seen in a guest with 250.
"""


@dataclass(frozen=True, slots=True)
class Nesting:
    """For each span, the index of the span of each sort that it ran inside (or is), or NO_SPAN.

    `bitmap` is `set_page_bitmap`, or where that was not traced the window. `send` tells which ones are sends,
    `crosses` which ones no thread can have made: they begin inside a call and end after it, or a function
    was called inside itself.
    """

    work: Column
    body: Column
    bitmap: Column
    window: Column
    oom: Column
    migrate: Column
    device: Column
    send: Mask
    crosses: Mask


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

    def __len__(self) -> int:
        return len(self.span)

    @property
    def measured(self) -> Mask:
        """Items whose target and progress are both known."""
        return np.asarray((self.target_pages != NOT_MEASURED) & (self.actual_pages != NOT_MEASURED))

    @property
    def reached(self) -> Mask:
        """Items after which the balloon had the size it should have."""
        return np.asarray(self.measured & (self.goal_pages == self.actual_pages))


def nest_spans(spans: Spans) -> Nesting:
    """Find what each span ran inside, and its device: UNKNOWN_DEVICE if that cannot be told."""
    by_thread = np.argsort(spans.columns["tid"], kind="stable")
    crosses = np.zeros(len(spans), dtype=np.bool_)
    work = _enclosing(spans, by_thread, spans.of(Function.UPDATE_BALLOON_SIZE_FUNC), crosses)
    oom = _enclosing(spans, by_thread, spans.of(Function.VIRTIO_BALLOON_OOM_NOTIFY), crosses)
    migrate = _enclosing(spans, by_thread, spans.of(Function.VIRTBALLOON_MIGRATEPAGE), crosses)
    is_body = spans.of(Function.FILL_BALLOON, Function.LEAK_BALLOON) & (oom == NO_SPAN)
    body = _enclosing(spans, by_thread, is_body, crosses)
    send, window, bitmap = _find_sends(spans, by_thread, crosses)
    device = _devices(spans, (work, body, bitmap, window, oom, migrate))
    return Nesting(work, body, bitmap, window, oom, migrate, device, send, crosses)


def _find_sends(spans: Spans, by_thread: NDArray[np.intp], crosses: Mask) -> tuple[Mask, Column, Column]:
    """Which spans are sends, the window each span ran inside, and the set_page_bitmap or else the window."""
    tell_host = spans.of(Function.TELL_HOST)
    enclosing = _enclosing(spans, by_thread, tell_host, crosses)
    by_bitmap = spans.of(Function.SEND_RESP_DATA)
    is_window = np.zeros(len(spans) + 1, dtype=np.bool_)
    is_window[enclosing[by_bitmap]] = True  # the last element stands for NO_SPAN
    _enclosing(spans, by_thread, by_bitmap, crosses)
    bitmap = _enclosing(spans, by_thread, spans.of(Function.SET_PAGE_BITMAP), crosses)
    if by_bitmap.any():  # else send_resp_data was not traced, and windows stand in for what they send
        is_window[:-1] |= tell_host & (bitmap != NO_SPAN)
    window = np.where(is_window[enclosing] & (enclosing != NO_SPAN), enclosing, NO_SPAN)
    return by_bitmap | (tell_host & ~is_window[:-1]), window, np.where(bitmap != NO_SPAN, bitmap, window)


def find_work_items(spans: Spans, nesting: Nesting, unit_pages: int = 1) -> tuple[WorkItems, Column]:
    """All work items, and for each span the row of the work item whose send it is, or NO_SPAN.

    `unit_pages` are balloon pages in one page of the kernel.
    """
    work_spans = np.flatnonzero(spans.of(Function.UPDATE_BALLOON_SIZE_FUNC))
    work_spans = work_spans[np.argsort(nesting.device[work_spans], kind="stable")]
    row_of_span = np.full(len(spans) + 1, NO_SPAN, dtype=np.int64)
    row_of_span[work_spans] = np.arange(len(work_spans))
    # The last element stands for NO_SPAN (-1), so that looking up "inside nothing" gives NO_SPAN again.
    own = (nesting.oom == NO_SPAN) & (nesting.migrate == NO_SPAN)
    send_row = np.where(nesting.send & own, row_of_span[nesting.work], NO_SPAN)
    is_body = spans.of(Function.FILL_BALLOON, Function.LEAK_BALLOON) & (nesting.oom == NO_SPAN)
    body_row = np.where(is_body, row_of_span[nesting.work], NO_SPAN)
    is_bitmap = (nesting.bitmap == np.arange(len(spans))) & own
    bitmap_row = np.where(is_bitmap, row_of_span[nesting.work], NO_SPAN)
    return _collect(spans, nesting, work_spans, send_row, body_row, bitmap_row, unit_pages), send_row


def _enclosing(spans: Spans, by_thread: NDArray[np.intp], outer: Mask, crosses: Mask) -> Column:
    """For each span the latest `outer` span of its thread that started no later and ended no earlier.

    Right for functions that do not nest in themselves, which holds for all that are asked for here. What does
    all the same, and what begins inside such a span and ends after it, is marked in `crosses`.
    """
    if not outer.any():
        return np.full(len(spans), NO_SPAN, dtype=np.int64)
    tid, end_ns = spans.columns["tid"][by_thread], spans.end_ns[by_thread]
    start_ns = spans.int64("start_ns")[by_thread]
    positions = np.where(outer[by_thread], np.arange(len(spans)), -1)
    latest = np.maximum.accumulate(positions)
    same, until_ns = (latest >= 0) & (tid[latest] == tid), end_ns[latest]
    inside = same & (until_ns >= end_ns)
    crosses[by_thread[same & ~inside & (until_ns > start_ns)]] = True
    own = np.flatnonzero(positions >= 0)
    nests = (tid[own[1:]] == tid[own[:-1]]) & (start_ns[own[1:]] < end_ns[own[:-1]])
    crosses[by_thread[own[1:][nests]]] = True
    found = np.empty(len(spans), dtype=np.int64)
    found[by_thread] = np.where(inside, by_thread[latest], NO_SPAN)
    return found


def _devices(spans: Spans, containers: tuple[Column, ...]) -> Column:
    """Each span's device: its own, else that of a call around or inside it, else the only one there is."""
    device = np.where(spans.has(SpanFlag.DEVICE), spans.int64("device"), UNKNOWN_DEVICE)
    for outer in containers:
        inner = np.flatnonzero((outer != NO_SPAN) & (device != UNKNOWN_DEVICE))
        unknown = inner[device[outer[inner]] == UNKNOWN_DEVICE]
        device[outer[unknown]] = device[unknown]
        orphans = np.flatnonzero((device == UNKNOWN_DEVICE) & (outer != NO_SPAN))
        device[orphans] = device[outer[orphans]]
    known = np.unique(device[device != UNKNOWN_DEVICE])
    if len(known) == 1:
        device[:] = known[0]
    return device


def _collect(
    spans: Spans,
    nesting: Nesting,
    work_spans: NDArray[np.intp],
    send_row: Column,
    body_row: Column,
    bitmap_row: Column,
    unit_pages: int,
) -> WorkItems:
    count = len(work_spans)
    sends, bodies = np.flatnonzero(send_row != NO_SPAN), np.flatnonzero(body_row != NO_SPAN)
    bitmaps = np.flatnonzero(bitmap_row != NO_SPAN)
    in_body = sends[nesting.body[sends] != NO_SPAN]
    duration_ns, config_ns = spans.int64("duration_ns"), spans.measured("config_ns", SpanFlag.CONFIG)
    start_ns = spans.int64("start_ns")[work_spans]
    item_ns, item_config_ns = duration_ns[work_spans], config_ns[work_spans]
    send_ns = sums(duration_ns[sends], send_row[sends], count)
    has_body = np.bincount(body_row[bodies], minlength=count) > 0
    target = _optional(spans, "target_pages", SpanFlag.TARGET)[work_spans]
    # towards_target in virtio_balloon.c: else it would inflate and deflate for ever.
    goal = np.where(target == NOT_MEASURED, target, -(-target // unit_pages) * unit_pages)
    actual = _optional(spans, "actual_pages", SpanFlag.ACTUAL)[work_spans]
    pages, pages_known = _pages(
        spans,
        work_spans,
        (sends, send_row[sends]),
        (bodies, body_row[bodies]),
        (bitmaps, bitmap_row[bitmaps]),
    )
    step, step_known = _steps(
        nesting.device[work_spans], actual, start_ns + item_ns, _moved_by_others(spans, nesting)
    )
    by_step = ~pages_known & step_known
    pages = np.where(by_step, np.abs(step), pages)
    unguided = (target == NOT_MEASURED) | (actual == NOT_MEASURED)
    slept = item_ns - send_ns >= FAILED_ALLOCATION_SLEEP_NS
    asleep = unguided & slept
    direction = _direction(
        spans,
        # The sends last: what they say holds.
        (np.concatenate([bitmaps, sends]), np.concatenate([bitmap_row[bitmaps], send_row[sends]])),
        (bodies, body_row[bodies]),
        goal,
        actual,
        asleep,
    )
    direction = np.where(by_step & (direction == 0), np.sign(step), direction)
    send_in_body_ns = sums(duration_ns[in_body], send_row[in_body], count)
    last_send_end_ns = np.zeros(count, dtype=np.int64)
    np.maximum.at(last_send_end_ns, send_row[sends], spans.end_ns[sends])
    np.maximum.at(last_send_end_ns, bitmap_row[bitmaps], spans.end_ns[bitmaps])
    by_send = ~has_body & (direction > 0) & (last_send_end_ns > 0)
    stand_in_ns = np.where(by_send, last_send_end_ns - start_ns, item_ns)
    config_in_body_ns = sums(config_ns[bodies], body_row[bodies], count)
    in_bitmap = sends[nesting.bitmap[sends] != NO_SPAN]
    build_ns = sums(duration_ns[bitmaps], bitmap_row[bitmaps], count)
    build_ns -= sums(duration_ns[in_bitmap], send_row[in_bitmap], count)
    has_bitmap = np.bincount(bitmap_row[bitmaps], minlength=count) > 0
    sent = np.bincount(send_row[sends], minlength=count).astype(np.int64)
    return WorkItems(
        span=work_spans.astype(np.int64),
        device=nesting.device[work_spans],
        start_ns=start_ns,
        end_ns=start_ns + item_ns,
        direction=direction,
        active=direction != 0,
        pages=pages,
        pages_known=pages_known | by_step,
        target_pages=target,
        goal_pages=goal,
        actual_pages=actual,
        short=_short(direction, pages, goal, actual, asleep, has_bitmap)
        & (pages_known | by_step | unguided | (slept & (direction > 0))),
        sends=sent,
        send_ns=send_ns,
        build_ns=np.where(sent > 0, build_ns, 0),
        send_in_body_ns=np.where(has_body, send_in_body_ns, send_ns),
        body_bounded=has_body | by_send,
        body_ns=np.where(has_body, sums(duration_ns[bodies], body_row[bodies], count), stand_in_ns),
        config_measured=spans.has(SpanFlag.CONFIG)[work_spans],
        config_calls=spans.measured("config_calls", SpanFlag.CONFIG)[work_spans],
        config_ns=item_config_ns,
        config_in_body_ns=np.where(has_body, config_in_body_ns, item_config_ns),
    )


def _optional(spans: Spans, name: str, flag: SpanFlag) -> Column:
    return np.where(spans.has(flag), spans.int64(name), NOT_MEASURED)


def _pages(
    spans: Spans,
    work_spans: NDArray[np.intp],
    sends: tuple[NDArray[np.intp], Column],
    bodies: tuple[NDArray[np.intp], Column],
    bitmaps: tuple[NDArray[np.intp], Column],
) -> tuple[Column, Mask]:
    """Pages moved by each item, and whether anything says so.

    Its set_page_bitmap or windows do, else its sends, else its fill or leak, else the item itself. That no
    send was seen says nothing: it may have been lost.
    """
    count = len(work_spans)
    has_pages, has_result = spans.has(SpanFlag.PAGES), spans.has(SpanFlag.RESULT)
    counted, counted_row = (column[has_pages[bitmaps[0]]] for column in bitmaps)
    unsaid = np.bincount(sends[1][~has_pages[sends[0]]], minlength=count) > 0
    said = np.bincount(bodies[1][(has_pages | has_result)[bodies[0]]], minlength=count) > 0
    said |= np.bincount(counted_row, minlength=count) > 0
    pages = spans.measured("pages", SpanFlag.PAGES)
    # leak_balloon and fill_balloon return how many pages they moved.
    returned = np.maximum(spans.measured("result", SpanFlag.RESULT), 0)
    moved = np.where(spans.has(SpanFlag.PAGES), pages, returned)
    # Where windows stand in, each counts the pages of all of them.
    by_bitmap = np.zeros(count, dtype=np.int64)
    np.maximum.at(by_bitmap, counted_row, pages[counted])
    by_send = np.where(by_bitmap > 0, by_bitmap, sums(pages[sends[0]], sends[1], count))
    by_body = sums(moved[bodies[0]], bodies[1], count)
    moved_pages = np.where(by_send > 0, by_send, np.where(by_body > 0, by_body, pages[work_spans]))
    sent = np.bincount(sends[1], minlength=count) > 0
    return moved_pages, (sent & ~unsaid) | said | has_pages[work_spans]


def _moved_by_others(spans: Spans, nesting: Nesting) -> tuple[Column, Column]:
    """Starts and ends, each in order, of the calls which move a balloon's size outside of work items."""
    leak = spans.of(Function.LEAK_BALLOON) & (nesting.work == NO_SPAN)
    which = spans.of(Function.VIRTIO_BALLOON_OOM_NOTIFY) | leak
    return np.sort(spans.int64("start_ns")[which]), np.sort(spans.end_ns[which])


def _steps(
    device: Column, actual: Column, end_ns: Column, others_ns: tuple[Column, Column]
) -> tuple[Column, Mask]:
    """How far `actual` moved since the item before of the same device, and where both are known.

    Not where something else moved it meanwhile: `others_ns` are starts and ends of what does.
    """
    known = np.zeros(len(actual), dtype=np.bool_)
    known[1:] = (device[1:] == device[:-1]) & (actual[1:] != NOT_MEASURED) & (actual[:-1] != NOT_MEASURED)
    begun = np.searchsorted(others_ns[0], end_ns, side="right")
    over = np.searchsorted(others_ns[1], end_ns, side="left")
    known[1:] &= begun[1:] <= over[:-1]
    step = np.zeros(len(actual), dtype=np.int64)
    step[1:] = actual[1:] - actual[:-1]
    return np.where(known, step, 0), known


def _direction(
    spans: Spans,
    calls: tuple[NDArray[np.intp], Column],
    bodies: tuple[NDArray[np.intp], Column],
    target: Column,
    actual: Column,
    asleep: Mask,
) -> Column:
    """Which way each item went: by its calls' queue, the function it called, or where the target lay."""
    # An item with nothing to do returns before it writes `actual`, so both are known only if it tried.
    tried = (target != NOT_MEASURED) & (actual != NOT_MEASURED)
    direction = np.where(tried, np.sign(target - actual), np.where(asleep, 1, 0))
    filled = spans.columns["function"][bodies[0]] == Function.FILL_BALLOON
    direction[bodies[1]] = np.where(filled, 1, -1)
    on_queue = spans.has(SpanFlag.QUEUE)[calls[0]]
    queue = spans.columns["queue"][calls[0]][on_queue]
    direction[calls[1][on_queue]] = np.where(queue == Queue.INFLATE, 1, -1)
    return direction.astype(np.int64)


def _short(
    direction: Column, pages: Column, target: Column, actual: Column, asleep: Mask, by_bitmap: Mask
) -> Mask:
    """Items which moved less than they could although the target was farther away.

    An item moves one full send of page numbers at most, by bitmaps the whole distance.
    """
    tried = (target != NOT_MEASURED) & (actual != NOT_MEASURED)
    distance = direction * (target - actual) + pages
    got_less = pages < np.where(by_bitmap, distance, np.minimum(distance, PAGES_PER_WORK_ITEM))
    return np.asarray((direction != 0) & np.where(tried, got_less, asleep))

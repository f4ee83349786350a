# SPDX-License-Identifier: GPL-2.0-or-later
"""Spans that do not contradict each other; the others are left out, and counted, before all conclusions.

A thread is in one call at a time: of two calls one ends before the other begins, or lies inside it, and none
of the traced functions runs inside itself. Of a device one work item runs at a time. The parts of a work item
(configuration accesses, bodies, building, sends) take no longer than it does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.nesting import Nesting, nest_spans
from balloontrace.analysis.work_items import UNKNOWN_AT_START, AtStart, WorkItems, find_work_items
from balloontrace.errors import RecordingError

# Leaving out one span can take its device's name from others; never so often in a recording that was made.
_MOST_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Understood:
    """Consistent spans, what each ran inside, the work items, and the row of the item whose send each is."""

    spans: Spans
    nesting: Nesting
    items: WorkItems
    send_row: Column


def understand(spans: Spans, unit_pages: int = 1, at_start: AtStart = UNKNOWN_AT_START) -> Understood:
    """The largest consistent part of `spans` that is quickly found; RecordingError when there is none.

    `unit_pages` and `at_start` are for `find_work_items`.
    """
    nesting = nest_spans(spans)
    for _ in range(_MOST_ROUNDS):
        if nesting.crosses.any():
            spans = _leave_out(spans, _crossing(spans))
            nesting = nest_spans(spans)
        items, send_row = find_work_items(spans, nesting, unit_pages, at_start)
        odd = _overlapping(items) | _longer_inside(items)
        if not odd.any():
            return Understood(spans, nesting, items, send_row)
        left_out = np.zeros(len(spans), dtype=np.bool_)
        left_out[items.span[odd]] = True
        spans = _leave_out(spans, left_out)
        nesting = nest_spans(spans)
    raise RecordingError(
        "the recording's calls contradict each other, whichever are left out; it is unusable"
    )


def _leave_out(spans: Spans, left_out: Mask) -> Spans:
    count = int(np.count_nonzero(left_out))
    return replace(spans.without(left_out), contradictory=spans.contradictory + count)


def _crossing(spans: Spans) -> Mask:
    """The calls that their thread cannot have made beside those that began before them.

    Calls of idle tasks, which all have number 0, are told apart by their CPU.
    """
    tid = spans.int64("tid")
    thread = np.where(tid == 0, -1 - spans.int64("cpu"), tid)
    order = np.argsort(thread, kind="stable")
    columns = (thread, spans.columns["function"], spans.int64("start_ns"), spans.end_ns)
    crossing = np.zeros(len(spans), dtype=np.bool_)
    before: int | None = None
    stack: list[tuple[int, int]] = []
    for row, of, function, start_ns, end_ns in zip(
        order.tolist(), *(column[order].tolist() for column in columns), strict=True
    ):
        if of != before:
            before, stack = of, []
        while stack and stack[-1][0] <= start_ns:
            stack.pop()
        if stack and (end_ns > stack[-1][0] or any(function == other for _, other in stack)):
            crossing[row] = True
        else:
            stack.append((end_ns, function))
    return crossing


def _overlapping(items: WorkItems) -> Mask:
    """Of work items of one device that overlap, those beside which the fewest others have room."""
    same = items.device[1:] == items.device[:-1]
    overlapping = np.zeros(len(items), dtype=np.bool_)
    if not (same & (items.start_ns[1:] < items.end_ns[:-1])).any():
        return overlapping
    # Taking what ends first keeps as many as can be kept.
    order: NDArray[np.intp] = np.lexsort((items.end_ns, items.device))
    device, until_ns = None, 0
    columns = (items.device, items.start_ns, items.end_ns)
    for row, of, start_ns, end_ns in zip(
        order.tolist(), *(column[order].tolist() for column in columns), strict=True
    ):
        if of == device and start_ns < until_ns:
            overlapping[row] = True
        else:
            device, until_ns = of, end_ns
    return overlapping


def _longer_inside(items: WorkItems) -> Mask:
    """Work items whose parts take longer than they do."""
    item_ns = items.end_ns - items.start_ns
    sends_outside_ns = items.send_ns - items.send_in_body_ns
    config_outside_ns = items.config_ns - items.config_in_body_ns
    parts = (
        items.build_ns,
        config_outside_ns,
        sends_outside_ns,
        items.body_ns - items.send_in_body_ns - items.config_in_body_ns - items.build_ns,
        item_ns - items.body_ns - sends_outside_ns - config_outside_ns,
        item_ns - items.send_ns - items.config_ns,
    )
    longer: Mask = np.logical_or.reduce([part < 0 for part in parts])
    return longer

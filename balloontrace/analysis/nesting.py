# SPDX-License-Identifier: GPL-2.0-or-later
"""What each span ran inside, from time and thread alone, and which spans are sends.

A send is a call of `send_resp_data`, or of `tell_host` where it sends page numbers itself. In the driver with
the page-bitmap patch `tell_host` is otherwise a window of bitmaps, with `send_resp_data` inside; or without,
where the patch as posted loses the only page of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.format.vocabulary import Function, SpanFlag

NO_SPAN = -1
UNKNOWN_DEVICE = -1

# Functions with none of the other sorts inside: asked for to find calls that no thread can have made.
_ALONE = (
    Function.VIRTBALLOON_FREE_PAGE_REPORT,
    Function.REPORT_FREE_PAGE_FUNC,
    Function.VIRTIO_BALLOON_SHRINKER_SCAN,
)

_Value = TypeVar("_Value", np.int64, np.bool_)


@dataclass(frozen=True, slots=True)
class Nesting:
    """For each span, the index of the span of each sort that it ran inside (or is), or NO_SPAN.

    `bitmap` is `set_page_bitmap`, or where that was not traced the window. `away` is `virtballoon_freeze` or
    `virtballoon_remove`, `cycle` is `page_reporting_process`. `send` tells which ones are sends,
    `crosses` which ones no thread can have made: they begin inside a call and end after it, or a function
    was called inside itself.
    """

    work: Column
    body: Column
    bitmap: Column
    window: Column
    oom: Column
    migrate: Column
    away: Column
    cycle: Column
    device: Column
    send: Mask
    crosses: Mask


def look_up(values: NDArray[_Value], places: Column, none: int | bool) -> NDArray[_Value]:
    """`values` at each of `places`, and `none` where that is NO_SPAN."""
    return np.append(values, np.array(none, values.dtype))[places]  # NO_SPAN is the last element


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
    emptied = spans.of(Function.VIRTBALLOON_FREEZE, Function.VIRTBALLOON_REMOVE)
    away = _enclosing(spans, by_thread, emptied, crosses)
    cycle = _enclosing(spans, by_thread, spans.of(Function.PAGE_REPORTING_PROCESS), crosses)
    for function in _ALONE:
        _enclosing(spans, by_thread, spans.of(function), crosses)
    device = _devices(spans, (work, body, bitmap, window, oom, migrate, away, cycle))
    return Nesting(work, body, bitmap, window, oom, migrate, away, cycle, device, send, crosses)


def _find_sends(spans: Spans, by_thread: NDArray[np.intp], crosses: Mask) -> tuple[Mask, Column, Column]:
    """Which spans are sends, the window each span ran inside, and the set_page_bitmap or else the window."""
    tell_host = spans.of(Function.TELL_HOST)
    enclosing = _enclosing(spans, by_thread, tell_host, crosses)
    by_bitmap = spans.of(Function.SEND_RESP_DATA)
    is_window = np.zeros(len(spans), dtype=np.bool_)
    is_window[enclosing[by_bitmap & (enclosing != NO_SPAN)]] = True
    _enclosing(spans, by_thread, by_bitmap, crosses)
    bitmap = _enclosing(spans, by_thread, spans.of(Function.SET_PAGE_BITMAP), crosses)
    if by_bitmap.any():  # else send_resp_data was not traced, and windows stand in for what they send
        is_window |= tell_host & (bitmap != NO_SPAN)
    window = np.where(look_up(is_window, enclosing, none=False), enclosing, NO_SPAN)
    return by_bitmap | (tell_host & ~is_window), window, np.where(bitmap != NO_SPAN, bitmap, window)


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

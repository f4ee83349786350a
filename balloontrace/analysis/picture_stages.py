# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the time of an operation went, moment by moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.clockwork import Clockwork, Floats
from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.nesting import NO_SPAN, look_up
from balloontrace.analysis.picture_part import Part
from balloontrace.analysis.send_series import ways_of_sends
from balloontrace.format.stages import ABCD, BCD, BUILD, OTHER, TO_HOST, A, B, C, D
from balloontrace.format.vocabulary import Function
from balloontrace.results.pictures import (
    StageOverTime,
)


def time_stages(part: Part, stages: set[str]) -> dict[str, Clockwork]:
    """The stages that the operation's table shows, but for `other`, in order; what is left is that."""
    spans, operations = part.evidence.spans, part.evidence.operations
    nesting, sends = operations.nesting, part.sends
    starts_ns, ends_ns = spans.int64("start_ns"), spans.end_ns
    bodies_ns, stands_in = _bodies(part)
    sent = Clockwork.of(starts_ns[sends], ends_ns[sends])
    in_body = sends[(nesting.body[sends] != NO_SPAN) | look_up(stands_in, nesting.work[sends], none=False)]
    bitmaps = np.flatnonzero(part.own & (nesting.bitmap == np.arange(len(spans))))
    in_bitmap = sends[nesting.bitmap[sends] != NO_SPAN]
    build = _less(Clockwork.of(starts_ns[bitmaps], ends_ns[bitmaps]), spans, in_bitmap)
    allocate = _less(Clockwork.of(*bodies_ns), spans, in_body)
    if BUILD.code in stages:
        allocate = Clockwork(*_subtract(allocate, build))
    if ABCD.code in stages:
        return {ABCD.code: allocate}
    clocks = {A.code: allocate}
    if BUILD.code in stages:
        clocks[BUILD.code] = build
    if C.code not in stages:
        return {**clocks, BCD.code: sent}
    return {**clocks, **dict(_host_clocks(part, stages))}


def _bodies(part: Part) -> tuple[tuple[Column, Column], Mask]:
    """When pages were allocated or released, and by span, for which work items something stands in for that.

    Where the work item stands in, it begins by reading the target, which is not part of it.
    """
    spans, operations = part.evidence.spans, part.evidence.operations
    items, nesting, rows = operations.items, operations.nesting, part.items
    which = part.own & spans.of(Function.FILL_BALLOON, Function.LEAK_BALLOON) & (nesting.oom == NO_SPAN)
    bodies = np.flatnonzero(which)
    alone = rows[~np.isin(items.span[rows], nesting.work[bodies])]
    stands_in = np.zeros(len(spans), dtype=np.bool_)
    stands_in[items.span[alone]] = True
    start_ns = items.start_ns[alone]
    return (
        np.concatenate([spans.int64("start_ns")[bodies], start_ns + items.config_in_body_ns[alone]]),
        np.concatenate([spans.end_ns[bodies], start_ns + items.body_ns[alone]]),
    ), stands_in


def _less(whole: Clockwork, spans: Spans, without: NDArray[np.intp]) -> Clockwork:
    """`whole` without the time of some spans inside it."""
    inner = Clockwork.of(spans.int64("start_ns")[without], spans.end_ns[without])
    return Clockwork(*_subtract(whole, inner))


def _subtract(whole: Clockwork, inner: Clockwork) -> tuple[Floats, Floats]:
    at_ns = np.sort(np.concatenate([whole.at_ns, inner.at_ns]))
    times = at_ns.astype(np.int64)
    return at_ns, whole.until(times) - inner.until(times)


def _host_clocks(part: Part, stages: set[str]) -> Iterator[tuple[str, Clockwork]]:
    """Each send in its parts. Within a send, which is shorter than a column as a rule, they are spread."""
    host, spans, sends = part.evidence.host, part.evidence.spans, part.sends
    assert host is not None  # stages that only the host's side tells are there
    start_ns, duration_ns = spans.int64("start_ns")[sends], spans.int64("duration_ns")[sends]
    served_ns, calls_ns = host.served_ns[sends], host.calls_ns[sends]
    parts: dict[str, Column] = {}
    if TO_HOST.code in stages and host.to_host_ns is not None:
        for code, way in ways_of_sends(spans, sends, host).items():
            parts[code] = np.zeros(len(sends), dtype=np.int64)
            parts[code][way.rows] = way.ns
    else:
        parts[B.code] = duration_ns - served_ns
    parts |= {C.code: served_ns - calls_ns, D.code: calls_ns}
    for stage, part_ns in parts.items():
        yield stage, Clockwork.of(start_ns, start_ns + duration_ns, part_ns / np.maximum(duration_ns, 1))


def spread_over_time(clocks: Mapping[str, Clockwork], edges: Column) -> tuple[StageOverTime, ...]:
    """Each stage's part of each column; rounded so that its sum stays right, and `other` is the rest."""
    rest = np.diff(edges)
    shown = []
    for stage, clock in clocks.items():
        ns = np.diff(np.rint(clock.until(edges)).astype(np.int64))
        ns = np.clip(ns, 0, rest)
        rest = rest - ns
        shown.append(StageOverTime(stage, tuple(ns.tolist())))
    return (*shown, StageOverTime(OTHER.code, tuple(rest.tolist())))

# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens around the work items of operations: interrupts, removals of the driver, out of memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.group_statistics import sums
from balloontrace.analysis.nesting import NO_SPAN, UNKNOWN_DEVICE, Nesting
from balloontrace.analysis.work_items import WorkItems
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.results.recording_header import DriverGap


class Events:
    """Starts of the events that matter around work items, by device and in order."""

    def __init__(
        self,
        spans: Spans,
        nesting: Nesting,
        removal: Mask,
        gone: Sequence[tuple[int, int]],
        gaps: Sequence[DriverGap],
    ) -> None:
        self.traced_again_ns = [gap.back_ns for gap in gaps if gap.reattached and gap.back_ns is not None]
        self.interrupts = _starts(spans, nesting, spans.of(Function.VIRTBALLOON_CHANGED))
        removals = _starts(spans, nesting, removal)
        for device, at_ns in gone:
            removals.setdefault(device, []).append(at_ns)
        self.removals = {device: sorted(starts) for device, starts in removals.items()}
        oom = spans.of(Function.VIRTIO_BALLOON_OOM_NOTIFY)
        self.ooms = _starts(spans, nesting, oom)
        self.oom_pages: dict[int, list[int]] = defaultdict(list)
        pages = _oom_pages(spans, nesting)[oom]
        for device, count in zip(nesting.device[oom].tolist(), pages.tolist(), strict=True):
            self.oom_pages[device].append(count)

    def is_blind_between(self, end_ns: int, start_ns: int) -> bool:
        """Whether probes were gone for a time between an operation and the next: it may have begun then."""
        return any(end_ns <= back_ns <= start_ns for back_ns in self.traced_again_ns)


def find_gone(items: WorkItems, gaps: Sequence[DriverGap]) -> list[tuple[int, int]]:
    """Device and time of each look that found a device without its driver."""
    known = np.unique(items.device).tolist()
    return [
        (device, gap.gone_ns)
        for gap in gaps
        if gap.gone_ns is not None
        for device in known
        if device == UNKNOWN_DEVICE or f"virtio{device}" in gap.devices
    ]


def _starts(spans: Spans, nesting: Nesting, which: Mask) -> dict[int, list[int]]:
    starts: dict[int, list[int]] = defaultdict(list)
    pairs = zip(nesting.device[which].tolist(), spans.int64("start_ns")[which].tolist(), strict=True)
    for device, start_ns in pairs:
        starts[device].append(start_ns)
    return starts


def _oom_pages(spans: Spans, nesting: Nesting) -> Column:
    """Pages given back by each out-of-memory notification: what its leak_balloon sent or returned.

    Where that has no span, its sends tell.
    """
    leaks = np.flatnonzero(spans.of(Function.LEAK_BALLOON) & (nesting.oom != NO_SPAN))
    moved = np.where(
        spans.has(SpanFlag.PAGES),
        spans.int64("pages"),
        np.maximum(spans.measured("result", SpanFlag.RESULT), 0),
    )
    by_leak = sums(moved[leaks], nesting.oom[leaks], len(spans))
    pages = spans.measured("pages", SpanFlag.PAGES)
    sends = np.flatnonzero(nesting.send & (nesting.oom != NO_SPAN))
    by_send = sums(pages[sends], nesting.oom[sends], len(spans))
    return np.where(by_leak > 0, by_leak, np.where(by_send > 0, by_send, pages))


def find_removals(spans: Spans, nesting: Nesting, *, callers_seen: bool) -> Mask:
    """Calls of leak_balloon by which the driver empties the balloon when it is removed or frozen.

    Where virtballoon_freeze and virtballoon_remove were not traced, they come from a thread that runs no work
    items; a leak_balloon on one that does has merely lost its work item's span. Where spans of its callers
    were lost, this tells nothing.
    """
    orphans = spans.of(Function.LEAK_BALLOON) & (nesting.work == NO_SPAN) & (nesting.oom == NO_SPAN)
    workers = np.unique(spans.columns["tid"][spans.of(Function.UPDATE_BALLOON_SIZE_FUNC)])
    alone = ~np.isin(spans.columns["tid"], workers) if callers_seen else np.zeros_like(orphans)
    return np.asarray(orphans & ((nesting.away != NO_SPAN) | alone))

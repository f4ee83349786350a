# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages counted twice over: what the spans add up to, against the kernel's and the device's own counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from errno import ENOENT

import numpy as np

from balloontrace.events import BALLOON_PAGE_BYTES, Function, Queue, SpanFlag
from balloontrace.metadata import End
from balloontrace.moved import Unseen, Vmstat, find_unseen, moved_between
from balloontrace.operations import Operations
from balloontrace.results import IN_PROGRESS, Check, Header, Loss, Pairing
from balloontrace.units import format_count
from balloontrace.wire import Mask, Spans
from balloontrace.workitems import NO_SPAN, Nesting

SENDS = frozenset({Function.TELL_HOST, Function.SEND_RESP_DATA})
"""The functions of which one traced shows sends."""

_MAX_DEVICES = 64
_HOLDING = frozenset({Function.UPDATE_BALLOON_SIZE_FUNC.symbol, Function.LEAK_BALLOON.symbol})


def check_counts(
    spans: Spans,
    operations: Operations,
    header: Header,
    traced: Set[Function],
    vmstats: tuple[Mapping[str, int], Mapping[str, int]],
    named_pages: Mapping[Queue, int | None],
) -> tuple[Check, ...]:
    """Each identity that ought to hold, and whether it does; `agrees` is None where one side is unknown.

    `vmstats` are /proc/vmstat before and after. The kernel counts BALLOON_INFLATE and BALLOON_DEFLATE where
    a page enters or leaves a balloon, and BALLOON_MIGRATE apart from both (mm/balloon_compaction.c and
    virtballoon_migratepage), each in its own page size. `named_pages` are those that payloads name, each
    once.
    """
    sends, sends_traced = _counted_sends(spans, operations, traced)
    # MIGRATEPAGE_SUCCESS is 0; finding the lock taken gives -EAGAIN and moves nothing.
    moved = spans.of(Function.VIRTBALLOON_MIGRATEPAGE) & (spans.measured("result", SpanFlag.RESULT) == 0)
    migrated = int(np.count_nonzero(moved)) if Function.VIRTBALLOON_MIGRATEPAGE in traced else None
    unit_pages = _unit_pages(header)
    note = _running(operations)
    counts = (
        ("balloon_inflate", _pages(spans, sends, Queue.INFLATE) if sends_traced else None, unit_pages),
        ("balloon_deflate", _pages(spans, sends, Queue.DEFLATE) if sends_traced else None, unit_pages),
        ("balloon_migrate", migrated, 1),
    )
    named = [
        _check_named(f"balloon_{queue.name.lower()}", pages, vmstats, unit_pages, note)
        for queue, pages in named_pages.items()
    ]
    return (
        *(
            _check(name, counted, _change(vmstats, name, unit), "/proc/vmstat", note)
            for name, counted, unit in counts
        ),
        *named,
        *(
            _against_actual(spans, operations.nesting, sends, (_actual_source(header), note))
            if sends_traced
            else ()
        ),
    )


def find_pages_unseen(
    spans: Spans,
    operations: Operations,
    header: Header,
    traced: Set[Function],
    before: Vmstat,
    end: End | None,
) -> Unseen | None:
    """Pages that moved while probes were attached, and are in no span; None where the kernel's count lacks.

    Of a recording before format 1.2 nobody knows what moved between detaching and the kernel's count, unless
    nothing was under way then.
    """
    unit_pages = _unit_pages(header)
    if end is None or unit_pages is None:
        return None
    moved = moved_between(before, end.vmstat_traced or end.vmstat, unit_pages)
    under_way_pages = end.under_way_pages
    if not end.vmstat_traced:
        under_way_pages = None if _under_way_at_end(operations, end.losses) else 0
    sends, known = _counted_sends(spans, operations, traced)
    seen_pages = _pages(spans, sends, Queue.INFLATE) + _pages(spans, sends, Queue.DEFLATE)
    failed = spans.of(Function.VIRTBALLOON_MIGRATEPAGE) & (
        spans.measured("result", SpanFlag.RESULT) == -ENOENT
    )
    return find_unseen(
        moved,
        seen_pages if known or not len(spans) else None,
        under_way_pages,
        migrations_failed=int(np.count_nonzero(failed)) * unit_pages,
    )


def _under_way_at_end(operations: Operations, losses: Sequence[Loss]) -> bool:
    """Whether a call that moves pages had not returned, or an operation had not reached its target."""
    held = any((loss.entries or 0) > (loss.returns or 0) for loss in losses if loss.function in _HOLDING)
    return held or any(found.outcome == IN_PROGRESS for found in operations.found)


def check_pairs(pairing: Pairing) -> tuple[Check, ...]:
    """Sends of the guest against the buffers its host served."""
    note = None
    if pairing.sends != pairing.batches:
        note = f"{format_count(pairing.pairs)} of them are the same; one side was recorded for longer"
    return (_check("sends", pairing.sends, pairing.batches, "batches of the host", note),)


def _check_named(
    name: str,
    pages: int | None,
    vmstats: tuple[Mapping[str, int], Mapping[str, int]],
    unit_pages: int | None,
    note: str | None,
) -> Check:
    """Pages the host was told of, against those the kernel moved."""
    moved = _change(vmstats, name, unit_pages)
    if note is None and pages is not None and moved is not None and pages < moved:
        note = f"{format_count(moved - pages)} pages were moved, and the host was not told"
    return _check(f"{name}, as payloads name", pages, moved, "/proc/vmstat", note)


def pages_of_sends_known(spans: Spans, nesting: Nesting) -> bool:
    """Whether sends, or what leads to them, say how many pages they name; not without type information."""
    counting = nesting.send | spans.of(Function.SET_PAGE_BITMAP)
    return bool(spans.has(SpanFlag.PAGES)[counting].any() or not nesting.send.any())


def _counted_sends(spans: Spans, operations: Operations, traced: Set[Function]) -> tuple[Mask, bool]:
    """The spans whose pages make up what operations moved, and whether all of them say how many and where."""
    sends = (operations.nesting.send | spans.of(Function.SET_PAGE_BITMAP)) & spans.has(SpanFlag.PAGES)
    sends &= operations.nesting.migrate == NO_SPAN
    known = bool(SENDS & traced) and pages_of_sends_known(spans, operations.nesting)
    known &= bool(spans.has(SpanFlag.QUEUE)[sends].all())  # else nobody knows which way pages went
    return sends, known


def _unit_pages(header: Header) -> int | None:
    """Balloon pages in one page of the recorded kernel."""
    page_bytes = header.machine.page_size_bytes
    return page_bytes // BALLOON_PAGE_BYTES if page_bytes and page_bytes >= BALLOON_PAGE_BYTES else None


def _change(
    vmstats: tuple[Mapping[str, int], Mapping[str, int]], name: str, unit_pages: int | None
) -> int | None:
    before, after = vmstats[0].get(name), vmstats[1].get(name)
    return None if before is None or after is None or unit_pages is None else (after - before) * unit_pages


def _pages(spans: Spans, sends: Mask, queue: Queue) -> int:
    on_queue = sends & spans.has(SpanFlag.QUEUE) & (spans.columns["queue"] == queue)
    return int(spans.int64("pages")[on_queue].sum())


def _running(operations: Operations) -> str | None:
    """Why counts may differ although nothing is wrong."""
    if any(found.started_before_recording or found.outcome == IN_PROGRESS for found in operations.found):
        return "an operation was under way when the recording started or ended"
    return None


def _check(name: str, spans: int | None, independent: int | None, source: str, note: str | None) -> Check:
    agrees = None if spans is None or independent is None else spans == independent
    return Check(name, spans, independent, source, agrees, note if agrees is False else None)


def _actual_source(header: Header) -> str:
    """Where the balloon's size was seen: in the driver's own count, else in what it wrote."""
    written = any(probe.function == "config_set" and probe.status == "attached" for probe in header.probes)
    return "configuration space" if written else "driver's num_pages"


def _against_actual(
    spans: Spans, nesting: Nesting, sends: Mask, where: tuple[str, str | None]
) -> list[Check]:
    """Per device: pages sent, inflated less deflated, against the change of the balloon's size."""
    source, note = where
    writes = spans.has(SpanFlag.ACTUAL)
    signed = np.where(spans.columns["queue"] == Queue.INFLATE, 1, -1) * spans.int64("pages")
    checks = []
    for device in np.unique(nesting.device[writes])[:_MAX_DEVICES].tolist():
        mine = nesting.device == device
        written = np.flatnonzero(writes & mine)
        first, last = written[0], written[np.argmax(spans.end_ns[written])]
        chosen = sends & mine & (spans.int64("start_ns") >= spans.int64("start_ns")[first])
        chosen &= spans.end_ns <= spans.end_ns[last]
        counted = int(signed[chosen].sum())
        # What the size was before the first look is not seen: it is what that call made of it, undone.
        within = chosen & (spans.end_ns <= spans.end_ns[first])
        actual = spans.int64("actual_pages")
        change = int(actual[last] - actual[first]) + int(signed[within].sum())
        name = f"actual of virtio{device}" if device >= 0 else "actual"
        checks.append(_check(name, counted, change, source, note))
    return checks

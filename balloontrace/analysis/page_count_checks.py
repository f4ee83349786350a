# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages counted twice over: what the spans add up to, against the kernel's and the device's own counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from errno import ENOENT

import numpy as np

from balloontrace.analysis.balloon_sizes import Moves, Told, Watched, independent_state, size_to_count_from
from balloontrace.analysis.columns import Batches, Spans
from balloontrace.analysis.metadata import End
from balloontrace.analysis.operations import Operations
from balloontrace.analysis.other_buffers import ServedReports
from balloontrace.format.balloon_size import VMSTAT, kernel_page_in_pages
from balloontrace.format.moved_pages import Unseen, Vmstat, find_unseen, moved_between
from balloontrace.format.vocabulary import Function, Queue, SpanFlag
from balloontrace.results.balloon import Balloon
from balloontrace.results.host_side import Pairing
from balloontrace.results.operation import IN_PROGRESS
from balloontrace.results.recorder import Loss
from balloontrace.results.recording_header import Header
from balloontrace.results.report import Check
from balloontrace.units import format_things

NO_SOURCE = "no other source"
ALL_BALLOONS = "size of all balloons"

_HOLDING = frozenset({Function.UPDATE_BALLOON_SIZE_FUNC.symbol, Function.LEAK_BALLOON.symbol})


def check_counts(
    spans: Spans,
    moves: Moves | None,
    operations: Operations,
    header: Header,
    traced: Set[Function],
    vmstats: tuple[Mapping[str, int], Mapping[str, int]],
    named_pages: Mapping[Queue, int | None],
    migrated_unseen_pages: int = 0,
) -> tuple[Check, ...]:
    """Each identity that ought to hold, and whether it does; `agrees` is None where one side is unknown.

    `vmstats` are /proc/vmstat before and after. The kernel counts BALLOON_INFLATE and BALLOON_DEFLATE where
    a page enters or leaves a balloon, in its own page size. BALLOON_MIGRATE is counted separately
    (mm/balloon_compaction.c and virtballoon_migratepage). `named_pages` are those that payloads name, each
    once; `migrated_unseen_pages` those that compaction moved without a span.
    """
    # MIGRATEPAGE_SUCCESS is 0; finding the lock taken gives -EAGAIN and moves nothing.
    moved = spans.of(Function.VIRTBALLOON_MIGRATEPAGE) & (spans.measured("result", SpanFlag.RESULT) == 0)
    migrated = int(np.count_nonzero(moved)) if Function.VIRTBALLOON_MIGRATEPAGE in traced else None
    unit_pages = kernel_page_in_pages(header.machine.page_size_bytes)
    if migrated is not None:
        migrated += migrated_unseen_pages // (unit_pages or 1)
    note = _running(operations)
    counts = (
        ("balloon_inflate", None if moves is None else moves.sum_of(moves.pages > 0), unit_pages),
        ("balloon_deflate", None if moves is None else -moves.sum_of(moves.pages < 0), unit_pages),
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
    )


def check_sizes(
    balloons: Sequence[Balloon], watched: Sequence[Watched], ends: tuple[Told, Told], operations: Operations
) -> Iterator[Check]:
    """Per balloon: its size at the start and what moved since, against its size at the end.

    Both sizes are of a source that the spans are none of; the driver's own count proves nothing of them.
    """
    note = _running(operations)
    counted = [
        seen.size_after(size_to_count_from(balloon.at_start))
        for balloon, seen in zip(balloons, watched, strict=True)
    ]
    for balloon, pages in zip(balloons, counted, strict=True):
        end = independent_state(ends[1], balloon.device)
        if end.present:
            yield _check(
                f"size of {balloon.device}", pages, end.size_pages, end.size_source or NO_SOURCE, note
            )
    # What devices say at the start, against what the kernel has counted since boot.
    read = [each.size_pages for each in ends[0].sizes.values()]
    if ends[1].all_pages is not None and None not in (*read, *counted):
        pages = sum(each or 0 for each in counted)
        yield _check(ALL_BALLOONS, pages, ends[1].all_pages, VMSTAT, note)


def find_pages_unseen(
    spans: Spans, moves: Moves | None, operations: Operations, header: Header, before: Vmstat, end: End | None
) -> Unseen | None:
    """Pages that moved while probes were attached, and are in no span; None where the kernel's count lacks.

    Of a recording before format 1.2 it is not known what moved between detaching and the kernel's count,
    unless nothing was under way then.
    """
    unit_pages = kernel_page_in_pages(header.machine.page_size_bytes)
    if end is None or unit_pages is None:
        return None
    moved = moved_between(before, end.vmstat_traced or end.vmstat, unit_pages)
    under_way_pages = end.under_way_pages
    if not end.vmstat_traced:
        under_way_pages = None if _under_way_at_end(operations, end.losses) else 0
    seen_pages = None if len(spans) else 0
    if moves is not None:
        seen_pages = int(np.abs(moves.pages).sum())
    failed = spans.of(Function.VIRTBALLOON_MIGRATEPAGE) & (
        spans.measured("result", SpanFlag.RESULT) == -ENOENT
    )
    return find_unseen(
        moved,
        seen_pages,
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
        same = format_things(pairing.pairs, "of them is", "of them are")
        lost = pairing.sends_alone or pairing.batches_alone
        note = f"{same} the same; {'some were lost' if lost else 'one side was recorded for longer'}"
    return (_check("sends", pairing.sends, pairing.batches, "batches of the host", note),)


def check_reports(spans: Spans, reports: ServedReports, batches: Batches) -> tuple[Check, ...]:
    """Pages the guest reported while the host was recorded against those of the calls for it."""
    within = reports.within
    if not len(within):
        return ()
    known = spans.has(SpanFlag.PAGES)[within].all()
    pages = int(spans.int64("pages")[within].sum()) if known else None
    return (_check("reported pages", pages, reports.pages(batches), "calls of the host", None),)


def _check_named(
    name: str,
    pages: int | None,
    vmstats: tuple[Mapping[str, int], Mapping[str, int]],
    unit_pages: int | None,
    note: str | None,
) -> Check:
    """Pages the host was told of, compared with those the kernel moved."""
    moved = _change(vmstats, name, unit_pages)
    if note is None and pages is not None and moved is not None and pages < moved:
        note = f"{format_things(moved - pages, 'page was', 'pages were')} moved, and the host was not told"
    return _check(f"{name}, as payloads name", pages, moved, "/proc/vmstat", note)


def _change(
    vmstats: tuple[Mapping[str, int], Mapping[str, int]], name: str, unit_pages: int | None
) -> int | None:
    before, after = vmstats[0].get(name), vmstats[1].get(name)
    # The kernel's counts only grow.
    if before is None or after is None or unit_pages is None or after < before:
        return None
    return (after - before) * unit_pages


def _running(operations: Operations) -> str | None:
    """Why counts may differ although nothing is wrong."""
    if any(found.started_before_recording or found.outcome == IN_PROGRESS for found in operations.found):
        return "an operation was under way when the recording started or ended"
    return None


def _check(name: str, spans: int | None, independent: int | None, source: str, note: str | None) -> Check:
    agrees = None if spans is None or independent is None else spans == independent
    return Check(name, spans, independent, source, agrees, note if agrees is False else None)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page hinting with known answers, as spans beside those of a flow."""

from __future__ import annotations

from flows import Span

from balloontrace.format.vocabulary import Function, SpanFlag

BLOCK_PAGES = 1024
SETTINGS = {"order": 10}
STOP, DONE, FIRST, SECOND = 0, 1, 1 << 31, (1 << 31) + 1
CALL_NS, TID = 50_000, 91


def hint_span(
    start_ns: int,
    command: int,
    received: int,
    *,
    blocks: int = 0,
    returned: int = 0,
    held: int = 0,
    device: int = 0,
) -> Span:
    """A call of the work item: `blocks` sent under `command`, or `returned` to the allocator."""
    flags = SpanFlag.DEVICE | SpanFlag.PAGES
    return Span(
        start_ns,
        CALL_NS,
        TID,
        function=Function.REPORT_FREE_PAGE_FUNC,
        flags=flags,
        device=device,
        pages=blocks * BLOCK_PAGES,
        target_pages=command,
        actual_pages=received,
        config_ns=returned * BLOCK_PAGES | held << 32,
    )


def shrink_span(start_ns: int, blocks: int, *, duration_ns: int = 7_000, tid: int = 92) -> Span:
    """The shrinker gives back so many."""
    pages = blocks * BLOCK_PAGES
    return Span(
        start_ns,
        duration_ns,
        tid,
        function=Function.VIRTIO_BALLOON_SHRINKER_SCAN,
        flags=SpanFlag.DEVICE | SpanFlag.PAGES | SpanFlag.RESULT,
        pages=pages,
        result=pages,
    )


def migration_spans(start_ns: int) -> list[Span]:
    """100 blocks until none is left; stopped; 3 more until stopped; 40 to the shrinker in two calls; done."""
    ms = 10**6
    return [
        hint_span(start_ns, FIRST, FIRST, blocks=100, held=100),
        hint_span(start_ns + ms, 0, STOP, held=100),
        hint_span(start_ns + 2 * ms, SECOND, STOP, blocks=3, held=103),
        shrink_span(start_ns + 3 * ms, 39),
        shrink_span(start_ns + 4 * ms, 1),
        hint_span(start_ns + 9 * ms, 0, DONE, returned=63),
    ]

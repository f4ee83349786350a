# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the pages that reports name an earlier report of the same recording had named already.

A captured report has the place of each block (`struct bt_block`). Blocks of different orders may lie on each
other: free blocks grow together before they are reported again. So pages are compared, not blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask, Payload, Payloads, Spans
from balloontrace.analysis.nesting import NO_SPAN, Nesting
from balloontrace.analysis.page_reports import blocks_of, reported
from balloontrace.analysis.page_sets import PFN_END, topmost
from balloontrace.analysis.payload_statistics import State
from balloontrace.analysis.payloads_of_operations import payload_of_spans
from balloontrace.format.guest_layout import BLOCK
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES

_BLOCK_TYPE = np.dtype([("first_page", "<u8"), ("bytes", "<u4"), ("padding", "<u4")])
assert _BLOCK_TYPE.itemsize == BLOCK.size_bytes


@dataclass(frozen=True, slots=True)
class NamedReports:
    """The reports that reached the host, in order, a row for each.

    `span` is its place among the spans. Where `state` is WHOLE, `pages` are those it named, and `new_pages`
    those of them that no report before had named; elsewhere both are 0 and mean nothing.
    """

    span: NDArray[np.intp]
    state: NDArray[np.uint8]
    pages: Column
    new_pages: Column

    @property
    def are_whole(self) -> bool:
        """Whether all of them are known, so that what is new in each is known too."""
        return not self.state.any()

    @property
    def pages_again(self) -> Column:
        """Of each report the pages that one before had named."""
        again: Column = self.pages - self.new_pages
        return again

    def cycles_again(self, nesting: Nesting) -> int:
        """In how many cycles some of them were."""
        cycles = nesting.cycle[self.span[self.pages_again > 0]]
        return len(np.unique(cycles[cycles != NO_SPAN]))


def name_reports(spans: Spans, payloads: Payloads, unit_pages: int) -> NamedReports:
    """What each report named, by its payload; a page of the guest's kernel is `unit_pages` of 4 KiB."""
    span = np.flatnonzero(reported(spans))
    of_span = payload_of_spans(spans, payloads.of_reports)
    captured = [of_span.get(index) for index in span.tolist()]
    state = np.array([_state(payload) for payload in captured], dtype=np.uint8)
    blocks = [
        np.frombuffer(payload.data if payload and known == State.WHOLE else b"", _BLOCK_TYPE)
        for payload, known in zip(captured, state.tolist(), strict=True)
    ]
    rank = np.repeat(np.arange(len(blocks)), [len(each) for each in blocks])
    joined = np.concatenate([np.empty(0, _BLOCK_TYPE), *blocks])
    possible = _possible(joined, unit_pages)
    state[rank[~possible]] = State.INVALID
    starts = joined["first_page"].astype(np.int64) * unit_pages
    pages = joined["bytes"].astype(np.int64) // BALLOON_PAGE_BYTES
    # Blocks that are not those of the span, by number or by pages, are of no use.
    counts = np.bincount(rank, minlength=len(span))
    sums = np.bincount(rank, pages, minlength=len(span)).astype(np.int64)
    wrong = (counts != blocks_of(spans)[span]) | (sums != spans.int64("pages")[span])
    state[wrong & (state == State.WHOLE)] = State.INVALID
    kept = state[rank] == State.WHOLE
    new_pages = _new_pages(starts[kept], pages[kept], rank[kept], len(span))
    return NamedReports(span, state, np.where(state == State.WHOLE, sums, 0), new_pages)


def _state(payload: Payload | None) -> State:
    if payload is None:
        return State.MISSING
    if payload.cut:
        return State.CUT
    return State.INVALID if len(payload.data) % BLOCK.size_bytes else State.WHOLE


def _possible(blocks: NDArray[np.void], unit_pages: int) -> Mask:
    """Which blocks lie where pages can be, and have whole pages."""
    whole = (blocks["bytes"] % np.uint32(unit_pages * BALLOON_PAGE_BYTES) == 0) & (blocks["bytes"] > 0)
    possible: Mask = whole & (blocks["first_page"] < np.uint64(PFN_END // 2 // unit_pages))
    return possible


def _new_pages(starts: Column, pages: Column, rank: NDArray[np.intp], count: int) -> Column:
    """How many pages of each report none before had named."""
    # Of several reports that name a page the first is to lie on top.
    pieces = topmost(starts, starts + pages, count - 1 - rank)
    sizes = np.zeros(count, dtype=np.int64)
    np.add.at(sizes, count - 1 - pieces.ranks, pieces.ends - pieces.starts)
    return sizes

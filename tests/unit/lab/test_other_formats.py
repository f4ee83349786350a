# SPDX-License-Identifier: GPL-2.0-or-later
"""What pages would take in other formats is what an encoder makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from bitmap_reference import BITMAP_PAGES, MOST_BITMAPS, decode, encode, runs, window_starts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balloontrace.analysis.other_formats import Cost, as_blocks, as_page_bitmaps, as_ranges, whole_blocks
from balloontrace.analysis.page_sets import PageSet

BLOCK = 512


def page_set(pages: set[int]) -> PageSet:
    pfns = np.array(sorted(pages), dtype=np.int64)
    return PageSet.from_runs(pfns, pfns + 1)


@st.composite
def page_sets(draw: st.DrawFn) -> set[int]:
    """Runs of pages, most of them near the boundaries of words, blocks and bitmaps."""
    pages: set[int] = set()
    for _ in range(draw(st.integers(1, 12))):
        unit = draw(st.sampled_from([1, 64, BLOCK, 4096, BITMAP_PAGES]))
        start = max(0, draw(st.integers(0, 3 * BITMAP_PAGES // unit)) * unit + draw(st.integers(-3, 3)))
        length = draw(st.one_of(st.integers(1, 700), st.sampled_from([63, 64, 65, 512, 1024, 4095, 4096])))
        pages.update(range(start, start + length))
    return pages


def encoded(pages: set[int]) -> Cost:
    """By the encoder written from the description of the format; the host is told each run of a record."""
    payloads = encode(pages, pages, MOST_BITMAPS)
    records = [record for payload in payloads for record in decode(payload)]
    told = sum(len(list(runs(record.pages()))) for record in records)
    words = sum(map(len, payloads))
    return Cost(len(payloads), len(records), 8 * words + 8 * len(payloads), told)


@settings(max_examples=150, deadline=None)
@given(page_sets())
@example({0, 1, 63, 64, 127, 129})
@example({BITMAP_PAGES - 1, BITMAP_PAGES, BITMAP_PAGES + 1})
@example({5, *range(70, 70 + 2 * BITMAP_PAGES)})
def test_page_bitmaps_take_what_an_encoder_makes_of_them(pages: set[int]) -> None:
    # The patch never names a lone page whose number is a multiple of 64.
    if len(window_starts(pages, MOST_BITMAPS)):
        assert as_page_bitmaps(page_set(pages)) == encoded(pages)


@pytest.mark.parametrize("every", [2, 3, 65])
def test_pages_in_small_pieces_take_several_sends(every: int) -> None:
    pages = set(range(7, 300_000, every))
    cost = as_page_bitmaps(page_set(pages))
    assert cost == encoded(pages)
    assert cost.sends > 1


def test_ranges_take_a_word_or_two_each() -> None:
    pages = {*range(10, 20), *range(100, 100 + 4095), *range(10_000, 10_000 + 4096)}
    assert as_ranges(page_set(pages)) == Cost(sends=1, records=3, bytes_sent=4 * 8 + 8, runs=3)
    many = set(range(0, 2 * 10_000, 2))
    assert as_ranges(page_set(many)) == Cost(3, 10_000, 8 * 10_000 + 3 * 8, 10_000)


@settings(max_examples=100, deadline=None)
@given(page_sets())
def test_blocks_are_those_that_are_whole(pages: set[int]) -> None:
    blocks = [
        at for at in {pfn // BLOCK for pfn in pages} if pages >= set(range(at * BLOCK, (at + 1) * BLOCK))
    ]
    single = len(pages) - BLOCK * len(blocks)
    assert whole_blocks(page_set(pages)) == len(blocks)
    cost = as_blocks(page_set(pages))
    assert (cost.records, cost.runs, cost.bytes_sent) == (len(blocks) + single,) * 2 + (4 * cost.records,)
    assert cost.sends == -(-len(blocks) // 256) + -(-single // 256)


def test_no_pages_take_nothing() -> None:
    nothing = Cost(0, 0, 0, 0)
    assert [of(PageSet.empty()) for of in (as_page_bitmaps, as_ranges, as_blocks)] == [nothing] * 3

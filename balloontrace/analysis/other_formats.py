# SPDX-License-Identifier: GPL-2.0-or-later
"""A set of pages in formats that a driver could name them in: how many sends, records, bytes and calls.

Page bitmaps are those of the patch of 2016, counted without writing them: `lab/driver/page_bitmap.h` is an
encoder, and a unit test compares the two. A word that is full is in a plain run. One that has some of its
bits set is sent once. A range has its page in 52 bits and its length in 12, and a longer one has a second
word. Blocks are numbers in arrays of 256, as the stock driver sends them, apart from those of single pages.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from balloontrace.analysis.group_statistics import Int64s
from balloontrace.analysis.page_sets import PageSet
from balloontrace.analysis.payload_decoding import PFN_BYTES, WORD_BYTES, WORD_PAGES, popcount
from balloontrace.analysis.payload_statistics import RESPONSE_HEADER_BYTES

BITMAP_PAGES = 1 << 18  # 32 KiB of bits
WINDOW_PAGES = 32 * BITMAP_PAGES
BUFFER_WORDS = 4096
# With more of them used, the patch sends before the next run.
_MOST_WORDS_BEFORE_A_RUN = 4032
_LONGEST_SHORT_RANGE = (1 << 12) - 1
ARRAY_NUMBERS = 256
BLOCK_PAGES = 512


@dataclass(frozen=True, slots=True)
class Cost:
    """What some pages take in a format; `runs` is how many runs of pages a host is told, one by one."""

    sends: int
    records: int
    bytes_sent: int
    runs: int


def as_page_bitmaps(pages: PageSet) -> Cost:
    """Records of bitmap words and of powers of two, in one pass."""
    if not pages.count:
        return Cost(0, 0, 0, 0)
    base = int(pages.starts[0]) // WORD_PAGES * WORD_PAGES
    starts, ends = _cut(pages.starts - base, pages.ends - base, BITMAP_PAGES)
    # What a word before has named is not looked at again.
    seen_to = np.append(0, _round_up(ends[:-1]))
    from_pages = np.maximum(starts, seen_to)
    left = from_pages < ends
    from_pages, to_pages = from_pages[left], ends[left]
    first_whole, end_whole = _round_up(from_pages), to_pages // WORD_PAGES * WORD_PAGES
    head = from_pages % WORD_PAGES != 0
    tail = (to_pages % WORD_PAGES != 0) & (first_whole < _round_up(to_pages))
    plain = popcount(np.maximum(end_whole - first_whole, 0).astype(np.uint64) // np.uint64(WORD_PAGES))
    words = 2 * head.astype(np.int64) + 2 * tail + plain
    sends = _count_sends(words, from_pages // WINDOW_PAGES, _MOST_WORDS_BEFORE_A_RUN)
    bitmap_words, plain_runs = int(head.sum() + tail.sum()), int(plain.sum())
    return Cost(
        sends=sends,
        records=bitmap_words + plain_runs,
        bytes_sent=WORD_BYTES * int(words.sum()) + RESPONSE_HEADER_BYTES * sends,
        runs=plain_runs + _stretches_in_words(starts, ends),
    )


def as_ranges(pages: PageSet) -> Cost:
    """One record a run, in buffers as large as those of page bitmaps."""
    words = 1 + (pages.lengths > _LONGEST_SHORT_RANGE).astype(np.int64)
    runs = len(words)
    sends = _count_sends(words, np.zeros(runs, dtype=np.int64), BUFFER_WORDS - 2)
    size_bytes = WORD_BYTES * int(words.sum()) + RESPONSE_HEADER_BYTES * sends
    return Cost(sends, runs, size_bytes, runs)


def as_blocks(pages: PageSet) -> Cost:
    """A number for each whole block, and one for each page beside them."""
    blocks = whole_blocks(pages)
    single = pages.count - BLOCK_PAGES * blocks
    sends = sum(-(-numbers // ARRAY_NUMBERS) for numbers in (blocks, single))
    numbers = blocks + single
    return Cost(sends, numbers, PFN_BYTES * numbers, numbers)


def whole_blocks(pages: PageSet) -> int:
    """How many aligned blocks of 2 MiB have all of their pages in the set."""
    firsts, ends = -(-pages.starts // BLOCK_PAGES), pages.ends // BLOCK_PAGES
    return int(np.maximum(ends - firsts, 0).sum())


def _round_up(pages: Int64s) -> Int64s:
    """To whole words."""
    rounded: Int64s = -(-pages // WORD_PAGES) * WORD_PAGES
    return rounded


def _cut(starts: Int64s, ends: Int64s, every_pages: int) -> tuple[Int64s, Int64s]:
    """The same runs, in parts that each lie between two borders."""
    parts = (ends - 1) // every_pages - starts // every_pages + 1
    run = np.repeat(np.arange(len(starts)), parts)
    border = (starts // every_pages)[run] + np.arange(len(run)) - np.repeat(np.cumsum(parts) - parts, parts)
    return (
        np.maximum(starts[run], border * every_pages),
        np.minimum(ends[run], (border + 1) * every_pages),
    )


def _stretches_in_words(starts: Int64s, ends: Int64s) -> int:
    """How many stretches of bits these runs are in words that are not full."""
    head, tail = starts % WORD_PAGES != 0, ends % WORD_PAGES != 0
    in_one_word = head & (starts // WORD_PAGES == (ends - 1) // WORD_PAGES)
    return int((head | tail).sum() + (head & tail & ~in_one_word).sum())


def _count_sends(words: Int64s, window: Int64s, most_before: int) -> int:
    """Buffers it takes for runs of so many words, if one is sent before a run that finds more words used."""
    sends = 0
    for first, end in _bounds(window):
        used = np.cumsum(words[first:end])
        at, before = 0, 0
        while at < end - first:
            # The run after the first one that leaves more used than that begins the next buffer.
            at = int(np.searchsorted(used, before + most_before, side="right")) + 1
            before = int(used[min(at, end - first) - 1])
            sends += 1
    return sends


def _bounds(window: Int64s) -> list[tuple[int, int]]:
    """From where to where each window's runs are."""
    changes = np.flatnonzero(np.diff(window)) + 1
    edges = [0, *changes.tolist(), len(window)]
    return [(first, end) for first, end in itertools.pairwise(edges) if first < end]

# SPDX-License-Identifier: GPL-2.0-or-later
"""The page-bitmap format written down a second time, from its description, with sets, not bit tricks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WORD_PAGES = 64
BITMAP_PAGES = 1 << 18
MOST_BITMAPS = 32
RESPONSE_WORDS = 4096
FULL_WORDS = 4032
PAGE_SHIFT = 12


@dataclass(frozen=True)
class Record:
    """A run of 2^order pages (word None), or the pages whose bits are set in `word`."""

    pfn: int
    order: int
    word: int | None = None

    def words(self) -> list[int]:
        """As it is sent."""
        length = 0 if self.word is None else 8
        head = self.pfn + ((self.order + PAGE_SHIFT) << 52) + (length << 58)
        return [head] if self.word is None else [head, self.word]

    def pages(self) -> list[int]:
        """What it names."""
        if self.word is None:
            return list(range(self.pfn, self.pfn + (1 << self.order)))
        return [self.pfn + bit for bit in range(WORD_PAGES) if self.word >> bit & 1]


def decode(payload: list[int]) -> Iterator[Record]:
    """The records of a payload. Raises ValueError when it is not one."""
    at = 0
    while at < len(payload):
        head = payload[at]
        length, shift, pfn = head >> 58, head >> 52 & 0x3F, head & ((1 << 52) - 1)
        if length == 8 and shift == PAGE_SHIFT and at + 1 < len(payload):
            yield Record(pfn, 0, payload[at + 1])
        elif length == 0 and shift >= PAGE_SHIFT:
            yield Record(pfn, shift - PAGE_SHIFT)
        else:
            raise ValueError(f"word {at} is no record: {head:#x}")
        at += 1 + (length == 8)


def window_starts(new: Iterable[int], bitmaps: int) -> range:
    """First pages of the windows an operation has; none when its only page is a multiple of 64."""
    pfns = list(new)
    low = min(pfns) // WORD_PAGES * WORD_PAGES
    high = -(-max(pfns) // WORD_PAGES) * WORD_PAGES
    return range(low, high, bitmaps * BITMAP_PAGES)


def told_pages(new: Iterable[int], listed: Iterable[int], bitmaps: int) -> set[int]:
    """What the host is told of: every listed page in a window, be it new or old, below max_pfn or above."""
    size = bitmaps * BITMAP_PAGES
    starts = window_starts(new, bitmaps)
    return {pfn for pfn in listed if any(start <= pfn < start + size for start in starts)}


def encode(new: Iterable[int], listed: Iterable[int], bitmaps: int) -> list[list[int]]:
    """The payloads of an operation in order."""
    payloads: list[list[int]] = []
    pfns = sorted(listed)
    for start in window_starts(new, bitmaps):
        buffered: list[int] = []
        in_window = [pfn for pfn in pfns if start <= pfn < start + bitmaps * BITMAP_PAGES]
        if not in_window:
            continue
        used = (in_window[-1] - start) // BITMAP_PAGES + 1
        for number in range(used):
            base = start + number * BITMAP_PAGES
            for records in bitmap_records(base, {p for p in in_window if base <= p < base + BITMAP_PAGES}):
                if len(buffered) > FULL_WORDS:
                    payloads.append(buffered)
                    buffered = []
                buffered.extend(word for record in records for word in record.words())
            # Looking for the next run in what is left of a bitmap sends a full buffer too; nothing is left
            # when the last word looked at was the last of the bitmap (or of the window).
            if len(buffered) > FULL_WORDS and _bits_left(base, start, in_window):
                payloads.append(buffered)
                buffered = []
        if buffered:
            payloads.append(buffered)
    return payloads


def _bits_left(base: int, start: int, in_window: list[int]) -> bool:
    length = min(BITMAP_PAGES, (in_window[-1] - base) // WORD_PAGES * WORD_PAGES + WORD_PAGES)
    here = [pfn for pfn in in_window if base <= pfn < base + BITMAP_PAGES]
    last_word = (here[-1] - base) // WORD_PAGES if here else -1
    assert start <= base
    return last_word + 1 < length // WORD_PAGES


def bitmap_records(base: int, pages: set[int]) -> Iterator[list[Record]]:
    """For each run left when its turn comes: the word it starts in, the one it ends in, what is between."""
    done = base
    for first, end in runs(pages):
        begin = max(first, done)
        if begin >= end:
            continue
        records = []
        head, tail = begin // WORD_PAGES, (end - 1) // WORD_PAGES
        whole = list(range(head, tail + 1))
        if begin % WORD_PAGES:
            records.append(_word(whole.pop(0), pages))
        if end % WORD_PAGES and whole:
            records.append(_word(whole.pop(), pages))
        pfn = whole[0] * WORD_PAGES if whole else 0
        for order in reversed(range(19)):
            if len(whole) * WORD_PAGES >> order & 1:
                records.append(Record(pfn, order))
                pfn += 1 << order
        done = (tail + 1) * WORD_PAGES
        yield records


def _word(index: int, pages: set[int]) -> Record:
    pfn = index * WORD_PAGES
    return Record(pfn, 0, sum(1 << bit for bit in range(WORD_PAGES) if pfn + bit in pages))


def runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First page and end of each stretch of neighbours."""
    first = end = -1
    for pfn in sorted(pages):
        if pfn == end:
            end += 1
            continue
        if first >= 0:
            yield first, end
        first, end = pfn, pfn + 1
    if first >= 0:
        yield first, end

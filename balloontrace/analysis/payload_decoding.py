# SPDX-License-Identifier: GPL-2.0-or-later
"""Payload bytes into the pages they name: records of the patched driver, PFN arrays of the stock one.

Response data is a chain of records. Each starts with a little-endian u64: start_pfn in bits 0-51, page_shift
in 52-57, bmap_len in 58-63. With bmap_len 8 a word follows, whose bit i names page start_pfn + i; with 0 the
record names 2^(page_shift - 12) pages from start_pfn. What is refused, and whether decoding goes on behind
it, is what the lab's device does (lab/backend/decode.c); a unit test compares the two.

Many payloads are decoded at once. That takes memory in proportion to their bytes, for runs of pages at worst
some 50 times as much (words of every other bit). So many payloads are taken by `batches`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.group_statistics import Int64s
from balloontrace.analysis.page_sets import PFN_END

Data = bytes | memoryview
"""A payload; a memoryview is one of bytes."""

_Words = NDArray[np.uint64]
_Mask = NDArray[np.bool_]

BATCH_BYTES = 2 << 20

WORD_BYTES = 8
WORD_PAGES = 64
PFN_BYTES = 4
PAGE_SHIFT = 12

_PAGE_SHIFT_POS = 52
_BMAP_LEN_POS = 58


class Encoding(Enum):
    """How a payload names pages."""

    PFN_ARRAY = "PFN array"
    RESPONSE_DATA = "response data"


class Reason(IntEnum):
    """Why something in a payload was refused. Numbers and words are those of the lab's device."""

    RECORD_CUT = 1
    WORD_CUT = 2
    BITMAP_LENGTH = 3
    PAGE_SHIFT = 4
    BEYOND = 5
    ARRAY_LENGTH = 6

    @property
    def words(self) -> str:
        """For people."""
        return _REASON_WORDS[self]


_REASON_WORDS = {
    Reason.RECORD_CUT: "record cut short",
    Reason.WORD_CUT: "bitmap word cut short",
    Reason.BITMAP_LENGTH: "bitmap length neither 0 nor 8",
    Reason.PAGE_SHIFT: "impossible page shift",
    Reason.BEYOND: "pages beyond 2^52",
    Reason.ARRAY_LENGTH: "length is not a multiple of 4",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was refused first in a payload: where, why, and how many things in all."""

    payload: int
    offset_bytes: int
    reason: Reason
    count: int = 1

    def __str__(self) -> str:
        more = f" (the first of {self.count} refusals)" if self.count > 1 else ""
        return f"at byte {self.offset_bytes}: {self.reason.words}{more}"


@dataclass(frozen=True, slots=True)
class NamedRuns:
    """Runs of pages [start, end) and the index of the payload that names each, as columns in no order."""

    payload: NDArray[np.intp]
    starts: Int64s
    ends: Int64s


@dataclass(frozen=True, slots=True)
class Records:
    """The sound records of some payloads, as columns of equal length in order of payload and place in it.

    `word` is 0 where there is none (bmap_len 0), `pages` is how many pages a record names. `refusals` has an
    entry for each payload in which something was refused, in their order.
    """

    payload: NDArray[np.intp]
    start_pfn: Int64s
    page_shift: NDArray[np.uint8]
    bmap_len: NDArray[np.uint8]
    word: _Words
    pages: Int64s
    refusals: tuple[Refusal, ...]

    def named_runs(self) -> NamedRuns:
        """One run for each record without a word, and for each stretch of set bits in a word.

        Neighbours are not merged: these are the calls of a host that takes records as they come.
        """
        plain = np.flatnonzero(self.bmap_len == 0)
        with_word = np.flatnonzero(self.bmap_len)
        at, firsts, ends = _stretches(self.word[with_word])
        at = with_word[at]
        plain_starts = self.start_pfn[plain]
        return NamedRuns(
            np.concatenate([self.payload[plain], self.payload[at]]),
            np.concatenate([plain_starts, self.start_pfn[at] + firsts]),
            np.concatenate([plain_starts + self.pages[plain], self.start_pfn[at] + ends]),
        )


@dataclass(frozen=True, slots=True)
class PfnArrays:
    """What some PFN arrays name. `runs` are the longest stretches of consecutive numbers in each, sorted.

    For each payload, `pages` counts its PFNs and `duplicates` those of them that it had named already.
    """

    runs: NamedRuns
    pages: Int64s
    duplicates: Int64s
    refusals: tuple[Refusal, ...]

    def named_runs(self) -> NamedRuns:
        """`runs`, as of `Records`."""
        return self.runs


def batches(payloads: Sequence[Data | None]) -> Iterator[slice]:
    """Slices of the payloads, in order, of 2 MiB at most; one payload that is larger has its own."""
    first, batch_bytes = 0, 0
    for index, payload in enumerate(payloads):
        size = len(payload) if payload is not None else 0
        if index > first and batch_bytes + size > BATCH_BYTES:
            yield slice(first, index)
            first, batch_bytes = index, 0
        batch_bytes += size
    if first < len(payloads):
        yield slice(first, len(payloads))


def decode_response_data(payloads: Sequence[Data], sent_bytes: Int64s | None = None) -> Records:
    """The records of some payloads, each without its 8-byte response header.

    A record that cannot be framed (cut short, or a bitmap length other than 0 and 8) ends its payload; one
    that is framed well but names no pages there can be is left out. Both are in `refusals`. Of any length:
    the device takes 32 KiB, but what a longer payload names is worth knowing.

    `sent_bytes` says how long each payload was when it was sent. Where that is more than what is here, the
    capture is incomplete, and a record cut at its end is left out without a refusal.
    """
    lengths = _lengths(payloads)
    words = np.frombuffer(_joined(payloads, WORD_BYTES), dtype="<u8")
    framed = _frame(words, lengths, lengths if sent_bytes is None else sent_bytes)
    head, payload = words[framed.heads], framed.payload
    bmap_len = (head >> _BMAP_LEN_POS).astype(np.uint8)
    page_shift = ((head >> _PAGE_SHIFT_POS) & 0x3F).astype(np.uint8)
    start_pfn = (head & (PFN_END - 1)).astype(np.int64)
    has_word = bmap_len != 0
    word = np.zeros(len(head), dtype=np.uint64)
    word[has_word] = words[framed.heads[has_word] + 1]
    pages = _pages(page_shift, has_word, word)
    refused = _refused(start_pfn, page_shift, has_word, word, pages)
    sound, skipped, ended = refused == 0, np.flatnonzero(refused), np.flatnonzero(framed.endings)
    refusals = _refusals(
        np.concatenate([payload[skipped], ended]),
        np.concatenate([framed.heads[skipped], framed.stops[ended]]),
        np.concatenate([refused[skipped], framed.endings[ended]]),
        _firsts(lengths),
    )
    return Records(
        payload[sound],
        start_pfn[sound],
        page_shift[sound],
        bmap_len[sound],
        word[sound],
        pages[sound],
        refusals,
    )


def decode_pfn_arrays(payloads: Sequence[Data], sent_bytes: Int64s | None = None) -> PfnArrays:
    """The pages that arrays of little-endian u32 page numbers name.

    An array that was sent with a length that is not a multiple of 4 is refused whole, as the device does.
    Where `sent_bytes` is more than what is here, the capture was cut short, and its whole numbers are taken.
    """
    lengths = _lengths(payloads)
    sent = lengths if sent_bytes is None else sent_bytes
    ragged = sent % PFN_BYTES != 0
    pages = np.where(ragged, 0, lengths // PFN_BYTES)
    taken = [payload for payload, refuse in zip(payloads, ragged.tolist(), strict=True) if not refuse]
    pfns = np.frombuffer(_joined(taken, PFN_BYTES), dtype="<u4").astype(np.int64)
    # Sorted by payload, then page. The bit between the two keeps payloads from being neighbours.
    keys = np.sort((np.repeat(np.arange(len(payloads)), pages) << 33) | pfns)
    steps = np.diff(keys)
    opens = np.ones(len(keys), dtype=np.bool_)
    opens[1:] = steps > 1
    payload = keys[opens] >> 33
    runs = NamedRuns(payload, keys[opens] - (payload << 33), keys[np.roll(opens, -1)] - (payload << 33) + 1)
    repeated = keys[1:][steps == 0] >> 33
    refusals = tuple(
        Refusal(int(index), int(sent[index]) // PFN_BYTES * PFN_BYTES, Reason.ARRAY_LENGTH)
        for index in np.flatnonzero(ragged)
    )
    return PfnArrays(runs, pages, np.bincount(repeated, minlength=len(payloads)), refusals)


def popcount(words: _Words) -> Int64s:
    """How many bits are set in each word: sums of 2, 4, then 8 bits side by side (Hacker's Delight, 5-1).

    numpy has `bitwise_count` from version 2.0 on; we run with 1.26 too.
    """
    pairs = words - ((words >> 1) & 0x5555_5555_5555_5555)
    fours = (pairs & 0x3333_3333_3333_3333) + ((pairs >> 2) & 0x3333_3333_3333_3333)
    bytes_ = (fours + (fours >> 4)) & 0x0F0F_0F0F_0F0F_0F0F
    total: Int64s = ((bytes_ * np.uint64(0x0101_0101_0101_0101)) >> 56).astype(np.int64)
    return total


def _lengths(payloads: Sequence[Data]) -> Int64s:
    return np.fromiter((len(payload) for payload in payloads), dtype=np.int64, count=len(payloads))


def _joined(payloads: Sequence[Data], unit_bytes: int) -> bytes:
    """The whole units of each payload, one payload behind the other."""
    return b"".join(payload[: len(payload) - len(payload) % unit_bytes] for payload in payloads)


@dataclass(frozen=True, slots=True)
class _Framed:
    """Places, counted in words of all payloads joined, of the records that are whole.

    For each payload, `stops` is where decoding ended, and `endings` the Reason if that is a refusal, or 0.
    """

    heads: NDArray[np.intp]
    payload: NDArray[np.intp]
    stops: Int64s
    endings: NDArray[np.uint8]


def _frame(words: _Words, lengths: Int64s, sent_bytes: Int64s) -> _Framed:
    ends = np.cumsum(lengths // WORD_BYTES)
    takes_word = (words >> _BMAP_LEN_POS) == WORD_BYTES
    is_head = _is_head(takes_word, _firsts(lengths))
    heads = np.flatnonzero(is_head)
    payload = _owners(heads, ends)
    word_cut = np.zeros(len(lengths), dtype=np.bool_)
    filled = lengths >= WORD_BYTES
    word_cut[filled] = (is_head & takes_word)[ends[filled] - 1]
    endings = np.where(lengths % WORD_BYTES, np.uint8(Reason.RECORD_CUT), np.uint8(0))
    endings[word_cut] = Reason.WORD_CUT
    endings[lengths < sent_bytes] = 0
    stops = ends - word_cut
    bmap_len = words[heads] >> _BMAP_LEN_POS
    unknown = np.flatnonzero((bmap_len != 0) & (bmap_len != WORD_BYTES))
    np.minimum.at(stops, payload[unknown], heads[unknown])
    endings[payload[unknown]] = Reason.BITMAP_LENGTH
    kept = heads < stops[payload]
    return _Framed(heads[kept], payload[kept], stops, endings)


def _firsts(lengths: Int64s) -> Int64s:
    """Where each payload begins, in words."""
    words = lengths // WORD_BYTES
    firsts: Int64s = np.cumsum(words) - words
    return firsts


def _is_head(takes_word: _Mask, firsts: Int64s) -> _Mask:
    """Which words start a record, given which would take the next one as a bitmap if they did.

    What follows a word that takes none starts a record, be that word a head or a bitmap itself. Between such
    places heads and bitmaps alternate. So a head is a word at an even distance from the last such place.
    """
    places = np.arange(len(takes_word))
    certain = np.ones(len(takes_word), dtype=np.bool_)
    certain[1:] = ~takes_word[:-1]
    certain[firsts[firsts < len(certain)]] = True
    last_certain = np.maximum.accumulate(np.where(certain, places, 0))
    heads: _Mask = (places - last_certain) & 1 == 0
    return heads


def _owners(heads: NDArray[np.intp], ends: Int64s) -> NDArray[np.intp]:
    """The payload each head lies in."""
    return np.repeat(np.arange(len(ends)), np.diff(np.searchsorted(heads, ends), prepend=0))


def _pages(page_shift: NDArray[np.uint8], has_word: _Mask, word: _Words) -> Int64s:
    pages = np.int64(1) << np.maximum(page_shift.astype(np.int64) - PAGE_SHIFT, 0)
    pages[has_word] = popcount(word[has_word])
    return pages


def _refused(
    start_pfn: Int64s,
    page_shift: NDArray[np.uint8],
    has_word: _Mask,
    word: _Words,
    pages: Int64s,
) -> NDArray[np.uint8]:
    """The Reason each record is refused for; 0 when it is sound."""
    beyond = ~has_word & (start_pfn > PFN_END - pages)
    # A word may start less than 64 pages from the end as long as no bit behind it is set.
    near = np.flatnonzero(has_word & (start_pfn > PFN_END - WORD_PAGES))
    beyond[near] = (word[near] >> (PFN_END - start_pfn[near]).astype(np.uint64)) != 0
    odd_shift = np.where(has_word, page_shift != PAGE_SHIFT, page_shift < PAGE_SHIFT)
    refused = np.where(beyond, np.uint8(Reason.BEYOND), np.uint8(0))
    refused[odd_shift] = Reason.PAGE_SHIFT
    return refused


def _refusals(
    payload: NDArray[np.intp], places: Int64s, reasons: NDArray[np.uint8], firsts: Int64s
) -> tuple[Refusal, ...]:
    """The first refusal of each payload, and how many it has."""
    order = np.lexsort((places, payload))
    which, picks, counts = np.unique(payload[order], return_index=True, return_counts=True)
    picked = order[picks]
    offset_bytes = (places[picked] - firsts[which]) * WORD_BYTES
    columns = (which, offset_bytes, reasons[picked], counts)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return tuple(Refusal(index, offset, Reason(why), count) for index, offset, why, count in rows)


def _stretches(words: _Words) -> tuple[NDArray[np.intp], Int64s, Int64s]:
    """Each stretch of set bits: index of its word, first bit, and the bit behind its last."""
    one = np.uint64(1)
    opens, closes = _set_bits(words & ~(words << one)), _set_bits(words & ~(words >> one))
    return opens // WORD_PAGES, opens % WORD_PAGES, closes % WORD_PAGES + 1


def _set_bits(words: _Words) -> NDArray[np.intp]:
    """Places of the set bits, bit i of word w being at 64 w + i, in ascending order."""
    raw = words.astype("<u8", copy=False).view(np.uint8)
    # As booleans: of those numpy finds the set ones in an eighth of the time.
    return np.flatnonzero(np.unpackbits(raw, bitorder="little").view(np.bool_))

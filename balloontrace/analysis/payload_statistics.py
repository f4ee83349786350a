# SPDX-License-Identifier: GPL-2.0-or-later
"""What the payloads of an operation's sends named: how densely, how often, and what the host had already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.group_statistics import Int64s, floor_log2, sums
from balloontrace.analysis.page_sets import PFN_END, PageSet, topmost
from balloontrace.analysis.payload_decoding import (
    PAGE_SHIFT,
    PFN_BYTES,
    WORD_BYTES,
    WORD_PAGES,
    Data,
    Encoding,
    NamedRuns,
    PfnArrays,
    Records,
    batches,
    decode_pfn_arrays,
    decode_response_data,
)
from balloontrace.results.payload import Contiguity, PayloadStatistics, RecordStatistics, RunOrder

RESPONSE_HEADER_BYTES = 8

NO_PFN = -1

_Decoder = Callable[[Sequence[Data], Int64s | None], Records | PfnArrays]
_DECODERS: Mapping[Encoding, _Decoder] = {
    Encoding.RESPONSE_DATA: decode_response_data,
    Encoding.PFN_ARRAY: decode_pfn_arrays,
}
_MOST_PAGES = 1 << 62
_LEAST_RUNS = 1 << 19
_MOST_GATHERED = 1 << 21

MOST_RUNS = 1 << 23
"""Runs of pages gone through in one recording: every other page of 64 GiB."""


class State(IntEnum):
    """How much of a send's payload is known. One that is both cut and invalid is INVALID."""

    WHOLE = 0
    CUT = 1
    INVALID = 2
    MISSING = 3


@dataclass(frozen=True, slots=True)
class Captured:
    """The payloads of some sends in the order they were sent in; None where one was not captured.

    Response data comes without its 8-byte headers. `sent_bytes` are the lengths that were sent, also of
    payloads that were captured in part or not at all; None says that what was captured is whole.
    """

    encoding: Encoding
    payloads: Sequence[Data | None]
    sent_bytes: Int64s | None = None


@dataclass(frozen=True, slots=True)
class RecordColumns:
    """What response data consists of, one row a send: records, those with and without a word, bits set."""

    records: Int64s
    bitmap_words: Int64s
    plain_runs: Int64s
    bits_set: Int64s


@dataclass(frozen=True, slots=True)
class SendColumns:
    """One row a send, in order. Where `state` is MISSING only `sent_bytes` means anything.

    `sent_bytes` is None when it is not known of a missing payload; `of_records` is None for PFN arrays.
    `pages` counts a page as often as the send names it, exactly below 2^53 and up to 2^62; `new_pages` are
    those that neither it nor a send before had named. `runs_named` is explained at PayloadStatistics.
    `first_pfn` and `last_pfn` are the lowest and the highest page named, NO_PFN when there is none.
    """

    state: NDArray[np.uint8]
    sent_bytes: Int64s | None
    of_records: RecordColumns | None
    runs_named: Int64s
    pages: Int64s
    new_pages: Int64s
    first_pfn: Int64s
    last_pfn: Int64s


@dataclass(frozen=True, slots=True)
class Named:
    """What an operation's sends named: in numbers, send by send, and the pages themselves.

    `runs` is how many runs were gone through, `left_out` how many payloads were not.
    """

    statistics: PayloadStatistics
    sends: SendColumns
    pages: PageSet
    runs: int
    left_out: int

    def moved(self, before: PageSet | None, *, inflates: bool) -> PageSet | None:
        """What `contents_after` says of these sends, without decoding them again; all are on one queue."""
        if before is None or self.sends.state.any():
            return None
        return before | self.pages if inflates else before - self.pages


def summarise_payloads(
    captured: Captured, before: PageSet | None = None, limit_runs: int = MOST_RUNS
) -> Named:
    """All that can be said of the payloads of one operation, whose sends are on one queue.

    `before` is what the host had been given before the first of them; None when that is not known. Payloads
    behind those that name `limit_runs` runs count as missing.
    """
    sends = _empty_columns(captured)
    named, gathered = PageSet.empty(), _Gathered()
    plain_runs = np.zeros(64, dtype=np.int64)
    first_refusal: str | None = None
    left_runs, left_out = limit_runs, 0
    for batch in _decoded(captured):
        if left_runs <= 0:
            sends.state[batch.place] = State.MISSING
            left_out += int(np.count_nonzero(batch.state != State.MISSING))
            continue
        runs = batch.decoded.named_runs()
        left_runs -= len(runs.starts)
        _fill_columns(sends, batch, runs)
        gathered.add(runs, batch.place.start)
        if gathered.are_enough_for(named):
            named = _add_new_pages(sends, named, gathered.take())
        if isinstance(batch.decoded, Records):
            plain_shifts = batch.decoded.page_shift[batch.decoded.bmap_len == 0]
            plain_runs += np.bincount(plain_shifts, minlength=64)
        if first_refusal is None and batch.decoded.refusals:
            refusal = batch.decoded.refusals[0]
            first_refusal = f"payload {batch.place.start + refusal.payload + 1}, {refusal}"
    named = _add_new_pages(sends, named, gathered.take())
    statistics = _statistics(sends, named, before, plain_runs[PAGE_SHIFT:], first_refusal)
    return Named(statistics, sends, named, limit_runs - left_runs, left_out)


def most_runs(captured: Captured) -> int:
    """As many runs as payloads of this size can name at the most."""
    size_bytes = sum(len(payload) for payload in captured.payloads if payload is not None)
    per_record = WORD_PAGES // 2 * size_bytes // (2 * WORD_BYTES)
    return per_record if captured.encoding is Encoding.RESPONSE_DATA else size_bytes // PFN_BYTES


def contents_after(before: PageSet | None, captured: Captured, inflates: NDArray[np.bool_]) -> PageSet | None:
    """What the host has been given, and not been asked back, after some sends in their order.

    `inflates` says which sends are on the inflate queue; the others are on the deflate queue. None when it
    cannot be known: `before` was not, or a payload is missing, cut or invalid. Pages that the driver holds
    without ever having told the host are not in it.
    """
    if before is None:
        return None
    contents, gathered = before, _Gathered()
    for batch in _decoded(captured):
        if batch.state.any():
            return None
        gathered.add(batch.decoded.named_runs(), batch.place.start)
        if gathered.are_enough_for(contents):
            contents = _moved(contents, gathered.take(), inflates)
    return _moved(contents, gathered.take(), inflates)


def _moved(contents: PageSet, runs: NamedRuns, inflates: NDArray[np.bool_]) -> PageSet:
    """The contents after some sends: the last one that names a page decides."""
    pieces = topmost(runs.starts, runs.ends, runs.payload)
    given = inflates[pieces.ranks]
    taken_back = PageSet.from_runs(pieces.starts[~given], pieces.ends[~given])
    return (contents - taken_back) | PageSet.from_runs(pieces.starts[given], pieces.ends[given])


def _add_new_pages(sends: SendColumns, named: PageSet, runs: NamedRuns) -> PageSet:
    """Counts in `sends.new_pages` what some runs add to the pages named before; returns all of them."""
    # Of several sends that name a page the first is to lie on top.
    last = len(sends.state) - 1
    pieces = topmost(runs.starts, runs.ends, last - runs.payload)
    new_pages = pieces.ends - pieces.starts - named.count_in(pieces.starts, pieces.ends)
    np.add.at(sends.new_pages, last - pieces.ranks, new_pages)
    return named | PageSet.from_runs(pieces.starts, pieces.ends)


class _Gathered:
    """Runs put aside until there are about as many as in the set they go into.

    Adding to a set takes as long as it is large. This way it doubles, and all adding together takes as long
    as adding everything at once would, with a part of the memory.
    """

    def __init__(self) -> None:
        self._parts: list[NamedRuns] = []
        self._runs = 0

    def add(self, runs: NamedRuns, first_payload: int) -> None:
        self._parts.append(NamedRuns(runs.payload + first_payload, runs.starts, runs.ends))
        self._runs += len(runs.starts)

    def are_enough_for(self, pages: PageSet) -> bool:
        return self._runs >= min(max(_LEAST_RUNS, len(pages.starts)), _MOST_GATHERED)

    def take(self) -> NamedRuns:
        """All of them; none are left."""
        nothing = np.empty(0, dtype=np.int64)
        parts = [NamedRuns(nothing, nothing, nothing), *self._parts]
        self._parts, self._runs = [], 0
        return NamedRuns(
            np.concatenate([part.payload for part in parts]),
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.ends for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some of the payloads, and their place among all."""

    place: slice
    state: NDArray[np.uint8]
    decoded: Records | PfnArrays

    @property
    def size(self) -> int:
        return len(self.state)


def _decoded(captured: Captured) -> Iterator[_Batch]:
    for place in batches(captured.payloads):
        payloads = captured.payloads[place]
        missing = np.array([payload is None for payload in payloads])
        present = [payload if payload is not None else b"" for payload in payloads]
        lengths = np.array([len(payload) for payload in present])
        sent = lengths if captured.sent_bytes is None else captured.sent_bytes[place]
        decoded = _DECODERS[captured.encoding](present, np.where(missing, 0, sent))
        state = np.where(lengths < sent, np.uint8(State.CUT), np.uint8(State.WHOLE))
        state[[refusal.payload for refusal in decoded.refusals]] = State.INVALID
        state[missing] = State.MISSING
        yield _Batch(place, state, decoded)


def _empty_columns(captured: Captured) -> SendColumns:
    count = len(captured.payloads)
    sent_bytes = captured.sent_bytes
    if sent_bytes is None and all(payload is not None for payload in captured.payloads):
        sent_bytes = np.array([len(payload or b"") for payload in captured.payloads], dtype=np.int64)
    records = captured.encoding is Encoding.RESPONSE_DATA
    return SendColumns(
        np.zeros(count, dtype=np.uint8),
        sent_bytes,
        RecordColumns(*(np.zeros(count, dtype=np.int64) for _ in range(4))) if records else None,
        *(np.zeros(count, dtype=np.int64) for _ in range(5)),
    )


def _fill_columns(sends: SendColumns, batch: _Batch, runs: NamedRuns) -> None:
    """All of a batch's rows but `new_pages`."""
    place, size, decoded = batch.place, batch.size, batch.decoded
    sends.state[place] = batch.state
    if isinstance(decoded, Records):
        assert sends.of_records is not None
        _fill_record_columns(sends.of_records, place, decoded, size)
        # Added up as floats, so that impossible sums are large and not negative.
        pages = np.bincount(decoded.payload, weights=decoded.pages, minlength=size)
        sends.pages[place] = np.minimum(pages, _MOST_PAGES)
    else:
        sends.pages[place] = decoded.pages
    sends.runs_named[place] = np.bincount(runs.payload, minlength=size)
    firsts, ends = np.full(size, PFN_END), np.zeros(size, dtype=np.int64)
    np.minimum.at(firsts, runs.payload, runs.starts)
    np.maximum.at(ends, runs.payload, runs.ends)
    sends.first_pfn[place] = np.where(ends, firsts, NO_PFN)
    sends.last_pfn[place] = np.where(ends, ends - 1, NO_PFN)


def _fill_record_columns(columns: RecordColumns, place: slice, decoded: Records, size: int) -> None:
    has_word = decoded.bmap_len != 0
    columns.records[place] = np.bincount(decoded.payload, minlength=size)
    columns.bitmap_words[place] = np.bincount(decoded.payload[has_word], minlength=size)
    columns.plain_runs[place] = columns.records[place] - columns.bitmap_words[place]
    columns.bits_set[place] = sums(decoded.pages[has_word], decoded.payload[has_word], size)


def _statistics(
    sends: SendColumns,
    named: PageSet,
    before: PageSet | None,
    plain_runs: Int64s,
    first_refusal: str | None,
) -> PayloadStatistics:
    """`plain_runs[k]` is how many records without a word name 2^k pages."""
    whole, cut, invalid, missing = np.bincount(sends.state, minlength=len(State)).tolist()
    columns = sends.of_records
    of_records = None if columns is None else _record_statistics(columns, plain_runs)
    # Not from the column where that might overflow: a record names up to 2^51 pages.
    pages = of_records.pages_by_words + of_records.pages_by_runs if of_records else int(sends.pages.sum())
    header_bytes = RESPONSE_HEADER_BYTES * len(sends.state) if of_records else 0
    bytes_sent = None if sends.sent_bytes is None else int(sends.sent_bytes.sum())
    known = bytes_sent is not None and not cut and not missing
    return PayloadStatistics(
        encoding=(Encoding.RESPONSE_DATA if of_records else Encoding.PFN_ARRAY).value,
        sends=len(sends.state),
        payloads_whole=whole,
        payloads_missing=missing,
        payloads_cut=cut,
        payloads_invalid=invalid,
        first_refusal=first_refusal,
        bytes_sent=bytes_sent,
        header_bytes=header_bytes,
        bytes_per_page=_ratio((bytes_sent or 0) + header_bytes, pages) if known else None,
        of_records=of_records,
        runs_named=int(sends.runs_named.sum()),
        pages_named=pages,
        pages_repeated=pages - named.count,
        pages_in_balloon_before=None if before is None else (named & before).count,
        distinct=contiguity(named),
    )


def _record_statistics(columns: RecordColumns, plain_runs: Int64s) -> RecordStatistics:
    orders = [RunOrder(k, count, count << k) for k, count in enumerate(plain_runs.tolist()) if count]
    bits_set, words = int(columns.bits_set.sum()), int(columns.bitmap_words.sum())
    return RecordStatistics(
        records=int(columns.records.sum()),
        bitmap_words=words,
        plain_runs=int(columns.plain_runs.sum()),
        plain_run_orders=tuple(orders),
        pages_by_words=bits_set,
        pages_by_runs=sum(order.pages for order in orders),
        bits_carried=WORD_PAGES * words,
        bits_set_share=_ratio(bits_set, WORD_PAGES * words),
    )


def contiguity(pages: PageSet) -> Contiguity:
    """How the pages of a set lie."""
    lengths, count = pages.lengths, pages.count
    first, last = pages.span or (None, None)
    span = None if first is None or last is None else last - first + 1
    orders = floor_log2(lengths)
    runs = np.bincount(orders)
    rows = enumerate(zip(runs.tolist(), sums(lengths, orders, len(runs)).tolist(), strict=True))
    return Contiguity(
        pages=count,
        pfn_first=first,
        pfn_last=last,
        pfn_span=span,
        density=_ratio(count, span or 0),
        runs=len(lengths),
        mean_run_pages=_ratio(count, len(lengths)),
        longest_run_pages=int(lengths.max()) if len(lengths) else None,
        run_orders=tuple(RunOrder(order, *row) for order, row in rows if row[0]),
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None

# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of payloads against counting with Python's own sets."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
from collections import Counter
from collections.abc import Sequence

import bitmap_model
import bitmap_reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balloontrace.analysis.page_sets import PageSet
from balloontrace.analysis.payload_decoding import BATCH_BYTES, Encoding
from balloontrace.analysis.payload_statistics import (
    NO_PFN,
    Captured,
    State,
    contents_after,
    contiguity,
    summarise_payloads,
)
from balloontrace.results.payload import RunOrder

# Few enough pages to be counted one by one; a record that cannot be may still be one of 2^51.
PAYLOAD = bitmap_model.payloads(st.integers(0, 300), st.integers(0, 7), most=6).filter(
    lambda payload: sum(pages for _, pages in bitmap_model.decode(payload).runs) < 1000
)
PAGES = st.sets(st.integers(0, 300), max_size=40)


def word(pfn: int, bits: int) -> bytes:
    return struct.pack("<QQ", pfn | 12 << 52 | 8 << 58, bits)


def plain(pfn: int, order: int = 0) -> bytes:
    return struct.pack("<Q", pfn | (12 + order) << 52)


def pfns(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def records(*payloads: bytes | None, sent_bytes: Sequence[int] | None = None) -> Captured:
    return Captured(
        Encoding.RESPONSE_DATA, payloads, None if sent_bytes is None else np.array(sent_bytes, dtype=np.int64)
    )


def arrays(*payloads: bytes | None) -> Captured:
    return Captured(Encoding.PFN_ARRAY, payloads)


def page_set(pages: set[int]) -> PageSet:
    table = np.array(list(bitmap_reference.runs(pages)), dtype=np.int64).reshape(-1, 2)
    return PageSet.from_runs(table[:, 0], table[:, 1])


def named_pages(payload: bytes) -> list[int]:
    """As often as they are named."""
    return [page for pfn, count in bitmap_model.decode(payload).runs for page in range(pfn, pfn + count)]


@settings(max_examples=60, deadline=None)
@given(st.lists(PAYLOAD, max_size=5), PAGES)
def test_response_data(payloads: list[bytes], before: set[int]) -> None:
    models = [bitmap_model.decode(payload) for payload in payloads]
    named = [named_pages(payload) for payload in payloads]
    distinct = set().union(*named)
    found = summarise_payloads(records(*payloads), page_set(before))
    numbers, sends = found.statistics, found.sends
    assert found.pages == page_set(distinct)
    assert numbers.of_records is not None
    assert sends.of_records is not None

    assert sends.of_records.records.tolist() == [model.words + model.plains for model in models]
    assert sends.of_records.bitmap_words.tolist() == [model.words for model in models]
    assert sends.of_records.plain_runs.tolist() == [model.plains for model in models]
    bits = [
        sum(int(line.split()[3], 16).bit_count() for line in model.lines if line[0] == "w")
        for model in models
    ]
    assert sends.of_records.bits_set.tolist() == bits
    assert sends.runs_named.tolist() == [len(model.runs) for model in models]
    assert sends.pages.tolist() == [len(pages) for pages in named]
    known: set[int] = set()
    for index, pages in enumerate(named):
        assert int(sends.new_pages[index]) == len(set(pages) - known)
        assert int(sends.first_pfn[index]) == min(pages, default=NO_PFN)
        assert int(sends.last_pfn[index]) == max(pages, default=NO_PFN)
        known.update(pages)
    assert sends.state.tolist() == [State.INVALID if model.bad else State.WHOLE for model in models]

    words, plains = sum(model.words for model in models), sum(model.plains for model in models)
    assert numbers.of_records.records == words + plains
    assert numbers.of_records.bitmap_words == words
    assert numbers.of_records.plain_runs == plains == sum(o.runs for o in numbers.of_records.plain_run_orders)
    assert numbers.of_records.pages_by_words == sum(bits)
    assert numbers.of_records.pages_by_runs == sum(map(len, named)) - sum(bits)
    assert numbers.of_records.bits_carried == 64 * words
    assert numbers.of_records.bits_set_share == (sum(bits) / (64 * words) if words else None)
    assert numbers.pages_named == sum(map(len, named))
    assert numbers.pages_repeated == sum(map(len, named)) - len(distinct)
    assert numbers.pages_in_balloon_before == len(distinct & before)
    assert (numbers.bytes_sent, numbers.header_bytes) == (sum(map(len, payloads)), 8 * len(payloads))
    assert (numbers.first_refusal is None) == (numbers.payloads_invalid == 0)
    json.dumps(dataclasses.asdict(numbers))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=5))
def test_pfn_arrays(lists: list[list[int]]) -> None:
    found = summarise_payloads(arrays(*(pfns(*numbers) for numbers in lists)))
    distinct = set().union(*lists)
    numbers = found.statistics
    assert numbers.of_records is None
    assert found.sends.of_records is None
    assert (numbers.pages_named, numbers.distinct.pages) == (sum(map(len, lists)), len(distinct))
    assert numbers.runs_named == sum(len(list(bitmap_reference.runs(set(pages)))) for pages in lists)
    assert (numbers.header_bytes, numbers.pages_in_balloon_before) == (0, None)
    assert numbers.bytes_per_page == (4 if numbers.pages_named else None)
    assert int(found.sends.new_pages.sum()) == len(distinct)


@settings(deadline=None)
@given(PAGES)
def test_contiguity(pages: set[int]) -> None:
    found = contiguity(page_set(pages))
    lengths = [end - start for start, end in bitmap_reference.runs(pages)]
    assert (found.pages, found.runs) == (len(pages), len(lengths))
    assert found.longest_run_pages == max(lengths, default=None)
    assert found.mean_run_pages == (len(pages) / len(lengths) if lengths else None)
    assert (found.pfn_first, found.pfn_last) == (min(pages, default=None), max(pages, default=None))
    assert found.density == (len(pages) / (max(pages) - min(pages) + 1) if pages else None)
    counts, totals = Counter[int](), Counter[int]()
    for length in lengths:
        counts[length.bit_length() - 1] += 1
        totals[length.bit_length() - 1] += length
    assert found.run_orders == tuple(RunOrder(k, counts[k], totals[k]) for k in sorted(counts))


def test_what_was_not_captured_is_told_apart() -> None:
    whole, torn, wrong = word(0, 3), word(64, 1) + plain(7), plain(9) + struct.pack("<Q", 7 << 58)
    found = summarise_payloads(records(whole, None, torn[:20], wrong, sent_bytes=[16, 24, 24, 16]))
    numbers = found.statistics
    assert found.sends.state.tolist() == [State.WHOLE, State.MISSING, State.CUT, State.INVALID]
    assert (numbers.sends, numbers.payloads_whole, numbers.payloads_missing) == (4, 1, 1)
    assert (numbers.payloads_cut, numbers.payloads_invalid) == (1, 1)
    assert numbers.first_refusal == "payload 4, at byte 8: bitmap length neither 0 nor 8"
    assert (numbers.bytes_sent, numbers.bytes_per_page) == (80, None)
    assert found.pages == page_set({0, 1, 9, 64})


def test_bytes_of_a_missing_payload_are_not_guessed() -> None:
    numbers = summarise_payloads(records(word(0, 3), None)).statistics
    assert (numbers.bytes_sent, numbers.bytes_per_page, numbers.payloads_missing) == (None, None, 1)
    assert summarise_payloads(arrays(None)).statistics.pages_named == 0


def test_no_sends() -> None:
    for captured in (records(), arrays()):
        found = summarise_payloads(captured, PageSet.empty())
        assert (found.statistics.sends, found.statistics.pages_named) == (0, 0)
        assert (found.statistics.distinct.runs, found.statistics.distinct.density) == (0, None)


def test_more_pages_than_fit_into_64_bits() -> None:
    payload = plain(0, 51) * 4097
    found = summarise_payloads(records(payload, payload, word(0, 7)))
    assert found.statistics.pages_named == 2 * 4097 * 2**51 + 3
    assert found.statistics.pages_repeated == found.statistics.pages_named - 2**51
    assert found.sends.pages.tolist() == [2**62, 2**62, 3]
    assert found.statistics.distinct.run_orders == (RunOrder(51, 1, 2**51),)


@pytest.mark.parametrize("seed", [1, 2])
def test_several_batches_are_counted_as_one(seed: int) -> None:
    """Two thousand payloads, each named by one other in part: what is new is new only once."""
    chance = random.Random(seed)
    blocks = list(range(2000))
    chance.shuffle(blocks)
    payloads = [
        b"".join(word(64 * (97 * block + index), 2**64 - 1) for index in range(100)) for block in blocks
    ]
    assert sum(map(len, payloads)) > BATCH_BYTES
    found = summarise_payloads(records(*payloads), page_set(set(range(100))))
    numbers = found.statistics
    assert numbers.pages_named == 2000 * 6400
    assert numbers.distinct.pages == int(found.sends.new_pages.sum()) == 64 * (97 * 2000 + 3)
    assert (numbers.distinct.runs, numbers.distinct.density) == (1, 1.0)
    assert numbers.pages_in_balloon_before == 100
    sent = set()
    for block, new in zip(blocks, found.sends.new_pages.tolist(), strict=True):
        assert new == 64 * (100 - 3 * ((block - 1 in sent) + (block + 1 in sent)))
        sent.add(block)


# ---- what the balloon holds ----


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 40), max_size=12)), max_size=12), PAGES)
def test_contents(sends: list[tuple[bool, list[int]]], before: set[int]) -> None:
    expected = set(before)
    for inflates, pages in sends:
        expected = expected | set(pages) if inflates else expected - set(pages)
    directions = np.array([inflates for inflates, _ in sends], dtype=np.bool_)
    for captured in (
        arrays(*(pfns(*pages) for _, pages in sends)),
        records(*(b"".join(map(plain, pages)) for _, pages in sends)),
    ):
        assert contents_after(page_set(before), captured, directions) == page_set(expected)
        assert contents_after(None, captured, directions) is None or not sends


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=12), PAGES, st.booleans())
def test_what_an_operation_named_moves_the_contents_alike(
    sends: list[list[int]], before: set[int], inflates: bool
) -> None:
    captured = arrays(*(pfns(*pages) for pages in sends))
    expected = contents_after(page_set(before), captured, np.full(len(sends), inflates))
    assert summarise_payloads(captured).moved(page_set(before), inflates=inflates) == expected


def test_contents_over_several_batches() -> None:
    """Every payload takes back the half of what the one before gave."""
    payloads = [plain(512 * index, 10) * 2000 for index in range(300)]
    inflates = np.arange(300) % 2 == 0
    assert sum(map(len, payloads)) > 2 * BATCH_BYTES
    expected: set[int] = set()
    for index in range(300):
        pages = range(512 * index, 512 * index + 1024)
        expected = expected | set(pages) if inflates[index] else expected - set(pages)
    assert contents_after(PageSet.empty(), records(*payloads), inflates) == page_set(expected)


def test_ten_thousand_migrations() -> None:
    held = set(range(0, 40_000, 2))
    payloads = [pfns(pfn + away) for pfn in range(0, 20_000, 2) for away in (1, 0)]
    moved = {pfn + 1 if pfn < 20_000 else pfn for pfn in held}
    inflates = np.arange(len(payloads)) % 2 == 0
    assert contents_after(page_set(held), arrays(*payloads), inflates) == page_set(moved)


@pytest.mark.parametrize(
    "captured",
    [
        records(plain(1), None),
        records(plain(1), plain(2), sent_bytes=[8, 16]),
        records(plain(1), b"torn"),
    ],
    ids=["missing", "cut", "invalid"],
)
def test_contents_are_not_guessed(captured: Captured) -> None:
    assert summarise_payloads(captured).moved(PageSet.empty(), inflates=True) is None
    assert contents_after(PageSet.empty(), captured, np.ones(2, dtype=np.bool_)) is None

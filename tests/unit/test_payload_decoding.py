# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoded payloads against slow decoders of the same format, which the lab's device is held to as well."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import bitmap_model
import bitmap_reference
import numpy as np
import pytest
from driver_encoder import Encoder, running_encoder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balloontrace.analysis.payload_decoding import (
    BATCH_BYTES,
    NamedRuns,
    PfnArrays,
    Reason,
    Records,
    Refusal,
    batches,
    decode_pfn_arrays,
    decode_response_data,
    popcount,
)

MAX_BYTES = 32768
DECODE_C = Path(__file__).parents[2] / "lab" / "backend" / "decode.c"

ANY_PFN = st.one_of(
    st.integers(0, 2**52 - 1), st.integers(0, 200), st.integers(2**52 - 70, 2**52 - 1), st.just(2**51)
)
PAYLOAD = bitmap_model.payloads(ANY_PFN, st.integers(0, 51))
# Words that are heads or bitmaps depending only on what comes before them.
LIKE_HEADS = st.lists(
    st.sampled_from([8 << 58 | 12 << 52, 8 << 58, 12 << 52, 0, 2**64 - 1, 5 | 8 << 58 | 12 << 52, 7 << 58]),
    max_size=24,
).map(lambda words: struct.pack(f"<{len(words)}Q", *words))


def word(pfn: int, bits: int) -> bytes:
    return struct.pack("<QQ", pfn | 12 << 52 | 8 << 58, bits)


def plain(pfn: int, order: int) -> bytes:
    return struct.pack("<Q", pfn | (12 + order) << 52)


def pfns(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def runs_of(runs: NamedRuns, count: int) -> list[list[tuple[int, int]]]:
    """(first page, pages) of each run, sorted, payload by payload."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    rows = zip(runs.payload.tolist(), runs.starts.tolist(), runs.ends.tolist(), strict=True)
    for payload, start, end in rows:
        found[payload].append((start, end - start))
    return [sorted(rows) for rows in found]


def records_of(records: Records, count: int) -> list[list[str]]:
    """What the slow decoder says of each sound record, except for its offset."""
    found: list[list[str]] = [[] for _ in range(count)]
    columns = (records.payload, records.start_pfn, records.page_shift, records.bmap_len, records.word)
    rows = zip(*(column.tolist() for column in columns), records.pages.tolist(), strict=True)
    for payload, pfn, shift, length, bits, pages in rows:
        assert (length, pages) == ((8, bits.bit_count()) if length else (0, 1 << (shift - 12)))
        found[payload].append(f"word {pfn} {bits:016x}" if length else f"plain {pfn} {pages}")
    return found


def expected_records(decoded: bitmap_model.Decoded) -> list[str]:
    split = [line.split() for line in decoded.lines]
    return [" ".join([kind, *rest]) for kind, _, *rest in split if kind in ("word", "plain")]


def expected_refusals(models: Sequence[bitmap_model.Decoded]) -> list[tuple[int, int, str, int]]:
    found = []
    for index, model in enumerate(models):
        bad = [line.split(maxsplit=2) for line in model.lines if line.startswith("bad")]
        if bad:
            found.append((index, int(bad[0][1]), bad[0][2], len(bad)))
    return found


def refusals_of(decoded: Records | PfnArrays) -> list[tuple[int, int, str, int]]:
    return [(r.payload, r.offset_bytes, r.reason.words, r.count) for r in decoded.refusals]


def assert_decoded(payloads: Sequence[bytes]) -> None:
    models = [bitmap_model.decode(payload) for payload in payloads]
    records = decode_response_data(payloads)
    assert records_of(records, len(payloads)) == [expected_records(model) for model in models]
    assert runs_of(records.named_runs(), len(payloads)) == [sorted(model.runs) for model in models]
    assert refusals_of(records) == expected_refusals(models)


@pytest.mark.thorough
@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(PAYLOAD, LIKE_HEADS), max_size=6))
@example([])
@example([b"", b"", plain(0, 51) * 2, b""])
def test_read_as_the_device_reads_it(payloads: list[bytes]) -> None:
    assert_decoded(payloads)


@pytest.mark.parametrize(
    "payload",
    [
        word(0, 0) * (MAX_BYTES // 16),
        plain(5, 0) * (MAX_BYTES // 8),
        (word(64, 2**64 - 1) + plain(128, 3)) * (MAX_BYTES // 24),
        b"\xff" * MAX_BYTES,
        bytes(MAX_BYTES),
        word(0, 8 << 58) * (MAX_BYTES // 16),
        word(2**52 - 8, 0xFF) + word(2**52 - 8, 0x1FF) + plain(2**52 - 8, 3) + plain(2**52 - 8, 4),
        plain(7, 0) * (MAX_BYTES // 8 + 3),
    ],
    ids=["words", "plain", "both", "ones", "zeros", "words like heads", "end of pages", "too long"],
)
def test_longest_and_last(payload: bytes) -> None:
    assert_decoded([payload, payload[:-1], payload])


VARIED = word(64, 5) + plain(0, 4) + word(128, 2**64 - 1) + plain(9, 0) + plain(10, 1) + word(7, 1 << 63)


def test_cut_at_every_byte() -> None:
    pieces = [VARIED[:length] for length in range(len(VARIED) + 1)]
    assert_decoded(pieces)
    told = decode_response_data(pieces, np.full(len(pieces), len(VARIED)))
    assert told.refusals == ()
    assert records_of(told, len(pieces)) == records_of(decode_response_data(pieces), len(pieces))


def test_a_cut_capture_hides_no_refusal_before_the_cut() -> None:
    payload = plain(2**52 - 1, 5) + plain(3, 0) + struct.pack("<Q", 7 << 58) + plain(4, 0)
    for length, refusals in ((32, 2), (25, 2), (24, 2), (23, 1), (8, 1), (7, 0)):
        decoded = decode_response_data([payload[:length]], np.array([32]))
        assert [refusal.count for refusal in decoded.refusals] == [refusals] * bool(refusals)


def test_a_refusal_is_a_sentence() -> None:
    refusals = decode_response_data([plain(1, 0), plain(1, 0) + b"abc", plain(2**52 - 1, 2) * 2]).refusals
    assert [str(refusal) for refusal in refusals] == [
        "at byte 8: record cut short",
        "at byte 0: pages beyond 2^52 (the first of 2 refusals)",
    ]


def test_reasons_are_in_the_words_of_the_device() -> None:
    source = DECODE_C.read_text()
    for reason in Reason:
        assert reason is Reason.ARRAY_LENGTH or f'return "{reason.words}";' in source


def test_views_of_a_buffer() -> None:
    buffer = memoryview(b"xyz" + VARIED + VARIED)
    views = [buffer[3 : 3 + len(VARIED)], buffer[3 + len(VARIED) :]]
    assert records_of(decode_response_data(views), 2) == [expected_records(bitmap_model.decode(VARIED))] * 2


def test_two_thousand_payloads() -> None:
    chance = random.Random(7)
    kinds = [
        b"".join(word(64 * index, chance.getrandbits(64)) for index in range(128)),
        b"".join(plain(index << 10, index % 11) for index in range(300)),
        b"",
        VARIED,
        word(0, 1) * 3 + b"\xff" * 40,
    ]
    payloads = [chance.choice(kinds) for _ in range(2000)]
    models = {kind: bitmap_model.decode(kind) for kind in kinds}
    records = decode_response_data(payloads)
    expected = Counter({index: len(models[payload].runs) for index, payload in enumerate(payloads)})
    assert Counter(records.named_runs().payload.tolist()) == +expected
    pages = {kind: sum(count for _, count in model.runs) for kind, model in models.items()}
    assert int(records.pages.sum()) == sum(pages[payload] for payload in payloads)
    assert [refusal.payload for refusal in records.refusals] == [
        index for index, payload in enumerate(payloads) if models[payload].bad
    ]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1)))
def test_popcount(words: list[int]) -> None:
    counts = popcount(np.array(words, dtype=np.uint64))
    assert counts.tolist() == [number.bit_count() for number in words]


def test_batches_hold_every_payload_once() -> None:
    sizes = [0, BATCH_BYTES, 1, BATCH_BYTES - 1, 1, 3 * BATCH_BYTES, 0, 7]
    payloads = [bytes(size) for size in sizes]
    places = list(batches([*payloads, None]))
    assert [(place.start, place.stop) for place in places] == [(0, 2), (2, 4), (4, 5), (5, 6), (6, 9)]
    assert list(batches([])) == []


# ---- what the patched driver sends ----


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    with running_encoder(tmp_path_factory.mktemp("encoder")) as running:
        yield running


@pytest.mark.parametrize(("filled", "gib"), [(0.01, 3), (0.7, 1), (0.99, 1), (1.0, 1)])
def test_what_the_driver_sends(encoder: Encoder, filled: float, gib: int) -> None:
    chance = random.Random(11)
    pages = [pfn for pfn in range(gib * bitmap_reference.BITMAP_PAGES) if chance.random() < filled]
    told = encoder.tell(pages, gib=gib)
    payloads = [struct.pack(f"<{len(words)}Q", *words) for words in told.payloads]
    decoded = decode_response_data(payloads)
    runs = decoded.named_runs()
    assert decoded.refusals == ()
    assert len(decoded.pages) == len(told.records())
    assert int(decoded.pages.sum()) == len(pages)
    assert np.array_equal(np.sort(_expanded(runs)), pages)


def _expanded(runs: NamedRuns) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Every page of some runs."""
    lengths = runs.ends - runs.starts
    before = np.cumsum(lengths) - lengths
    pages: np.ndarray[tuple[int], np.dtype[np.int64]] = np.repeat(runs.starts - before, lengths)
    return pages + np.arange(len(pages))


# ---- what the stock driver sends ----


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.one_of(st.integers(0, 40), st.integers(2**32 - 4, 2**32 - 1)), max_size=30)))
@example([[2**32 - 1], [0]])
def test_pfn_arrays(arrays: list[list[int]]) -> None:
    decoded = decode_pfn_arrays([pfns(*numbers) for numbers in arrays])
    expected = [
        [(start, end - start) for start, end in bitmap_reference.runs(set(numbers))] for numbers in arrays
    ]
    assert runs_of(decoded.named_runs(), len(arrays)) == expected
    assert decoded.pages.tolist() == [len(numbers) for numbers in arrays]
    assert decoded.duplicates.tolist() == [len(numbers) - len(set(numbers)) for numbers in arrays]
    assert decoded.refusals == ()


def test_pages_handed_out_in_descending_order_are_one_run() -> None:
    decoded = decode_pfn_arrays([pfns(*range(1255, 999, -1)), pfns(*range(1000, 1256))])
    assert runs_of(decoded.runs, 2) == [[(1000, 256)]] * 2


def test_a_pfn_array_of_an_odd_length_is_refused_and_a_cut_one_is_not() -> None:
    payloads = [pfns(1, 2, 3) + b"x", pfns(1, 2, 3)[:11], pfns(1, 2, 3)[:11], pfns(8)]
    decoded = decode_pfn_arrays(payloads, np.array([13, 12, 11, 4]))
    assert decoded.refusals == (Refusal(0, 12, Reason.ARRAY_LENGTH), Refusal(2, 8, Reason.ARRAY_LENGTH))
    assert runs_of(decoded.runs, 4) == [[], [(1, 2)], [], [(8, 1)]]
    assert decoded.pages.tolist() == [0, 2, 0, 1]

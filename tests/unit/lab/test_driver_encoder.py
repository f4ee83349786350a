# SPDX-License-Identifier: GPL-2.0-or-later
"""The patched driver's encoder, with sanitizers, against one written from the format's description."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from bitmap_reference import (
    BITMAP_PAGES,
    FULL_WORDS,
    RESPONSE_WORDS,
    Record,
    encode,
    told_pages,
    window_starts,
)
from driver_encoder import Encoder, running_encoder
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.thorough

MOST_GIB = 4


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    with running_encoder(tmp_path_factory.mktemp("encoder")) as running:
        yield running


@st.composite
def page_sets(draw: st.DrawFn, gib: int) -> set[int]:
    """Runs of pages, most of them near the boundaries of words and bitmaps."""
    end = gib * BITMAP_PAGES
    pages: set[int] = set()
    for _ in range(draw(st.integers(0, 12))):
        unit = draw(st.sampled_from([1, 64, 4096, BITMAP_PAGES]))
        start = draw(st.integers(0, end // unit)) * unit + draw(st.integers(-3, 3))
        length = draw(
            st.one_of(st.integers(1, 3), st.integers(1, 700), st.sampled_from([62, 63, 64, 65, 128, 4096]))
        )
        pages.update(range(max(0, start), min(end, start + length)))
    return pages


@st.composite
def operations(draw: st.DrawFn) -> tuple[set[int], set[int], int, int]:
    """New pages, old ones, GiB of memory, bitmaps that can be allocated."""
    gib = draw(st.integers(1, MOST_GIB))
    new = draw(page_sets(gib))
    assume(new)
    return new, draw(page_sets(gib)) - new, gib, draw(st.integers(1, MOST_GIB))


def shuffled(pages: set[int]) -> list[int]:
    ordered = sorted(pages)
    random.Random(len(ordered)).shuffle(ordered)
    return ordered


@settings(max_examples=80, deadline=None)
@given(operations())
@example(({64}, set(), 1, 1))
@example(({0, BITMAP_PAGES}, set(), 2, 1))
@example(({0, 1, BITMAP_PAGES}, {BITMAP_PAGES + 1}, 2, 1))
@example(({5}, {6, 200_000}, 1, 1))
def test_what_is_sent_is_what_the_format_says(
    encoder: Encoder, operation: tuple[set[int], set[int], int, int]
) -> None:
    new, old, gib, bitmaps = operation
    told = encoder.tell(shuffled(new), shuffled(old), gib=gib, bitmaps=bitmaps)
    usable = min(gib, bitmaps)
    assert told.payloads == encode(new, new | old, usable)
    # Every page in a window once, whatever it is; nothing else, and nothing twice.
    assert told.pages() == Counter(told_pages(new, new | old, usable))


@settings(max_examples=80, deadline=None)
@given(operations())
@example(({128}, set(), 1, 1))
@example(({0, BITMAP_PAGES}, set(), 2, 1))
def test_every_new_page_is_told_but_the_one_that_is_documented(
    encoder: Encoder, operation: tuple[set[int], set[int], int, int]
) -> None:
    new, old, gib, bitmaps = operation
    told = encoder.tell(shuffled(new), shuffled(old), gib=gib, bitmaps=bitmaps)
    low = min(new) // 64 * 64
    highest_begins_a_window = (max(new) - low) % (min(gib, bitmaps) * BITMAP_PAGES) == 0
    lost = {max(new)} if max(new) % 64 == 0 and highest_begins_a_window else set()
    assert new - set(told.pages()) == lost


@settings(max_examples=40, deadline=None)
@given(operations())
def test_compaction_in_the_middle_of_a_walk(
    encoder: Encoder, operation: tuple[set[int], set[int], int, int]
) -> None:
    new, old, gib, bitmaps = operation
    told = encoder.tell(shuffled(new), shuffled(old), gib=gib, bitmaps=bitmaps, disturb=True)
    wanted = told_pages(new, new | old, min(gib, bitmaps))
    assert set(told.pages()) <= wanted
    assert len(wanted) - len(told.pages()) <= told.disturbed


# ---- the documented faults, one by one ----


@pytest.mark.parametrize(("pfn", "payloads"), [(64, []), (65, [[65 - 1 | 12 << 52 | 8 << 58, 2]])])
def test_a_single_page_on_a_multiple_of_64_is_lost(
    encoder: Encoder, pfn: int, payloads: list[list[int]]
) -> None:
    told = encoder.tell([pfn])
    assert told.payloads == payloads


def test_the_highest_page_is_lost_when_it_begins_a_window(encoder: Encoder) -> None:
    new = [10, 2 * BITMAP_PAGES]
    assert set(encoder.tell(new, gib=3, bitmaps=2).pages()) == {10}
    assert set(encoder.tell(new, gib=3, bitmaps=3).pages()) == set(new)


def test_old_pages_are_told_again_even_above_the_new_ones(encoder: Encoder) -> None:
    told = encoder.tell([1000], [900, 960, 1001, 100_000], gib=1)
    assert sorted(told.pages()) == [960, 1000, 1001, 100_000]


def test_order_of_records(encoder: Encoder) -> None:
    told = encoder.tell(range(70, 64 * 12 + 3))
    ends = [(64, (1 << 64) - (1 << 6)), (64 * 12, 0b111)]
    assert told.records() == [
        *(Record(pfn, 0, word) for pfn, word in ends),
        *(Record(128, 9), Record(640, 7)),
    ]


@pytest.mark.parametrize(("filled", "sends"), [(0.5, 3), (0.7, 3), (0.9, 3), (0.99, 2), (1.0, 1)])
def test_sends_of_a_window(encoder: Encoder, filled: float, sends: int) -> None:
    """A send is forced as soon as more than 4032 words are waiting; no word gets lost on the way."""
    chance = random.Random(1)
    new = [pfn for pfn in range(BITMAP_PAGES) if chance.random() < filled]
    told = encoder.tell(new)
    assert told.pages() == Counter(new)
    assert told.payloads == encode(new, new, 1)
    assert len(told.payloads) == sends
    assert told.windows == 1
    for payload in told.payloads[:-1]:
        assert FULL_WORDS < len(payload) <= FULL_WORDS + 16 <= RESPONSE_WORDS


def test_windows_when_bitmaps_cannot_be_allocated(encoder: Encoder) -> None:
    new = [pfn for gib in range(4) for pfn in (gib * BITMAP_PAGES + 7, gib * BITMAP_PAGES + 100)]
    counts = {bitmaps: encoder.tell(new, gib=4, bitmaps=bitmaps).windows for bitmaps in (1, 2, 3, 4, 32)}
    assert counts == {1: 4, 2: 2, 3: 2, 4: 1, 32: 1}
    assert len(window_starts(new, 1)) == 4


def test_at_most_32_bitmaps(encoder: Encoder) -> None:
    new = [1, 33 * BITMAP_PAGES + 1]
    told = encoder.tell(new, gib=40, bitmaps=64)
    assert told.windows == 2
    assert sorted(told.pages()) == new

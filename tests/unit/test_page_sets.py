# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of pages against Python's own sets."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balloontrace.analysis.page_sets import PFN_END, PageSet, topmost

Run = tuple[int, int]

RUNS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda run: (run[0], sum(run))), max_size=12
)
BASES = st.sampled_from([0, 1 << 40, PFN_END - 72])


def columns(runs: Iterable[Run]) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]:
    """Starts and ends."""
    table = np.array(list(runs), dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def page_set(runs: Iterable[Run], base: int = 0) -> PageSet:
    return PageSet.from_runs(*columns((base + start, base + end) for start, end in runs))


def pages(runs: Iterable[Run]) -> set[int]:
    return {pfn for start, end in runs for pfn in range(start, end)}


def elements(found: PageSet, base: int = 0) -> set[int]:
    """Its pages, after a look at whether its runs are as they are to be."""
    assert (found.starts < found.ends).all()
    assert (found.ends[:-1] < found.starts[1:]).all()
    assert found.starts.dtype == found.ends.dtype == np.int64
    return {pfn - base for pfn in pages(zip(found.starts.tolist(), found.ends.tolist(), strict=True))}


@settings(deadline=None)
@given(RUNS, BASES)
def test_made_of_any_runs(runs: list[Run], base: int) -> None:
    found, expected = page_set(runs, base), pages(runs)
    assert elements(found, base) == expected
    assert found.count == len(expected) == int(found.lengths.sum())
    assert found.span == ((base + min(expected), base + max(expected)) if expected else None)


@settings(deadline=None)
@given(RUNS, RUNS, BASES)
def test_operators(one: list[Run], other: list[Run], base: int) -> None:
    ours, theirs = page_set(one, base), page_set(other, base)
    assert elements(ours | theirs, base) == pages(one) | pages(other)
    assert elements(ours & theirs, base) == pages(one) & pages(other)
    assert elements(ours - theirs, base) == pages(one) - pages(other)
    assert (ours == theirs) == (pages(one) == pages(other))


@settings(deadline=None)
@given(RUNS, RUNS, BASES)
def test_pages_in_some_runs(one: list[Run], other: list[Run], base: int) -> None:
    starts, ends = columns((base + start, base + end) for start, end in other)
    counts = page_set(one, base).count_in(starts, ends).tolist()
    assert counts == [len(pages(one) & set(range(start, end))) for start, end in other]


def test_all_there_can_be() -> None:
    everything = page_set([(0, PFN_END)])
    assert everything.count == PFN_END
    assert (everything - everything) == PageSet.empty()
    assert (everything - page_set([(5, PFN_END)])) == page_set([(0, 5)])


def test_cannot_be_changed() -> None:
    found = page_set([(1, 2)])
    with pytest.raises(ValueError, match="read-only"):
        found.starts[0] = 0
    with pytest.raises(TypeError, match="unhashable"):
        hash(found)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40), st.integers(0, 5)), max_size=20))
def test_topmost(laid: list[tuple[int, int, int]]) -> None:
    expected: dict[int, int] = {}
    for start, length, rank in laid:
        for pfn in range(start, start + length):
            expected[pfn] = max(rank, expected.get(pfn, 0))
    starts, ends = columns((start, start + length) for start, length, _ in laid)
    pieces = topmost(starts, ends, np.array([rank for _, _, rank in laid], dtype=np.intp))
    assert (pieces.starts < pieces.ends).all()
    assert (pieces.ends[:-1] <= pieces.starts[1:]).all()
    rows = zip(pieces.starts.tolist(), pieces.ends.tolist(), pieces.ranks.tolist(), strict=True)
    assert {pfn: rank for start, end, rank in rows for pfn in range(start, end)} == expected

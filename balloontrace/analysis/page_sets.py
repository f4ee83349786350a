# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of pages as sorted runs of page numbers (4 KiB units, below 2^52), without a loop over runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.group_statistics import Int64s, floor_log2

PFN_END = 1 << 52
"""Page numbers are below this: the page-bitmap format has 52 bits for them."""


@dataclass(frozen=True, slots=True, eq=False)
class PageSet:
    """An immutable set of pages: run i is [starts[i], ends[i]).

    Runs are not empty, ascend, and neither overlap nor touch, so equal sets have equal arrays. `from_runs`
    makes a set of any runs.
    """

    starts: Int64s
    ends: Int64s

    def __post_init__(self) -> None:
        self.starts.setflags(write=False)
        self.ends.setflags(write=False)

    @classmethod
    def empty(cls) -> PageSet:
        """No pages."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))

    @classmethod
    def from_runs(cls, starts: Int64s, ends: Int64s) -> PageSet:
        """The pages of runs [start, end) in any order, overlapping or not; empty if not start < end."""
        filled = starts < ends
        starts, ends = starts[filled], ends[filled]
        # Nearly sorted as a rule, which a stable sort makes use of.
        order = np.argsort(starts, kind="stable")
        starts, reach = starts[order], np.maximum.accumulate(ends[order])
        opens = np.ones(len(starts), dtype=np.bool_)
        opens[1:] = starts[1:] > reach[:-1]
        return cls(starts[opens], reach[np.roll(opens, -1)])

    @property
    def lengths(self) -> Int64s:
        """Pages in each run."""
        lengths: Int64s = self.ends - self.starts
        return lengths

    @property
    def count(self) -> int:
        """Pages in all."""
        return int(self.lengths.sum())

    @property
    def span(self) -> tuple[int, int] | None:
        """First and last page; None for the empty set."""
        return (int(self.starts[0]), int(self.ends[-1]) - 1) if len(self.starts) else None

    def count_in(self, starts: Int64s, ends: Int64s) -> Int64s:
        """How many pages of this set lie in each of some runs [start, end)."""
        counts: Int64s = self._count_below(ends) - self._count_below(starts)
        return counts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PageSet):
            return NotImplemented
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.ends, other.ends)

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: PageSet) -> PageSet:
        starts, ends = (self.starts, other.starts), (self.ends, other.ends)
        return PageSet.from_runs(np.concatenate(starts), np.concatenate(ends))

    def __and__(self, other: PageSet) -> PageSet:
        few, many = sorted((self, other), key=lambda pages: len(pages.starts))
        firsts = np.searchsorted(many.ends, few.starts, side="right")
        counts = np.searchsorted(many.starts, few.ends, side="left") - firsts
        ours = np.repeat(np.arange(len(counts)), counts)
        # The partners of one of our runs are neighbours: its first one, and as many as it has from there on.
        theirs = np.arange(len(ours)) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        return PageSet(
            np.maximum(few.starts[ours], many.starts[theirs]), np.minimum(few.ends[ours], many.ends[theirs])
        )

    def __sub__(self, other: PageSet) -> PageSet:
        return self & other._complement()

    def _complement(self) -> PageSet:
        starts, ends = np.append(0, self.ends), np.append(self.starts, PFN_END)
        filled = starts < ends
        return PageSet(starts[filled], ends[filled])

    def _count_below(self, pfns: Int64s) -> Int64s:
        runs = np.searchsorted(self.starts, pfns, side="right")
        whole = np.append(0, np.cumsum(self.lengths))[runs]
        last_end = np.append(0, self.ends)[runs]
        below: Int64s = whole - np.maximum(last_end - pfns, 0)
        return below


@dataclass(frozen=True, slots=True)
class Pieces:
    """Runs cut where one starts or ends: ascending, disjoint, each with the highest rank of those over it."""

    starts: Int64s
    ends: Int64s
    ranks: NDArray[np.intp]


def topmost(starts: Int64s, ends: Int64s, ranks: NDArray[np.intp]) -> Pieces:
    """What is seen from above of runs [start, end) that lie on each other, the higher rank on top.

    Runs are not empty and ranks not negative. Takes n log n steps for n runs, however they overlap: a run is
    laid down as two blocks of 2^k pieces, which may overlap each other, and blocks are halved from the
    largest on. That is a sparse table for range maxima, filled from its coarse end.
    """
    # In order, because looking up one after the other what lies side by side is several times as fast.
    order = np.argsort(starts, kind="stable")
    starts, ends, ranks = starts[order], ends[order], ranks[order]
    if np.all(ends[:-1] <= starts[1:]):  # as a rule a page is named once, and nothing lies on anything
        return Pieces(starts, ends, ranks)
    # Not np.unique: newer ones hash integers, which takes a hundred times as long as sorting these.
    edges = np.sort(np.concatenate([starts, ends]), kind="stable")
    edges = edges[np.diff(edges, prepend=-1) > 0]
    firsts = np.searchsorted(edges, starts)
    counts = np.searchsorted(edges, ends) - firsts
    sizes = floor_log2(counts)
    tops = np.full(len(edges), -1)
    for size in reversed(range(int(sizes.max(initial=-1)) + 1)):
        laid = sizes == size
        np.maximum.at(tops, firsts[laid], ranks[laid])
        if size:
            np.maximum.at(tops, firsts[laid] + counts[laid] - (1 << size), ranks[laid])
            half = 1 << (size - 1)
            tops[half:] = np.maximum(tops[half:], tops[:-half])
    covered = np.flatnonzero(tops >= 0)
    return Pieces(edges[covered], edges[covered + 1], tops[covered])

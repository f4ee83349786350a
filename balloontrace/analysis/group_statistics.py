# SPDX-License-Identifier: GPL-2.0-or-later
"""Sums, quantiles and logarithms of integers, for many groups at once and without a loop over values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.errors import RecordingError

Int64s = NDArray[np.int64]

_MOST = 1 << 62


@dataclass(frozen=True, slots=True)
class Distribution:
    """Count, sum and nearest-rank quantiles of some durations; the quantiles are None for no values."""

    count: int
    total_ns: int
    p50_ns: int | None
    p90_ns: int | None
    p99_ns: int | None
    max_ns: int | None


def distributions(values_ns: Int64s, groups: Int64s, group_count: int) -> list[Distribution]:
    """One Distribution for each of `group_count` groups; `groups[i]` is the group of `values_ns[i]`.

    Quantile q of n values is the ceil(q n)-th smallest: always a value that occurred (nearest rank,
    definition 1 of Hyndman and Fan 1996).
    """
    sorted_ns = _sort_in_groups(values_ns, groups)
    counts = np.bincount(groups, minlength=group_count).astype(np.int64)
    firsts = np.cumsum(counts) - counts
    totals = sums(values_ns, groups, group_count)
    picks = [_nearest_rank(sorted_ns, firsts, counts, percent) for percent in (50, 90, 99, 100)]
    rows = zip(counts.tolist(), totals.tolist(), *(pick.tolist() for pick in picks), strict=True)
    return [
        Distribution(count, total, *((p50, p90, p99, top) if count else (None, None, None, None)))
        for count, total, p50, p90, p99, top in rows
    ]


def sums(values: Int64s, groups: Int64s, group_count: int) -> Int64s:
    """Exact integer sum of the values of each group; `np.bincount` would add them up as floats.

    RecordingError when one does not fit 64 bits: no recording that makes sense is that long or large.
    """
    if len(values) and max(abs(int(values.min())), abs(int(values.max()))) >= _MOST // len(values):
        rough = np.bincount(groups, weights=np.abs(values.astype(np.float64)), minlength=group_count)
        if rough.max() >= _MOST:
            raise RecordingError(
                "the recording's times or counts add up to impossible values; it is unusable"
            )
    totals = np.zeros(group_count, dtype=np.int64)
    np.add.at(totals, groups, values)
    return totals


def floor_log2(values: NDArray[np.integer]) -> Int64s:
    """The k of 2^k <= value < 2^(k+1), for integers from 1 to 2^53: those a float holds exactly."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1


def _sort_in_groups(values_ns: Int64s, groups: Int64s) -> Int64s:
    """The values ordered by group, then by size."""
    if not len(values_ns):
        return values_ns
    low, span = int(values_ns.min()), int(values_ns.max()) - int(values_ns.min()) + 1
    if (int(groups.max()) + 1) * span >= 1 << 63:
        ordered: Int64s = values_ns[np.lexsort((values_ns, groups))]
        return ordered
    # One number that holds group and value sorts several times faster than two keys.
    return np.sort(groups * span + (values_ns - low)) % span + low


def _nearest_rank(sorted_ns: Int64s, firsts: Int64s, counts: Int64s, percent: int) -> Int64s:
    if not len(sorted_ns):
        return np.zeros(len(counts), dtype=np.int64)
    ranks = np.maximum(-(-counts * percent // 100), 1) - 1
    picked: Int64s = sorted_ns[np.minimum(firsts + ranks, len(sorted_ns) - 1)]
    return picked

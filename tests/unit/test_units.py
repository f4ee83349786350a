# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloontrace import units
from balloontrace.analysis.group_statistics import distributions


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (None, "-"),
        (0, "0 ns"),
        (999, "999 ns"),
        (1_000, "1.00 us"),
        (17_049, "17.0 us"),
        (999_499, "999 us"),
        (999_999, "1.00 ms"),
        (590_000_000, "590 ms"),
        (4_126_000_000, "4.13 s"),
        (-2_500, "-2.50 us"),
    ],
)
def test_durations(duration_ns: int | None, text: str) -> None:
    assert units.format_duration_ns(duration_ns) == text


def test_sizes_rates_counts_and_shares() -> None:
    assert units.format_pages_as_bytes(1_835_008) == "7.00 GiB"
    assert units.format_bytes(17) == "17 B"
    assert units.format_count(1_835_008) == "1 835 008"
    assert units.format_rate(units.rate_bytes_per_s(1_835_008, 4_126_000_000)) == "1.70 GiB/s"
    assert units.rate_bytes_per_s(5, 0) is None
    assert [units.format_share(share) for share in (None, 0.0, 0.0001, 0.683, 1.0)] == [
        "-",
        "0.0 %",
        "<0.1 %",
        "68.3 %",
        "100.0 %",
    ]


numbers = st.integers(0, 2**50)


@given(st.lists(st.tuples(st.integers(0, 4), numbers), max_size=60), st.booleans())
def test_quantiles_are_nearest_ranks_of_each_group(pairs: list[tuple[int, int]], large: bool) -> None:
    if large:
        # Such a value takes the path for keys that do not fit into one number.
        pairs = [*pairs, (4, 2**61)]
    values = np.array([value for _, value in pairs], dtype=np.int64)
    groups = np.array([group for group, _ in pairs], dtype=np.int64)
    for group, found in enumerate(distributions(values, groups, 5)):
        mine = np.sort(values[groups == group])
        assert (found.count, found.total_ns) == (len(mine), sum(mine.tolist()))
        picks = (found.p50_ns, found.p90_ns, found.p99_ns, found.max_ns)
        if len(mine):
            ranks = [-(-len(mine) * percent // 100) - 1 for percent in (50, 90, 99, 100)]
            assert picks == tuple(mine[ranks].tolist())
        else:
            assert picks == (None, None, None, None)


def test_one_and_many() -> None:
    assert units.format_things(1, "send") == "1 send"
    assert units.format_things(1_000, "send") == "1 000 sends"
    assert units.format_things(0, "pass", "passes") == "0 passes"
    assert units.format_things(None, "send") == "- sends"

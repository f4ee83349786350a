# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of what recorders cost: stages from reports of one side or both, percentages from medians."""

from __future__ import annotations

from collections import defaultdict

import pytest

from balloontrace.format.vocabulary import Kind
from bench.both_sides_cost import MODES, SERVED, WALL, Times, longer_percent, parse_stages, render_table
from lab.results import REPO
from lab.results_tables import read_report

EXAMPLE = [REPO / f"examples/nested-qemu-{side}.bt" for side in ("guest", "host")]


def test_stages_of_either_side_and_of_both() -> None:
    guest, host, both = (parse_stages(read_report(*words)) for words in (EXAMPLE[:1], EXAMPLE[1:], EXAMPLE))
    assert set(guest) == {(Kind.INFLATE, name) for name in ("a", SERVED, "other")}
    assert set(host) == {(Kind.INFLATE, "d")}
    of_both = ("a", "b", "c", "d", SERVED, "other", "tracing_c", "tracing_d")
    assert set(both) == {(Kind.INFLATE, name) for name in of_both}
    assert both[Kind.INFLATE, "d"] == host[Kind.INFLATE, "d"]
    assert both[Kind.INFLATE, SERVED] == guest[Kind.INFLATE, SERVED]


def test_a_cell_says_how_much_longer_than_in_the_first_mode_that_has_it() -> None:
    times: dict[str, Times] = {mode.name: defaultdict(list) for mode in MODES}
    times["none"][Kind.INFLATE, WALL] = [100e6, 102e6, 101e6]
    times["host"] |= {(Kind.INFLATE, WALL): [111.1e6], (Kind.INFLATE, "d"): [50e6]}
    times["both"][Kind.INFLATE, "d"] = [49e6]
    rows = {line.split(" | ")[0]: line for line in render_table(times).splitlines() if "inflate" in line}
    assert rows["| none"].startswith("| none | inflate | 101 ms | - ")
    assert rows["| host"].startswith("| host | inflate | 111 ms, +10.0 % | - ")
    assert "| 50.0 ms | - |" in rows["| host"]
    assert "| 49.0 ms, -2.0 % | - |" in rows["| both"]
    assert longer_percent([110.0], [100.0]) == pytest.approx(10)

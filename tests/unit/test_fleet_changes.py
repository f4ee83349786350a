# SPDX-License-Identifier: GPL-2.0-or-later
"""What changed between two weeks or kernels: what the tests of `compare` find in the same values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import pytest
from fleets import EXAMPLES, SIDES, as_dicts, ask, dataset_of, groups, rows_of, summed

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.storage import open_storage
from balloontrace.compare.run_order import Order, Turns
from balloontrace.compare.significance import weigh
from balloontrace.errors import UsageError
from balloontrace.fleet.ask import answer
from balloontrace.fleet.question import Options
from balloontrace.fleet.questions import questions
from balloontrace.fleet.side_filter import SideFilter, parse_side
from bench.fleet_recordings import KERNELS, of_machine, with_metadata

WEEKS = ("2026-W48", "2026-W49")


def values(
    data: Path, kind: str, stage: str | None, holds: Callable[[pd.DataFrame], Any]
) -> dict[str, float]:
    """Ns for each GiB by VM."""
    rows = rows_of(data, "operations" if stage is None else "stages")
    rows = rows[holds(rows) & (rows["outcome"] == "reached") & (rows["kind"] == kind) & rows["vm"].notna()]
    rows = rows[rows["bytes"].astype(float) > 0]
    column = "wall_ns"
    if stage is not None:
        rows, column = rows[(rows["stage"] == stage) & rows["part_of"].isna()], "total_ns"
    return {
        vm: (summed(group, column) or 0) * 2**30 / (summed(group, "bytes") or 1)
        for (vm,), group in groups(rows, "vm").items()
    }


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        (
            SIDES,
            lambda rows: rows["kernel_release"] == KERNELS[0],
            lambda rows: rows["kernel_release"].str.startswith("6.12.107"),
        ),
        (
            Options(before=WEEKS[0], after=WEEKS[1]),
            lambda rows: rows["day"].astype(str).between("2026-11-23", "2026-11-29"),
            lambda rows: rows["day"].astype(str).between("2026-11-30", "2026-12-06"),
        ),
    ],
    ids=["kernels", "weeks"],
)
def test_changes_are_those_that_the_tests_of_compare_find(
    options: Options,
    before: Callable[[pd.DataFrame], Any],
    after: Callable[[pd.DataFrame], Any],
    data: Path,
) -> None:
    found = answer(dataset_of(data), "changes", questions()["changes"], options, "duckdb")
    rows = as_dicts(found)
    assert {row["kind"] for row in rows} == {"inflate", "deflate"}
    for row in rows:
        stage = None if row["stage"] == "wall" else row["stage"]
        sides = [values(data, row["kind"], stage, holds) for holds in (before, after)]
        walls = [values(data, row["kind"], None, holds) for holds in (before, after)]
        order = Order(Turns.UNKNOWN)
        if len(set(walls[0]) & set(walls[1])) >= 5:
            names = sorted(set(sides[0]) & set(sides[1]))
            sides = [{name: side[name] for name in names} for side in sides]
            order = Order(Turns.PAIRS, pairs=tuple((place, place) for place in range(len(names))))
        first, second = ([side[name] for name in sorted(side)] for side in sides)
        evidence = weigh(first, second, order)
        assert (row["vms_before"], row["vms_after"]) == (len(first), len(second))
        assert row["before_ns_per_gib"] == pytest.approx(median(first), rel=1e-12)
        ends = [evidence.low, evidence.high]
        if row["verdict"] == "~" and evidence.low and evidence.high:
            ends = [min(evidence.low, 1), max(evidence.high, 1)]
        assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx(
            (evidence.ratio, *ends), rel=1e-9
        )
        assert row["verdict"] in (None, "faster", "slower", "same", "~")


def test_a_change_is_found_and_no_change_is_not(tmp_path: Path) -> None:
    """Ten VMs with the stock driver under one kernel, page bitmaps under the next; then five against five."""
    for number in range(1, 11):
        kernels = {"before": f"6.1-{'odd' if number % 2 else 'even'}", "after": "6.12-bitmaps"}
        for side, kernel in kernels.items():
            for word in ("guest", "host"):
                name = f"{side}-{number:03}-{word}"
                change = of_machine(f"vm-{number}", kernel, name, 0)
                source = (EXAMPLES / side / f"{name}.bt").read_bytes()
                (tmp_path / f"{name}.bt").write_bytes(with_metadata(source, change))
    archive([tmp_path], open_storage(str(tmp_path / "data")))

    def walls(before: str, after: str) -> dict[str, dict[str, Any]]:
        rows = ask(tmp_path / "data", "changes", Options(before=before, after=after))
        return {row["kind"]: row for row in rows if row["stage"] == "wall"}

    changed = walls("6.1-*", "6.12*")
    assert {kind: row["verdict"] for kind, row in changed.items()} == {
        "inflate": "faster",
        "deflate": "faster",
    }
    assert {row["vms_before"] for row in changed.values()} == {10}
    same = walls("6.1-odd", "6.1-even")
    assert {kind: row["verdict"] for kind, row in same.items()} == {"inflate": "~", "deflate": "~"}
    assert all(row["ratio_low"] <= 1 <= row["ratio_high"] for row in same.values())


def test_sides_that_have_nothing_in_common_are_said(data: Path) -> None:
    found = answer(
        dataset_of(data), "changes", questions()["changes"], Options(before="9.9", after="2020-01"), "duckdb"
    )
    assert (found.rows, found.notes) == ((), ("no operation reached its target on both sides",))


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("2026-W48", SideFilter(1_795_392_000 * 10**9, 1_795_996_800 * 10**9)),
        ("2026-12", SideFilter(1_796_083_200 * 10**9, 1_798_761_600 * 10**9)),
        ("2026-11-23", SideFilter(1_795_392_000 * 10**9, 1_795_478_400 * 10**9)),
        ("6.12.107+deb13-amd64", SideFilter(kernel="6.12.107+deb13-amd64")),
    ],
)
def test_what_a_side_may_be(text: str, side: SideFilter) -> None:
    assert parse_side(text) == side


@pytest.mark.parametrize("text", ["2026-W60", "2026-13", "2026-02-30", "", "*"])
def test_what_a_side_may_not_be(text: str) -> None:
    with pytest.raises(UsageError):
        parse_side(text)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock questions on DuckDB: the same answers as pandas gives from the same rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from fleets import EXAMPLES, ask, dataset_of, groups, is_none, rows_of, summed

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.storage import open_storage
from balloontrace.fleet.question import By, Options


def test_slowest(data: Path) -> None:
    rows = rows_of(data, "operations")
    found = ask(data, "slowest", Options(limit=7))
    assert [row["wall_ns"] for row in found] == sorted(rows["wall_ns"], reverse=True)[:7]
    for row in found:
        (same,) = rows[
            (rows["recording_id"] == row["recording_id"]) & (rows["wall_ns"] == row["wall_ns"])
        ].to_dict("records")
        assert {name: None if is_none(same[name]) else same[name] for name in row if name in same} == {
            name: row[name] for name in row if name in same
        }
        if row["bytes"] is not None:
            assert row["rate_bytes_per_s"] == row["bytes"] * 1e9 / row["wall_ns"]


@pytest.mark.parametrize("by", By)
def test_stalls(by: By, data: Path) -> None:
    rows = rows_of(data, "operations")
    rows = rows[rows["kind"].isin(["inflate", "deflate"])]
    expected = groups(rows, by.column)
    found = ask(data, "stalls", Options(limit=1000, by=by))
    assert {(row[by.column],) for row in found} == set(expected)
    for row in found:
        of_key = expected[row[by.column],]
        assert row["operations"] == int((of_key["outcome"] != "in progress").sum())
        assert row["stalled"] == int((of_key["outcome"] == "stalled").sum())
        assert row["short_bytes"] == summed(of_key, "shortfall_bytes")
        assert row["oom_bytes"] == summed(of_key, "oom_bytes")
        assert row["run_delay_ns"] == summed(of_key, "run_delay_ns")
    assert [row["stalled"] for row in found] == sorted((row["stalled"] for row in found), reverse=True)
    assert any(row["short_bytes"] for row in found)


def test_stages(data: Path) -> None:
    rows = rows_of(data, "stages")
    rows = rows[rows["part_of"].isna()]
    expected = groups(rows, "kernel_release", "driver_kind", "kind", "stage")
    found = ask(data, "stages")
    assert len(found) == len(expected)
    wall_ns = {
        key: summed(group, "total_ns")
        for key, group in groups(rows, "kernel_release", "driver_kind", "kind").items()
    }
    for row in found:
        key = row["kernel_release"], row["driver_kind"], row["kind"]
        of_stage = expected[*key, row["stage"]]
        assert (row["operations"], row["total_ns"]) == (len(of_stage), summed(of_stage, "total_ns"))
        assert row["share"] == row["total_ns"] / (wall_ns[key] or 0)
        rates = sorted(
            size * 1e9 / total
            for size, total in zip(of_stage["bytes"], of_stage["total_ns"], strict=True)
            if not is_none(size) and size and total
        )
        for name, share in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
            shown = row[f"{name}_bytes_per_s"]
            if rates:
                assert shown == pytest.approx(rates[math.ceil(share * len(rates)) - 1], rel=0.0111)
            else:
                assert shown is None


def test_freed(data: Path) -> None:
    rows = rows_of(data, "operations")
    expected = groups(
        rows[rows["freed_verdict"].notna()], "host", "freed_verdict", "freed_reason", "freed_memory"
    )
    found = ask(data, "freed")
    assert len(found) == len(expected) > 0
    for row in found:
        group = expected[row["host"], row["freed_verdict"], row["freed_reason"], row["freed_memory"]]
        assert row["operations"] == len(group)
        for name in ("asked_bytes", "freed_least_bytes", "freed_most_bytes"):
            assert row[name] == summed(group, name)


def test_calls_and_losses(data: Path) -> None:
    for name, table, key, sums in (
        ("calls", "calls", "call", ("calls", "bytes", "errors", "freed_nothing", "freed_bytes", "total_ns")),
        ("losses", "losses", "function", ("entries", "events_lost", "lost", "no_state", "missed")),
    ):
        rows = rows_of(data, table)
        if name == "calls":
            rows = rows[rows["calls"] > 0]
        expected = groups(rows, "host", key)
        found = ask(data, name, Options(limit=1000, by=By.HOST))
        assert len(found) == len(expected)
        for row in found:
            assert {each: row[each] for each in sums} == {
                each: summed(expected[row["host"], row[key]], each) for each in sums
            }
    assert all(row["mean_ns"] == row["total_ns"] / row["calls"] for row in ask(data, "calls"))
    assert any(row["freed_nothing"] for row in ask(data, "calls"))
    assert any(row["freed_nothing"] is None for row in ask(data, "calls"))


def test_cost(data: Path) -> None:
    rows = rows_of(data, "machines")
    for row in ask(data, "cost"):
        group = groups(rows, "kernel_release", "side", "engine")[
            row["kernel_release"], row["side"], row["engine"]
        ]
        assert (row["recordings"], row["cpu_ns"]) == (len(group), summed(group, "cpu_ns"))
        both = group[group["duration_ns"].notna() & group["cpu_ns"].notna()]
        if len(both):
            assert row["cpu_share"] == (summed(both, "cpu_ns") or 0) / (summed(both, "duration_ns") or 1)


def test_hidden_rows_are_in_no_answer(tmp_path: Path) -> None:
    """A guest archived alone, and then with its host's: two batches have it, one counts."""
    storage = open_storage(str(tmp_path))
    guest, host = (EXAMPLES / "after" / f"after-001-{side}.bt" for side in ("guest", "host"))
    archive([guest], storage)
    archive([guest, host], storage)
    assert dataset_of(tmp_path).hidden
    rows = ask(tmp_path, "stages", Options())
    assert {row["stage"] for row in rows} >= {"b", "c", "d"}
    assert {row["operations"] for row in rows} == {1}


def test_bins_hold_every_rate() -> None:
    """What a percentile may be off by: the middle of a bin of 2^(1/32)."""
    widest = np.exp2(0.5 / 32) - 1
    assert widest < 0.0111

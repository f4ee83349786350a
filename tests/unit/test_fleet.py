# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions on DuckDB: the same answers as pandas gives from the same rows, in every format."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import command_tree
import numpy as np
import pandas as pd
import pytest
from command_tree import Done
from fleets import EXAMPLES, add_unusual, dataset_of, table_of
from html_tree import assert_sound

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.storage import open_storage
from balloontrace.commands.formats import offered
from balloontrace.compare.run_order import Order, Turns
from balloontrace.compare.significance import weigh
from balloontrace.errors import UsageError
from balloontrace.fleet.ask import answer, find_dataset
from balloontrace.fleet.question import By, Options
from balloontrace.fleet.questions import questions
from balloontrace.fleet.side_filter import SideFilter, parse_side
from balloontrace.results.fleet_answer import Answer
from bench.fleet_recordings import KERNELS, of_machine, with_metadata, write_fleet

DAYS, HOSTS = 10, 4
MANY = Options(limit=1000)
SIDES = Options(before=KERNELS[0], after="6.12.107*")
WEEKS = ("2026-W48", "2026-W49")
Run = Callable[..., Done]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 recordings of 4 hosts, and what the examples have not: stalls, what was freed, losses."""
    folder = tmp_path_factory.mktemp("fleet")
    write_fleet(folder / "recordings", 200, HOSTS, DAYS)
    cases = EXAMPLES.parent / "tests" / "data" / "cases"
    for name in ("m2-shared-dontneed-counted.bt", "n2-guest.bt", "n2-host.bt", "e1-deflate-on-oom.bt"):
        shutil.copy(cases / name, folder / "recordings")
    assert not archive([folder / "recordings"], open_storage(str(folder / "data")), keep_damaged=True).refused
    add_unusual(folder / "data")
    return folder / "data"


rows_of = cache(table_of)  # which no test changes


def ask(data: Path, name: str, options: Options = MANY) -> list[dict[str, Any]]:
    found = answer(dataset_of(data), name, questions()[name], options, "duckdb")
    return as_dicts(found)


def as_dicts(found: Answer) -> list[dict[str, Any]]:
    names = [column.name for column in found.columns]
    return [dict(zip(names, row, strict=True)) for row in found.rows]


def is_none(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def summed(rows: pd.DataFrame, column: str) -> int | None:
    """The sum of what was measured; None where nothing was."""
    known = [int(value) for value in rows[column] if not is_none(value)]
    return sum(known) if known else None


def groups(rows: pd.DataFrame, *keys: str) -> dict[tuple[Any, ...], pd.DataFrame]:
    found = rows.groupby(list(keys), dropna=False, sort=False)
    return {tuple(None if is_none(each) else each for each in key): group for key, group in found}


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
        assert row["operations"] == len(of_key)
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
        assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx(
            (evidence.ratio, evidence.low, evidence.high), rel=1e-9
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


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], data: Path) -> Run:
    return partial(command_tree.run, capsys, "fleet", data)


@pytest.mark.parametrize("name", sorted(questions()))
def test_every_question_in_every_format(name: str, data: Path) -> None:
    options = SIDES if questions()[name].sides else Options()
    found = answer(dataset_of(data), name, questions()[name], options, "duckdb")
    shown = {
        form: "".join(map(str, each.fleet(found)))
        for form, each in offered("fleet").items()
        if each.fleet is not None
    }
    assert set(shown) == {"csv", "html", "json", "markdown", "table"}
    rows = as_dicts(found)
    assert rows
    assert json.loads(shown["json"])["rows"] == rows
    table = list(csv.DictReader(io.StringIO(shown["csv"])))
    assert len(table) == len(rows)
    for cells, row in zip(table, rows, strict=True):
        assert list(cells.values()) == ["" if each is None else str(each) for each in row.values()]
    assert max(map(len, shown["table"].splitlines())) <= 80
    assert shown["markdown"].count("\n|") == len(rows) + 2
    assert_sound(shown["html"])
    assert shown["html"].count("<svg") == 1
    assert shown["html"].count("<tr") == len(rows) + 1


def test_a_page_into_a_file(run: Run, data: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("stalls", "--by", "host", "--format", "html", "-o", page)
    assert (done.status, done.stdout, done.stderr) == (0, "", "")
    assert "Where balloons stalled" in page.read_text()
    table = run("stalls", "--by", "host")
    assert (table.status, table.stderr) == (0, "")
    assert f"{len(dataset_of(data).ranks)} recordings of " in table.stdout


def test_sql(run: Run, data: Path) -> None:
    query = "SELECT kind, count(*) AS n, max(wall_ns) AS wall_ns FROM operations GROUP BY kind ORDER BY kind"
    done = run("--sql", query, "--format", "json")
    assert done.status == 0
    rows = rows_of(data, "operations")
    expected = [
        {"kind": key, "n": len(group), "wall_ns": int(group["wall_ns"].max())}
        for (key,), group in sorted(groups(rows, "kind").items())
    ]
    assert json.loads(done.stdout)["rows"] == expected
    assert run("--sql", query).status == 0
    wrong = run("--sql", "SELECT nothing FROM nowhere")
    assert wrong.status == 1
    assert re.fullmatch(r"balloontrace: duckdb cannot answer: .*nowhere.*\n", wrong.stderr)


def test_days(run: Run, data: Path) -> None:
    query = (
        "--sql",
        "SELECT min(day) AS low, max(day) AS high, count(*) AS n FROM machines",
        "--format",
        "json",
    )
    (row,) = json.loads(run(*query, "--since", "2026-11-30", "--until", "2026-12-02").stdout)["rows"]
    days = rows_of(data, "machines")["day"].astype(str)
    assert (row["low"][:10], row["high"][:10]) == ("2026-11-30", "2026-12-02")
    assert row["n"] == int(days.between("2026-11-30", "2026-12-02").sum())
    assert run("slowest", "--since", "2030-01-01").status == 2


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give a question"),
        (("slowest", "--sql", "SELECT 1"), "not both"),
        (("slowest", "--by", "vm"), "slowest takes no --by"),
        (("changes",), "takes --before and --after"),
        (("stalls", "--before", "2026-W48"), "takes no --before"),
        (("changes", "--before", "2026-W99", "--after", "6.1"), "is in no calendar"),
        (("slowest", "--engine", "nonsense"), "nonsense is no engine"),
        (("--sql", "SELECT 1", "--by", "vm"), "--sql takes no --by"),
    ],
)
def test_wrong_words_are_one_sentence(words: tuple[str, ...], said: str, run: Run) -> None:
    done = run(*words)
    assert (done.status, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = command_tree.run(capsys, "fleet", tmp_path / "nothing", "slowest")
    assert done.status == 2
    assert "holds no archived recordings" in done.stderr
    with pytest.raises(UsageError):
        find_dataset(str(tmp_path))


def test_spark_without_java(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    done = run("slowest", "--engine", "local[2]")
    assert done.status == 1
    assert done.stderr.startswith(
        "balloontrace: Spark needs Java, which is not installed: install default-jre-headless"
    )


def test_an_object_store_is_read_by_duckdb_too(tmp_path: Path) -> None:
    del tmp_path
    url = "memory://fleet/data"
    storage = open_storage(url)
    try:
        archive([EXAMPLES / "before"], storage)
        found = answer(find_dataset(url), "slowest", questions()["slowest"], Options(limit=3), "duckdb")
        assert len(found.rows) == 3
    finally:
        storage.files.rm("/fleet", recursive=True)


def test_another_engine_of_ibis(run: Run) -> None:
    """Which is found by its URL: here the same one, by that way."""
    asked = ("stalls", "--by", "kernel", "--format", "csv")
    other = run(*asked, "--engine", "duckdb://")
    assert (other.status, other.stdout) == (0, run(*asked).stdout)


@pytest.mark.parametrize("engine", ["nonsense://x", "postgres://127.0.0.1:1/x"])
def test_an_engine_that_is_not_there_is_one_sentence(engine: str, run: Run) -> None:
    done = run("stalls", "--engine", engine)
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith(f"balloontrace: {engine} cannot answer: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_of_any_name(tmp_path: Path) -> None:
    data = tmp_path / "a [x] *?%41 \u00f6"
    archive([EXAMPLES / "after"], open_storage(str(data)))
    assert len(ask(data, "slowest", Options(limit=3))) == 3


def test_bins_hold_every_rate() -> None:
    """What a percentile may be off by: the middle of a bin of 2^(1/32)."""
    widest = np.exp2(0.5 / 32) - 1
    assert widest < 0.0111

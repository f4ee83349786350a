# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace fleet`: every format, SQL, days, engines, and words that make no sense."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import command_tree
import pytest
from command_tree import Done
from fleets import EXAMPLES, SIDES, as_dicts, ask, dataset_of, groups, rows_of
from html_tree import assert_sound

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.storage import open_storage
from balloontrace.commands.formats import offered
from balloontrace.errors import UsageError
from balloontrace.fleet.ask import answer, find_dataset
from balloontrace.fleet.question import Options
from balloontrace.fleet.questions import questions

Run = Callable[..., Done]


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
    for form in ("table", "json", "csv"):
        infinite = run("--sql", "SELECT 'inf'::DOUBLE AS x, 'nan'::DOUBLE AS y_ns", "--format", form)
        assert infinite.status == 0
        assert "inf" not in infinite.stdout.replace("'inf'", "")
    assert run("--sql", "").stderr.startswith("balloontrace: --sql takes one query")
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


@pytest.mark.parametrize("engine", ["spark://127.0.0.1:1,127.0.0.1:2", "sc://127.0.0.1:1"])
def test_a_spark_that_is_not_reached_is_said_at_once(engine: str, run: Run) -> None:
    done = run("stalls", "--engine", engine)
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith("balloontrace: no Spark is reached at 127.0.0.1:1: Connection refused")


def test_a_folder_of_any_name(tmp_path: Path) -> None:
    data = tmp_path / "a [x] *?%41 'b' \u00f6"
    archive([EXAMPLES / "after"], open_storage(str(data)))
    assert len(ask(data, "slowest", Options(limit=3))) == 3

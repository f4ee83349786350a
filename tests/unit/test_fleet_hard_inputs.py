# SPDX-License-Identifier: GPL-2.0-or-later
"""Datasets and queries that no one should give: one sentence each and its exit status; nothing is lost."""

from __future__ import annotations

import json
import shutil
import socket
from datetime import date
from pathlib import Path

import pytest
from command_tree import Done, run
from fleets import EXAMPLES, contents, dataset_of, table_of
from flows import Flow
from synthetic import recording_bytes

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.dataset import Dataset
from balloontrace.archive.merge_batches import merge
from balloontrace.archive.storage import open_storage
from balloontrace.errors import UsageError
from balloontrace.fleet.ask import find_dataset

Capsys = pytest.CaptureFixture[str]
GIVEN = [EXAMPLES / "before" / f"before-001-{side}.bt" for side in ("guest", "host")]

OTHER = EXAMPLES / "before" / "before-002-host.bt"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("made")
    for given in (GIVEN[:1], GIVEN, [OTHER]):
        archive(given, open_storage(str(data)))
    return data


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Two batches of one day and host, of a guest and then of its host."""
    return Path(shutil.copytree(made, tmp_path / "dataset"))


def assert_said(done: Done, status: int, *words: str) -> None:
    assert (done.status, done.stdout) == (status, "")
    assert len(done.stderr.splitlines()) == 1
    for each in words:
        assert each in done.stderr


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1 AS a) TO '{out}'",
        "SELECT 1 AS a; COPY (SELECT 1 AS a) TO '{out}'",
        "SELECT 1 AS a; DROP VIEW operations",
        "CREATE TABLE x AS SELECT 1 AS a",
        "INSERT INTO operations SELECT * FROM operations",
        "ATTACH '{out}' AS other",
        "SET memory_limit = '1GB'",
        "EXPORT DATABASE '{out}'",
        "INSTALL httpfs",
        "",
        " ",
        ";",
        "-- nothing",
    ],
)
@pytest.mark.parametrize("engine", ["duckdb", "duckdb://"])
def test_sql_that_is_no_query(query: str, engine: str, folder: Path, capsys: Capsys) -> None:
    out, before = folder.parent / "out", contents(folder)
    done = run(capsys, "fleet", folder, "--engine", engine, "--sql", query.format(out=out))
    if "cannot answer" in done.stderr:  # nor does what parses it for other engines understand it
        assert_said(done, 1)
        assert engine != "duckdb"
    else:
        assert_said(done, 2, "--sql takes one query and no other statement")
    assert not out.exists()
    assert contents(folder) == before


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) AS n FROM machines",
        "SELECT count(*) AS n FROM machines;",
        "WITH x AS (SELECT count(*) AS n FROM machines) SELECT n FROM x -- all of them",
        "(SELECT count(*) AS n FROM machines) UNION ALL SELECT 0 WHERE false",
    ],
)
def test_sql_that_is_one(query: str, folder: Path, capsys: Capsys) -> None:
    done = run(capsys, "fleet", folder, "--sql", query, "--format", "json")
    assert (done.status, json.loads(done.stdout)["rows"]) == (0, [{"n": 3}])


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT nothing FROM operations", "nothing"),
        ("SELECT 1 AS a FROM nowhere", "nowhere"),
        ("SELEC 1", "SELEC"),
        ("SELECT sum(host) AS a FROM machines", "sum"),
        ("SELECT 'a", "'a"),
    ],
)
def test_sql_with_an_error(query: str, said: str, folder: Path, capsys: Capsys) -> None:
    assert_said(run(capsys, "fleet", folder, "--sql", query), 1, "duckdb cannot answer: ", said)


@pytest.mark.parametrize("harm", ["half", "empty", "gone", "foreign"])
def test_a_broken_file_is_named_with_what_to_do(harm: str, folder: Path, capsys: Capsys) -> None:
    path = sorted(folder.glob("operations/*/host=lab/*.parquet"))[0]
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"half": whole[: len(whole) // 2], "empty": b"", "foreign": b"no such file " * 99}[harm]
        )
    commit = f"commits/{path.parent.relative_to(folder / 'operations')}/{path.stem}.json"
    advice = f"remove {commit} there and archive its recordings again"
    assert_said(run(capsys, "fleet", folder, "slowest"), 1, advice)
    assert_said(run(capsys, "fleet", folder, "--sql", "SELECT * FROM operations"), 1, advice)
    assert run(capsys, "fleet", folder, "cost").status == 0  # which lies elsewhere
    for number in (3, 4):
        archive(
            [EXAMPLES / "before" / f"before-00{number}-{side}.bt" for side in ("guest", "host")],
            open_storage(str(folder)),
        )
    assert_said(run(capsys, "archive", "--merge", "--to", folder), 1, advice)
    (folder / commit).unlink()
    assert run(capsys, "archive", *GIVEN, OTHER, "--to", folder).status == 0
    assert len(table_of(folder, "machines")) == 7
    assert run(capsys, "fleet", folder, "slowest").status == 0


def test_what_is_merged_while_it_is_asked_is_asked_again(
    folder: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(capsys, "fleet", folder, "cost", "--format", "csv").stdout
    found = find_dataset(str(folder))

    def find_late(*_: object) -> Dataset:
        monkeypatch.undo()
        merge(open_storage(str(folder)))
        return found

    monkeypatch.setattr("balloontrace.fleet.ask.find_dataset", find_late)
    done = run(capsys, "fleet", folder, "cost", "--format", "csv")
    assert (done.status, done.stdout) == (0, before)
    assert dataset_of(folder).batches != found.batches


@pytest.mark.parametrize("words", ["", " ", "://x", "nonsense://x", "s3x://bucket/x"])
def test_no_place_for_a_dataset(
    words: str, capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (("fleet", words, "slowest"), ("archive", GIVEN[0], "--to", words)):
        done = run(capsys, *command)
        assert (done.status, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert not list(tmp_path.iterdir())


def test_a_file_and_a_foreign_folder(capsys: Capsys, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder" / "commits").mkdir(parents=True)
    mine = tmp_path / "folder" / "commits" / "notes.txt"
    mine.write_text("mine")
    for words in (("fleet", tmp_path / "file", "slowest"), ("archive", GIVEN[0], "--to", tmp_path / "file")):
        assert_said(run(capsys, *words), 2, "is a file, and a dataset is a folder")
    done = run(capsys, "fleet", tmp_path / "folder", "slowest")
    assert_said(done, 2, "holds no archived recordings")
    assert run(capsys, "archive", GIVEN[0], "--to", tmp_path / "folder").status == 0
    assert (mine.read_text(), (tmp_path / "file").read_text()) == ("mine", "mine")
    foreign = tmp_path / "folder" / "commits" / "mine.json"
    foreign.write_text('{"name": "mine"}')
    for words in (
        ("fleet", tmp_path / "folder", "slowest"),
        ("archive", GIVEN[0], "--to", tmp_path / "folder"),
    ):
        assert_said(run(capsys, *words), 1, "commits/mine.json of ", "is no commit of a dataset")


NAMES = [
    "it's",
    'a "b"',
    "a\nb",
    "r\u00f6chel \u5317",
    "day=1/host=2",
    "..",
    "a%2Fb",
    "__HIVE_DEFAULT_PARTITION__",
]


@pytest.mark.thorough
def test_names_of_any_kind(tmp_path: Path, capsys: Capsys) -> None:
    """Of hosts, which name folders, and of VMs; each is found again, also after a merge."""
    flow = Flow()
    flow.resize(256)
    data = tmp_path / "dataset"
    for number, name in enumerate(NAMES):
        changes = {"recording_id": f"{number:032}", "machine": {"hostname": name}}
        (tmp_path / "x.bt").write_bytes(recording_bytes(flow, changes=changes))
        archive([tmp_path / "x.bt"], open_storage(str(data)), host=name)
        changes["recording_id"] = f"{number:031}x"
        (tmp_path / "x.bt").write_bytes(recording_bytes(flow, changes=changes))
        archive([tmp_path / "x.bt"], open_storage(str(data)), host=name)
    for _ in range(2):
        rows = table_of(data, "machines")
        assert sorted(rows["host"]) == sorted(NAMES * 2)
        assert len(set(rows["vm"])) == len(NAMES)
        done = run(capsys, "fleet", data, "cost", "--by", "host", "--format", "json")
        assert sorted(row["host"] for row in json.loads(done.stdout)["rows"]) == sorted(NAMES)
        for form in ("table", "csv", "markdown", "html"):
            assert run(capsys, "fleet", data, "stalls", "--by", "vm", "--format", form).status == 0
        assert run(capsys, "archive", "--merge", "--to", data).status == 0
    assert len(dataset_of(data).batches) == len(NAMES)


DAY_NS = 86_400 * 10**9


def test_days_begin_at_midnight_in_utc(tmp_path: Path) -> None:
    """A recording is of the day in which it began, an operation of its moment; 1970 is a day like others."""
    flow = Flow()
    flow.resize(256)
    midnight_ns = (date(2026, 11, 29) - date(1970, 1, 1)).days * DAY_NS
    days = {"1970-01-01": 0, "2026-11-28": midnight_ns - 1, "2026-11-29": midnight_ns}
    for number, realtime_ns in enumerate(days.values()):
        changes = {
            "recording_id": f"{number:032}",
            "started": {"monotonic_ns": 1, "realtime_ns": realtime_ns},
        }
        (tmp_path / f"{number}.bt").write_bytes(recording_bytes(flow, changes=changes))
    data = tmp_path / "dataset"
    archive([tmp_path], open_storage(str(data)))
    operations = table_of(data, "operations")
    assert sorted(map(str, operations["day"])) == list(days)
    for day in map(date.fromisoformat, days):
        assert len(find_dataset(str(data), day, day).ranks) == 1
    (late,) = operations[operations["day"].astype(str) == "2026-11-28"].to_dict("records")
    assert late["started_at_ns"] >= days["2026-11-29"]  # and ends the day after
    with pytest.raises(UsageError, match="of these days"):
        find_dataset(str(data), date(2030, 1, 1))


def test_a_bad_recording_among_good_ones_loses_nothing(tmp_path: Path, capsys: Capsys) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for each in GIVEN:
        shutil.copy(each, given)
    bad = {"bad.bt": GIVEN[0].read_bytes()[:-3], "empty.bt": b"", "foreign.bt": b"x" * 100}
    for name, content in bad.items():
        (given / name).write_bytes(content)
    done = run(capsys, "archive", given, "--remove", "--to", tmp_path / "dataset")
    assert (done.status, done.stdout) == (1, "")
    assert all(f"{given}/{name}" in done.stderr for name in bad)
    assert contents(given) == bad
    assert len(table_of(tmp_path / "dataset", "machines")) == 2


@pytest.mark.parametrize("scheme", ["http", "ftp"])
@pytest.mark.parametrize("command", ["fleet", "archive"])
def test_what_cannot_be_reached_is_not_empty(scheme: str, command: str, capsys: Capsys) -> None:
    """Where nobody listens: one kind connects at once, the other leaves what it cannot list out of a list."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"{scheme}://127.0.0.1:{port}/data"
    words = ("fleet", url, "slowest") if command == "fleet" else ("archive", "--merge", "--to", url)
    done = run(capsys, *words)
    assert done.status == 1
    assert "cannot rea" in done.stderr
    assert str(port) in done.stderr
    assert done.stderr.count("\n") == 1

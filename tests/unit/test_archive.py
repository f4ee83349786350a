# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings in a dataset: what reports say, each once, empty where not measured, the bad ones named."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import fsspec
import pytest
from fleets import EXAMPLES, ROOT, assert_same_rows, contents, dataset_of, table_of
from flows import Flow
from synthetic import recording_bytes

from balloontrace.analysis.make_report import analyse
from balloontrace.archive.archive_recordings import Archived, archive
from balloontrace.archive.dataset import read_dataset
from balloontrace.archive.schema import TABLES
from balloontrace.archive.storage import open_storage
from balloontrace.cli import main
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.format.recording import read_recording
from balloontrace.results.report import Report

GUEST, HOST = EXAMPLES / "before" / "before-001-guest.bt", EXAMPLES / "before" / "before-001-host.bt"


def into(folder: Path, *recordings: Path, **options: bool) -> Archived:
    return archive(recordings, open_storage(str(folder)), **options)  # type: ignore[arg-type]


def report_of(*paths: Path) -> Report:
    return analyse(*map(read_recording, paths))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    found = into(folder, EXAMPLES)
    assert (found.written, found.matched, found.known, found.refused) == (55, 25, 0, [])
    return folder


def test_operations_are_those_of_the_reports(examples: Path) -> None:
    report = report_of(EXAMPLES / "nested-qemu-guest.bt", EXAMPLES / "nested-qemu-host.bt")
    operation = report.operations[0]
    rows = table_of(examples, "operations")
    row = rows[(rows["wall_ns"] == operation.wall_ns)].iloc[0]
    assert row["bytes"] == (operation.pages or 0) * 4096
    assert row["sends"] == operation.sends
    assert row["outcome"] == operation.outcome
    assert operation.served is not None
    assert row["host_calls"] == operation.served.calls
    stages = table_of(examples, "stages")
    same = stages[(stages["recording_id"] == row["recording_id"]) & (stages["operation"] == operation.number)]
    assert dict(zip(same["stage"], same["total_ns"], strict=True)) == {
        each.stage: each.total_ns for each in operation.stages
    }
    assert same[same["part_of"].isna()]["total_ns"].sum() == operation.wall_ns


def test_calls_losses_and_cost_of_a_host_are_there_once(examples: Path) -> None:
    host = report_of(HOST).host
    assert host is not None
    calls = table_of(examples, "calls")
    assert host.header.recording_id is not None
    mine = calls[calls["recording_id"] == host.header.recording_id]
    assert dict(zip(mine["call"], mine["calls"], strict=True)) == {
        each.call: each.calls for each in host.calls
    }
    machines = table_of(examples, "machines")
    assert len(machines) == machines["recording_id"].nunique() == 55
    assert list(machines[machines["recording_id"] == host.header.recording_id]["side"]) == ["host"]


def test_what_was_not_measured_is_null_and_zero_is_zero(examples: Path) -> None:
    operations = table_of(examples, "operations")
    alone = operations[operations["host_recording_id"].isna()]
    assert len(alone)
    assert len(alone) < len(operations)
    assert alone["host_calls"].isna().all()
    assert not operations[operations["host_recording_id"].notna()]["host_calls"].isna().any()
    assert (operations["shortfall_bytes"] == 0).any()
    assert table_of(examples, "machines")["events_lost"].notna().any()
    assert (table_of(examples, "losses")["lost"].dropna() == 0).any()


def test_tables_have_the_columns_of_the_schema(examples: Path) -> None:
    for table, columns in TABLES.items():
        assert list(table_of(examples, table).columns) == [column.name for column in columns]


def test_archiving_twice_changes_nothing(examples: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(examples, copy)
    found = into(copy, EXAMPLES, GUEST)
    assert (found.written, found.known) == (0, 55)
    assert contents(copy) == contents(examples)


def test_a_host_that_comes_later_takes_the_place_of_the_guest_alone(tmp_path: Path) -> None:
    both = tmp_path / "both"
    assert into(tmp_path / "data", GUEST).matched == 0
    assert set(table_of(tmp_path / "data", "stages")["stage"]) >= {"b+c+d"}
    assert into(tmp_path / "data", GUEST, HOST).matched == 1
    assert into(tmp_path / "data", GUEST).written == 0
    into(both, GUEST, HOST)
    assert_same_rows(tmp_path / "data", both)


def test_recordings_of_other_runs_stay_apart(tmp_path: Path) -> None:
    other = tmp_path / "run-host.bt"
    shutil.copy(EXAMPLES / "nested-stock-host.bt", other)
    shutil.copy(GUEST, tmp_path / "run-guest.bt")
    found = into(tmp_path / "data", tmp_path)
    assert (found.written, found.matched) == (2, 0)
    assert into(tmp_path / "data", tmp_path).written == 0


def test_damaged_ones_are_named_and_the_others_are_archived(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = GUEST.read_bytes()
    (tmp_path / "bad.bt").write_bytes(whole[:40_000] + b"\0\0\0\0" + whole[40_004:])
    (tmp_path / "foreign.bt").write_bytes(b"no recording at all, but long enough to be looked at")
    shutil.copy(EXAMPLES / "bitmap-inflate.bt", tmp_path / "good.bt")
    with pytest.raises(SystemExit) as ended:
        main(["archive", str(tmp_path), "--to", str(tmp_path / "data")])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (1, "")
    assert f"warning: {tmp_path}/bad.bt is damaged" in said.err
    assert f"warning: {tmp_path}/foreign.bt is not a recording" in said.err
    assert "1 recording archived" in said.err
    assert "2 recordings were not archived" in said.err
    assert len(table_of(tmp_path / "data", "machines")) == 1
    found = into(tmp_path / "data", tmp_path / "bad.bt", keep_damaged=True)
    assert (found.written, found.refused) == (1, [])
    # The whole one takes its place.
    assert into(tmp_path / "data", GUEST).written == 1
    assert list(table_of(tmp_path / "data", "machines")["complete"]) == [True, True]


def test_an_object_store(examples: Path) -> None:
    files = fsspec.filesystem("memory")
    storage = open_storage("memory://bucket/fleet")
    try:
        assert archive([EXAMPLES], storage).written == 55
        assert archive([EXAMPLES], storage).written == 0
        names = {path.removeprefix("/bucket/fleet/") for path in files.find("/bucket/fleet")}
        assert names == set(contents(examples))
        assert read_dataset(storage).ranks == dataset_of(examples).ranks
    finally:
        files.rm("/bucket", recursive=True)


@pytest.mark.parametrize("name", ["../../../etc", "..", "a/b", "*?[x]", "x" * 300, "r\u00f6chel", ""])
def test_a_host_of_any_name_stays_inside_the_dataset(name: str, tmp_path: Path) -> None:
    flow = Flow()
    flow.resize(256)
    changes = {"machine": {"hostname": "guest", "memory_bytes": 10**30}, "started": {"realtime_ns": 10**40}}
    (tmp_path / "x.bt").write_bytes(recording_bytes(flow, changes=changes))
    data = tmp_path / "data"
    archive([tmp_path / "x.bt"], open_storage(str(data)), host=name)
    assert {path.name for path in tmp_path.iterdir()} == {"x.bt", "data"}
    (row,) = table_of(data, "machines").to_dict("records")
    assert row["host"] == name
    assert row["memory_bytes"] is None
    assert row["started_at_ns"] is None
    assert row["day"] is None


def test_a_dataset_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    into(tmp_path, GUEST)
    (commit,) = tmp_path.glob("commits/*/*/*.json")
    commit.write_text(re.sub(r'"schema": \[\s*1', '"schema": [2', commit.read_text()))
    with pytest.raises(BalloontraceError, match="has schema 2, this version reads 1"):
        into(tmp_path, GUEST)
    commit.write_text("{")
    with pytest.raises(BalloontraceError, match="is no commit of a dataset"):
        into(tmp_path, GUEST)


@pytest.mark.parametrize("given", ["nothing.bt", "empty"])
def test_what_is_not_there_is_said(given: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=given):
        into(tmp_path / "data", tmp_path / given)
    with pytest.raises(UsageError, match="cannot be used"):
        open_storage("nonsense://bucket")


def test_every_column_is_described() -> None:
    page = (ROOT / "docs" / "fleet.md").read_text()
    for table, columns in TABLES.items():
        section = (
            page.split(f"### {table}\n")[1].split("\n#")[0]
            + page.split("### All tables\n")[1].split("\n#")[0]
        )
        missing = [column.name for column in columns if f"`{column.name}`" not in section]
        assert not missing, table


def test_nothing_to_do_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["archive", "--to", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "balloontrace: give recordings to archive, or --merge\n"


def test_of_two_files_with_one_id_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy, a part of it, and what a clone of the VM went on to record under the same id."""
    found = read_recording(GUEST)
    for name in ("a.bt", "copy.bt"):
        shutil.copy(GUEST, tmp_path / name)
    (tmp_path / "torn.bt").write_bytes(GUEST.read_bytes()[:-500])
    words = ["archive", str(tmp_path), "--to", str(tmp_path / "data"), "--keep-damaged", "--remove"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert not list(tmp_path.glob("*.bt"))
    assert table_of(tmp_path / "data", "machines")["complete"].tolist() == [True]
    flow = Flow()
    flow.resize(512)
    shutil.copy(GUEST, tmp_path / "a.bt")
    changes = {"recording_id": found.metadata["recording_id"]}
    (tmp_path / "clone.bt").write_bytes(recording_bytes(flow, changes=changes))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "clone.bt has the id of" in said
    assert [path.name for path in tmp_path.glob("*.bt")] == ["clone.bt"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--merge"])
    assert ended.value.code == 1
    assert (
        f"clone.bt has the id of a recording in {tmp_path}/data and other contents" in capsys.readouterr().err
    )
    assert (tmp_path / "clone.bt").exists()


def test_files_of_one_id_and_size_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow = Flow()
    flow.resize(512)
    for label in ("a", "b"):
        changes = {"recording_id": "0" * 32, "label": label}
        (tmp_path / f"{label}.bt").write_bytes(recording_bytes(flow, changes=changes))
    assert len({path.stat().st_size for path in tmp_path.iterdir()}) == 1
    with pytest.raises(SystemExit) as ended:
        main(["archive", str(tmp_path), "--to", str(tmp_path / "data"), "--remove"])
    assert ended.value.code == 1
    assert "b.bt has the id of" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.bt")] == ["b.bt"]

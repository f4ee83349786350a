# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that was cloned while it recorded: one id, two recordings. One is archived, the other is told."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import command_tree
import pytest
from fleets import contents, dataset_of, table_of
from flows import Flow
from synthetic import recording_bytes
from writers_together import start_writers

from balloontrace.archive.archive_recordings import Archived, archive
from balloontrace.archive.merge_batches import merge
from balloontrace.archive.storage import Storage, open_storage

NAMES = ("a", "b")
RECORDING = "0" * 32
TOLD = "has the id of "


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of them, which holds its recording, and another one of its own."""
    folder = tmp_path_factory.mktemp("clones")
    flow = Flow()
    flow.resize(512)
    for name in NAMES:
        (folder / name).mkdir()
        for file, changes in ((name, {"recording_id": RECORDING, "label": name}), (f"own-{name}", {})):
            changes = {"recording_id": name * 32, **changes}
            (folder / name / f"{file}.bt").write_bytes(recording_bytes(flow, changes=changes))
    return folder


@pytest.fixture
def here(clones: Path, tmp_path: Path) -> Path:
    shutil.copytree(clones, tmp_path, dirs_exist_ok=True)
    return tmp_path


def archive_one(folder: Path, name: str) -> Archived:
    return archive([folder / name], open_storage(str(folder / "data")))


def assert_one_is_there(folder: Path, told: dict[str, bool]) -> None:
    """Who is not told of another one has its recording in the dataset, and all have their own ones."""
    machines = table_of(folder / "data", "machines").set_index("recording_id")["label"]
    assert {name: machines[RECORDING] != name for name in NAMES} == told
    assert set(machines.index) == {RECORDING, "a" * 32, "b" * 32}
    assert not dataset_of(folder / "data").hidden
    assert not list((folder / "data").glob("claims/*"))


@pytest.mark.parametrize("run", [1, *(pytest.param(run, marks=pytest.mark.thorough) for run in range(2, 12))])
def test_two_processes_at_once(run: int, here: Path) -> None:
    names = NAMES[:: 1 if run % 2 else -1]
    started = start_writers([(here / name, "--to", here / "data", "--remove") for name in names])
    writers = dict(zip(names, started, strict=True))
    for writer in writers.values():
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said = {name: writer.communicate(timeout=120)[1] for name, writer in writers.items()}
    told = {name: TOLD in said[name] for name in NAMES}
    assert sorted(told.values()) == [False, True]
    assert {name: bool(writers[name].returncode) for name in NAMES} == told
    assert_one_is_there(here, told)
    left = {name: [path.name for path in (here / name).iterdir()] for name in NAMES}
    assert left == {name: [f"{name}.bt"] if told[name] else [] for name in NAMES}


def step_in(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> Callable[[], bool]:
    """Has `act` done before the storage is asked for the time number `step`; whether it was."""
    left = [step]

    def counting(name: str) -> None:
        real = getattr(Storage, name)

        def counted(*words: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                act()
            return real(*words)

        monkeypatch.setattr(Storage, name, counted)

    for name in ("put", "get_all", "find", "remove"):
        counting(name)
    return lambda: left[0] <= 0


def test_one_between_any_two_steps_of_the_other(
    clones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    step, was_reached = 1, True
    while was_reached:
        here = tmp_path / str(step)
        shutil.copytree(clones, here)
        found: dict[str, Archived] = {}
        with monkeypatch.context() as patched:
            reached = step_in(patched, step, lambda: found.update(b=archive_one(here, "b")))  # noqa: B023
            found["a"] = archive_one(here, "a")
            was_reached = reached()
        if was_reached:
            told = {name: any(TOLD in each for each in found[name].refused) for name in NAMES}
            assert sorted(told.values()) == [False, True]
            assert_one_is_there(here, told)
            (loser,) = (name for name in NAMES if told[name])
            assert here / loser / f"{loser}.bt" not in found[loser].taken
            assert [each.written for each in found.values() if each is not found[loser]] == [2]
        step += 1
    assert step > 10  # so many there are at least


def test_a_claim_that_a_killed_writer_left(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive_one(here, "a")
    content = dataset_of(here / "data").contents[RECORDING]
    shutil.rmtree(here / "data")
    (here / "data/claims").mkdir(parents=True)
    claim = here / "data/claims/1.json"
    claim.write_text(json.dumps({RECORDING: content}))
    words = ("archive", here / "b", "--to", here / "data")
    done = command_tree.run(capsys, *words)
    assert done.status == 1
    where = f"one that is being archived to {here}/data (if nobody does, remove claims/1.json there)"
    assert f"b.bt has the id of {where} and other contents: an id stands for one recording" in done.stderr
    assert claim.exists()
    assert set(dataset_of(here / "data").ranks) == {"b" * 32}
    # Whose claim it was takes it away, once it has what it claimed.
    assert not archive_one(here, "a").refused
    assert not claim.exists()
    assert f"a recording in {here}/data and other contents" in command_tree.run(capsys, *words).stderr


def test_claims_of_what_is_there_are_removed_by_merging(here: Path) -> None:
    archive_one(here, "a")
    known = dict(dataset_of(here / "data").contents)
    for number, claim in enumerate((known, {**known, "f" * 32: "other"})):
        (here / f"data/claims/{number}.json").write_text(json.dumps(claim))
    merge(open_storage(str(here / "data")))
    assert [name for name in contents(here / "data") if "claims" in name] == ["claims/1.json"]

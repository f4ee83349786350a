# SPDX-License-Identifier: GPL-2.0-or-later
"""Archiving that is killed, refused by a full disk, or done twice at once: nothing lost, nothing twice."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fleets import EXAMPLES, ROOT, assert_same_rows, contents, dataset_of, rows_of, table_of
from killed_writers import killed_at
from writers_together import start_writers

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.merge_batches import merge
from balloontrace.archive.schema import TABLES
from balloontrace.archive.storage import open_storage
from balloontrace.cli import main

# Two batches: of a day and host each.
GIVEN = [
    EXAMPLES / "after" / f"after-00{number}-{side}.bt" for number in (1, 2) for side in ("guest", "host")
]
GIVEN.append(EXAMPLES / "bitmap-inflate.bt")
BATCHES = 2
WRITES = BATCHES * (len(TABLES) + 1)
CLAIMS = 1  # before them

# Kills itself in the n-th write: before it, in its middle, before its name is given, or after.
KILLED = """
import os, signal, sys
from pathlib import Path
from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.storage import open_storage
left, moment = int(sys.argv[1]), sys.argv[2]
write, replace = Path.write_bytes, Path.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def counted_write(path, content):
    global left
    left -= 1
    if left == 0 and moment == "before":
        die()
    if left == 0 and moment == "middle":
        write(path, content[: len(content) // 2])
        die()
    return write(path, content)

def counted_replace(path, target):
    if left == 0 and moment == "unnamed":
        die()
    replace(path, target)
    if left == 0 and moment == "after":
        die()

Path.write_bytes, Path.replace = counted_write, counted_replace
archive([Path(each) for each in sys.argv[4:]], open_storage(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    archive(GIVEN, open_storage(str(folder)))
    assert len(contents(folder)) == WRITES
    return folder


def assert_whole_or_absent(folder: Path, expected: Path) -> None:
    """Every recording that can be seen has all its rows in every table; those committed are whole batches."""
    seen = set(dataset_of(folder).ranks)
    assert {path.name for path in folder.glob("commits/*/*/*.json")} <= {
        path.name for path in expected.glob("commits/*/*/*.json")
    }
    for table in TABLES:
        rows = rows_of(expected, table)
        wanted = int(rows["recording_id"].isin(seen).sum())
        assert wanted == (len(table_of(folder, table)) if seen else 0)


def run(code: str, *words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], cwd=ROOT)


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        (1, "before"),
        pytest.param(1, "middle", marks=pytest.mark.thorough),
        pytest.param(3, "unnamed", marks=pytest.mark.thorough),
        (6, "middle"),
        pytest.param(6, "unnamed", marks=pytest.mark.thorough),
        pytest.param(6, "after", marks=pytest.mark.thorough),
        pytest.param(12, "middle", marks=pytest.mark.thorough),
    ],
)
def test_killed_in_the_middle(step: int, moment: str, whole: Path, tmp_path: Path) -> None:
    killed = run(KILLED, CLAIMS + step, moment, tmp_path, *GIVEN)
    assert killed.wait(timeout=120) == -signal.SIGKILL
    assert_whole_or_absent(tmp_path, whole)
    assert len(dataset_of(tmp_path).batches) == (step - (moment != "after")) // (len(TABLES) + 1)
    archive(GIVEN, open_storage(str(tmp_path)))
    assert_same_rows(tmp_path, whole)
    # What an engine would read, with or without commits, is whole.
    assert {name for name in contents(tmp_path) if not name.endswith(".part")} == set(contents(whole))


@pytest.mark.parametrize("step", range(1, CLAIMS + WRITES + 1))
def test_a_full_disk_is_one_sentence(
    step: int,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write, left = Path.write_bytes, [step]

    def full(path: Path, content: bytes) -> int:
        left[0] -= 1
        if left[0] == 0:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(SystemExit) as ended:
            main(["archive", *map(str, GIVEN), "--to", str(tmp_path)])
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert len(said) == 1
    assert said[0].startswith("balloontrace: cannot write ")
    assert said[0].endswith("No space left on device")
    assert_whole_or_absent(tmp_path, whole)
    assert not list(tmp_path.rglob("*.part"))
    archive(GIVEN, open_storage(str(tmp_path)))
    assert_same_rows(tmp_path, whole)


@pytest.mark.thorough
def test_several_at_once(whole: Path, tmp_path: Path) -> None:
    """All have read the dataset before any of them writes; two have all recordings, and two some."""
    given = (GIVEN, list(reversed(GIVEN)), GIVEN[:2], GIVEN[2:])
    writers = start_writers([(*each, "--to", tmp_path) for each in given])
    for writer in writers:
        writer.communicate("go\n", timeout=120)
        assert writer.returncode == 0
    assert len(dataset_of(tmp_path).hidden) > 0
    assert_same_rows(tmp_path, whole)
    archive(GIVEN, open_storage(str(tmp_path)))
    assert_same_rows(tmp_path, whole)


def many_batches(folder: Path) -> None:
    """Each recording archived by itself, and the first guest alone before its host's came."""
    storage = open_storage(str(folder))
    for given in (
        GIVEN[:1],
        *([guest, host] for guest, host in zip(GIVEN[::2], GIVEN[1::2], strict=False)),
        GIVEN,
    ):
        archive(given, storage)


def test_merged_batches_hold_the_same(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many_batches(tmp_path)
    before = len(dataset_of(tmp_path).batches)
    assert before > BATCHES
    assert dataset_of(tmp_path).hidden
    with pytest.raises(SystemExit) as ended:
        main(["archive", "--merge", "--to", str(tmp_path)])
    assert ended.value.code == 0
    assert f"{before} batches merged into {BATCHES}" in capsys.readouterr().err
    assert_same_rows(tmp_path, whole)
    assert not dataset_of(tmp_path).hidden
    assert set(contents(tmp_path)) == set(contents(whole))
    assert merge(open_storage(str(tmp_path))) == (BATCHES, BATCHES)
    assert archive(GIVEN, open_storage(str(tmp_path))).written == 0


@pytest.mark.thorough
def test_merging_may_be_interrupted_anywhere(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each file that is written or removed; what is left is merged later."""
    made = tmp_path / "made"
    many_batches(made)
    step = 0
    while True:
        step += 1
        data = tmp_path / f"data-{step}"
        shutil.copytree(made, data)
        with killed_at(step, monkeypatch) as left:
            merge(open_storage(str(data)))
        assert_same_rows(data, whole)
        if left[0] > 0:
            break
        merge(open_storage(str(data)))
        assert_same_rows(data, whole)
        shutil.rmtree(data)
    assert step > 2 * len(TABLES)

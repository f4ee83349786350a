# SPDX-License-Identifier: GPL-2.0-or-later
"""Where `measure` writes: folders made and removed, and what is told where nothing can be written."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from balloontrace.errors import UsageError
from balloontrace.measure import folders, provenance
from balloontrace.measure.folders import made_folders
from balloontrace.measure.plan import Plan


def plan(out: Path, **changes: Any) -> Plan:
    return replace(Plan(out, 1 << 20, rounds=2), **changes)


def test_provenance_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plan(tmp_path / "out")
    with made_folders(asked):
        provenance.write(asked, {"vm": "vm1"}, {})
        (asked.out / "incomplete/first-round-000-guest.bt").touch()

        def refuse(_path: Path) -> None:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        monkeypatch.setattr(provenance, "give_path_to_sudo_user", refuse)
        with pytest.raises(OSError, match="quota"):
            provenance.write(asked, {"vm": "vm2"}, {})
    assert sorted(path.name for path in asked.out.iterdir()) == ["incomplete", "measure.json"]
    assert json.loads((asked.out / "measure.json").read_text())["vm"] == "vm1"


def test_where_nothing_was_recorded_the_same_can_be_tried_again(tmp_path: Path) -> None:
    asked = plan(tmp_path / "out", alternate=("true", "true"))
    for _ in range(2):
        with made_folders(asked):
            provenance.write(asked, {"vm": "vm1"}, {})
        assert not asked.out.exists()
    asked.out.mkdir()
    (asked.out / "measure.json").touch()  # of somebody else's
    with pytest.raises(UsageError, match="is not an empty folder"), made_folders(asked):
        pass
    assert (asked.out / "measure.json").exists()


def test_folders_that_nothing_came_into_are_removed(tmp_path: Path) -> None:
    asked = plan(tmp_path / "new/out", alternate=("true", "true"))
    with made_folders(asked):
        made = sorted(path.name for path in asked.out.iterdir())
        (asked.out / "a/round-001-guest.bt").touch()
    assert made == ["a", "b", "first", "incomplete"]
    assert [path.name for path in asked.out.iterdir()] == ["a"]
    (asked.out / "a/round-001-guest.bt").unlink()
    (asked.out / "a").rmdir()
    with made_folders(asked):
        pass
    assert list((tmp_path / "new").iterdir()) == [asked.out]  # it was there before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("x" * 300, "File name too long"), ("file/out", "Not a directory"), ("full", "is not an empty folder")],
)
def test_folders_that_cannot_be_made(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/round-001-guest.bt").touch()
    with pytest.raises(UsageError, match=sentence), made_folders(plan(tmp_path / name)):
        pass


def test_a_file_system_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_folder: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(folders, "try_writing", refuse)
    with (
        pytest.raises(UsageError, match=r"cannot write into .*: Read-only file system"),
        made_folders(plan(tmp_path / "out")),
    ):
        pass
    assert list(tmp_path.iterdir()) == []

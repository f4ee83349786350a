# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read is never written over, and no name is never taken for the current folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import command_tree
import pytest
from command_process import ROOT

GUEST, HOST = (ROOT / "examples" / f"nested-bitmap-{side}.bt" for side in ("guest", "host"))


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(GUEST, tmp_path / "g.bt")
    shutil.copy(HOST, tmp_path / "h.bt")
    os.link(tmp_path / "g.bt", tmp_path / "linked.bt")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("report", "g.bt", "-o", "g.bt", "-f"),
        ("report", "g.bt", "h.bt", "-o", "./h.bt", "-f", "--format", "json"),
        ("report", "g.bt", "-o", "linked.bt", "-f"),
        ("export", "g.bt", "-o", "g.bt", "-f", "--format", "ndjson"),
        ("compare", "g.bt,h.bt", "g.bt", "-o", "h.bt", "-f"),
        ("compare", ".", "g.bt", "-o", "linked.bt", "-f"),
    ],
)
def test_a_recording_is_not_replaced_by_what_is_made_of_it(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    done = command_tree.run(capsys, *words)
    assert (done.status, done.stdout) == (2, "")
    assert "is a recording that is read here; give another name with -o" in done.stderr
    assert Path("g.bt").read_bytes() == GUEST.read_bytes()
    assert Path("h.bt").read_bytes() == HOST.read_bytes()


def test_nor_is_one_that_comes_from_standard_input() -> None:
    command = [sys.executable, "-m", "balloontrace", "report", "-", "-o", "g.bt", "-f"]
    with Path("g.bt").open("rb") as stdin:
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert Path("g.bt").read_bytes() == GUEST.read_bytes()


def test_another_file_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_tree.run(capsys, "report", "g.bt", "-o", "h.bt", "-f").status == 0
    assert Path("h.bt").read_text().startswith("Recording g.bt")


@pytest.mark.parametrize(
    "words",
    [
        ("report", ""),
        ("report", "g.bt", ""),
        ("export", ""),
        ("compare", "", "g.bt"),
        ("compare", "g.bt", ""),
        ("archive", "", "--to", "dataset"),
        ("archive", "g.bt", "--to", ""),
        ("fleet", "", "stages"),
    ],
)
def test_an_empty_name_is_no_folder(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().iterdir())
    done = command_tree.run(capsys, *words)
    assert (done.status, done.stdout) == (2, "")
    assert "empty" in done.stderr
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("report", "g.bt", "--vm", "web1"), "--vm names a VM in a recording of its host, and g.bt is of a"),
        (("report", "h.bt", "--vm", "web1"), "h.bt has no VM called web1: it has balloon-backend-137"),
        (("export", "g.bt", "h.bt", "--vm", "web1"), "h.bt has no VM called web1"),
        (("export", "g.bt", "--vm", "web1", "-o", "folder"), "--vm names a VM in a recording of its host"),
        (("archive", "g.bt", "--to", "h.bt"), "h.bt is a file, and a dataset is a folder; give another name"),
        (
            ("archive", "--merge", "--to", "nowhere"),
            "nowhere holds no archived recordings, so there is nothing",
        ),
        (
            ("measure", "--vm", "a", "--take", "1G", "-o", "out", "--guest-options", "'"),
            "No closing quotation",
        ),
    ],
)
def test_what_cannot_be_meant_is_told(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = command_tree.run(capsys, *words)
    assert done.status in (1, 2)
    assert done.stdout == ""
    assert said in done.stderr


def test_one_vm_is_chosen_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_tree.run(capsys, "report", "g.bt", "h.bt", "--vm", "balloon-*").status == 0

# SPDX-License-Identifier: GPL-2.0-or-later
"""`-o name/` is a folder for whoever types it: no command makes a file of it."""

from __future__ import annotations

from pathlib import Path

import command_tree
import pytest
from command_process import ROOT

GUEST, HOST = (str(ROOT / "examples" / f"nested-bitmap-{side}.bt") for side in ("guest", "host"))
# What else each command that writes one file needs, to come so far.
WRITING_A_FILE = [
    ("report", GUEST),
    ("report", GUEST, "--format", "html"),
    ("export", GUEST, "--format", "ndjson"),
    ("export", GUEST, HOST, "--format", "perfetto"),
    ("compare", GUEST, GUEST),
    ("fleet", "data", "losses"),
    ("bundle",),
    ("record",),
    ("record", "--side", "both", "--guest", "nobody"),
]
# Those whose -o is a folder in any case.
WRITING_A_FOLDER = {"measure", "serve"}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["new/", "new/.", "new.bt/", "below/new//", "there/"])
@pytest.mark.parametrize(
    "words", WRITING_A_FILE, ids=lambda words: " ".join(map(str, words[:1] + words[-1:]))
)
def test_one_file_has_no_name_of_a_folder(
    words: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there").mkdir()
    done = command_tree.run(capsys, *words, "-f", "-o", name)
    assert (done.status, done.stdout) == (2, "")
    assert f"{name} names a folder, and this is one file; give the name of a file with -o" in done.stderr
    assert [*Path().rglob("*")] == [Path("there")]


@pytest.mark.parametrize("name", ["new/", "new.csv/", "new/."])
def test_tables_go_into_a_folder_of_that_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_tree.run(capsys, "export", GUEST, "-o", name).status == 0
    assert {path.name for path in Path(name).iterdir()} >= {"spans.csv", "metadata.json"}


def test_every_command_that_writes_is_asked() -> None:
    writing = {
        words[0]
        for words, command in command_tree.commands().items()
        if any("-o" in option.opts for option in command_tree.options(command))
    }
    assert writing == {words[0] for words in WRITING_A_FILE} | WRITING_A_FOLDER

# SPDX-License-Identifier: GPL-2.0-or-later
"""What `balloontrace compare` can be given: files, folders, pairs of both sides."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from compare_folders import said, write_folder
from comparisons import PAIR
from runs import TIMES, Setup, make_run

from balloontrace.commands.compare import compare as command
from balloontrace.compare.inputs import read_side
from balloontrace.format.recording import read_recording
from balloontrace.format.recording_writer import RecordingWriter

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def write_again(source: Path, target: Path) -> Path:
    """A guest's recording as if it had been made another time."""
    recording = read_recording(source)
    with target.open("wb") as file:
        writer = RecordingWriter(file.fileno())
        writer.write_metadata({**recording.metadata, "recording_id": target.name})
        for piece in recording.spans:
            writer.write_spans(bytes(piece))
        if recording.counters is not None:
            writer.write_counters(bytes(recording.counters))
        if recording.end is not None:
            writer.write_end(recording.end)
    return target


def test_the_help_shows_an_example_that_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = CliRunner().invoke(command, ["--help"]).output
    example = next(line for line in shown.splitlines() if "compare examples/" in line)
    monkeypatch.chdir(ROOT)
    code, out, _ = said(capsys, *shlex.split(example)[2:])
    assert code == 0
    assert "Inflate of 256 MiB: 10 before, 10 after." in out
    assert "made in turn: compared in 10 pairs of neighbours" in out
    assert "expected difference: driver: stock before, patched after" in out


def test_real_pairs_are_compared_in_four_stages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pair = ",".join(str(EXAMPLES / f"nested-qemu-{side}.bt") for side in ("guest", "host"))
    again = write_again(EXAMPLES / "nested-qemu-guest.bt", tmp_path / "again.bt")
    again_pair = f"{again},{EXAMPLES / 'nested-qemu-host.bt'}"
    code, out, err = said(capsys, pair, again_pair, "--format", "json")
    assert (code, err) == (0, "")
    (group,) = json.loads(out)["groups"]
    rows = {row["name"]: row for row in group["times"]}
    assert [name for name, row in rows.items() if row["part_of"] is None] == [
        "wall", "a", "b", "c", "d", "other",
    ]  # fmt: skip
    counts = {row["name"]: row["before"]["median"] for row in group["counts"]}
    assert (counts["sends"], counts["calls"], counts["bytes_called"]) == (1024, 262_144, 1 << 30)
    alone, out, _ = said(capsys, pair, again, "--guest-only", "--format", "json")
    assert alone == 0
    assert "b+c+d" in {row["name"] for row in json.loads(out)["groups"][0]["times"]}


def test_folders_and_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = write_folder(tmp_path / "before", Setup(deflate=True))
    (before / "notes.txt").write_text("not a recording")
    after = write_folder(tmp_path / "after", Setup(deflate=True, times=replace(TIMES, send=2_000_000)), 6)
    target = tmp_path / "out.json"
    code, out, err = said(capsys, before, after, "--format", "json", "-o", target)
    assert (code, out, err) == (0, "", "")
    groups = json.loads(target.read_text())["groups"]
    assert [(group["kind"], len(group["before"]), len(group["after"])) for group in groups] == [
        ("inflate", 5, 6),
        ("deflate", 5, 6),
    ]
    assert said(capsys, before, after, "-o", target)[0] == 2
    assert said(capsys, before, after, "-o", target, "-f", "--kind", "deflate")[0] == 0
    assert target.read_text().count("Deflate of") == 1
    assert "Inflate of" not in target.read_text()
    (tmp_path / "one.bt").write_bytes(make_run(Setup(deflate=True), number=9).guest)
    code, out, _ = said(capsys, before, tmp_path / "one.bt", "--format", "markdown", "--kind", "inflate")
    assert code == 0
    assert out.count("### Inflate of 16.0 MiB: 5 before, 1 after") == 1


def test_one_side_can_come_from_standard_input(tmp_path: Path) -> None:
    make_run(Setup()).write(tmp_path, "before")
    arguments = [str(tmp_path / "before.bt"), "-", "--format", "csv"]
    result = CliRunner().invoke(command, arguments, input=make_run(Setup(), number=1).guest)
    assert result.exit_code == 0
    assert set(pd.read_csv(io.StringIO(result.stdout)).dropna(subset=["recording"]).side) == {
        "before",
        "after",
    }


def test_names_with_a_comma_are_files_too(tmp_path: Path) -> None:
    make_run(Setup()).write(tmp_path, "a,b")
    assert len(read_side(str(tmp_path / "a,b.bt"), io.BytesIO()).reports) == 1


def pairs_of(folder: Path) -> list[tuple[str, str | None]]:
    found = read_side(str(folder), io.BytesIO()).reports
    return [
        (Path(each.header.recording).name, Path(each.host.header.recording).name if each.host else None)
        for each in found
    ]


def test_pairs_by_their_names(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pairs", PAIR, 3)
    assert pairs_of(folder) == [(f"run-{number}-guest.bt", f"run-{number}-host.bt") for number in range(3)]


@pytest.mark.parametrize(
    ("guest", "host"), [("x", "x-host"), ("guest.x", "host.x"), ("a_guest_b", "a_host_b"), ("one", "two")]
)
def test_one_pair_by_any_names(tmp_path: Path, guest: str, host: str) -> None:
    run = make_run(PAIR)
    assert run.host is not None
    (tmp_path / f"{guest}.bt").write_bytes(run.guest)
    (tmp_path / f"{host}.bt").write_bytes(run.host)
    assert pairs_of(tmp_path) == [(f"{guest}.bt", f"{host}.bt")]


def test_pairs_that_only_matching_tells(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        run = make_run(PAIR, number=number, factor=1 + number / 50)
        assert run.host is not None
        (tmp_path / f"{name}.bt").write_bytes(run.guest)
        (tmp_path / f"served-{'cab'[number]}.bt").write_bytes(run.host)
    assert pairs_of(tmp_path) == [("a.bt", "served-c.bt"), ("b.bt", "served-a.bt"), ("c.bt", "served-b.bt")]


def test_a_pair_that_is_not_clear(tmp_path: Path) -> None:
    run = make_run(PAIR)
    assert run.host is not None
    (tmp_path / "a.bt").write_bytes(run.guest)
    for name in "bc":
        (tmp_path / f"{name}.bt").write_bytes(run.host)
    with pytest.raises(Exception, match=r"a\.bt matches several recordings of hosts"):
        read_side(str(tmp_path), io.BytesIO())

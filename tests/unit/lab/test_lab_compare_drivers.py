# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make compare` is asked for, the order of its turns, and where recordings go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab import compare_drivers, compare_same_driver
from lab.compare_drivers import AFTER, BEFORE, Plan, parse_plan, prepare_folder, turns
from lab.errors import LabError

REPO = Path(__file__).parents[3]


def test_without_a_word_stock_and_bitmap_driver_ten_times() -> None:
    plan = parse_plan({})
    assert plan == Plan({BEFORE: "stock", AFTER: "bitmap"}, rounds=10, size_mib=1024, out=None)
    assert parse_plan(dict.fromkeys(("ROUNDS", "SIZE", "OUT", "BEFORE", "AFTER"), "")) == plan


def test_what_is_asked_for() -> None:
    plan = parse_plan({"ROUNDS": "13", "SIZE": "7G", "OUT": "x/y", "AFTER": "stock"})
    assert plan == Plan({BEFORE: "stock", AFTER: "stock"}, rounds=13, size_mib=7168, out=Path("x/y"))
    assert plan.memory_mib > plan.size_mib


@pytest.mark.parametrize(
    ("main", "words", "said"),
    [
        (compare_drivers.main, {"ROUNDS": "0"}, "ROUNDS=0"),
        (compare_drivers.main, {"ROUNDS": "-1"}, "ROUNDS=-1"),
        (compare_drivers.main, {"ROUNDS": "ten"}, "ROUNDS=ten"),
        (compare_drivers.main, {"SIZE": "1.5K"}, "whole number of MiB"),
        (compare_drivers.main, {"SIZE": "much"}, "is not a size"),
        (compare_drivers.main, {"BEFORE": "pfn"}, "BEFORE=pfn: the lab's drivers are stock and bitmap"),
        (compare_drivers.main, {"AFTER": "Bitmap"}, "AFTER=Bitmap"),
        (compare_same_driver.main, {"SELF": "1"}, "SELF=1"),
        (compare_same_driver.main, {"SELF": "stock", "COMPARISONS": "0"}, "COMPARISONS=0"),
        (compare_same_driver.main, {"SELF": "stock", "ROUNDS": "x"}, "ROUNDS=x"),
    ],
)
def test_what_cannot_be_meant(
    main: Callable[[], int],
    words: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    assert main() == 1
    message = capsys.readouterr().err
    assert message.startswith("compare: ")
    assert said in message
    assert message.count("\n") == 1


def test_either_side_begins_every_second_round() -> None:
    order = list(turns(3))
    assert [turn.side for turn in order] == [BEFORE, AFTER, AFTER, BEFORE, BEFORE, AFTER]
    names = [turn.name for turn in order]
    assert names[:3] == ["before-001", "after-001", "after-002"]
    assert len(set(names)) == 6


def test_recordings_go_outside_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = prepare_folder(None)
    assert folder.parent == tmp_path
    assert not folder.is_relative_to(REPO)
    assert sorted(path.name for path in folder.iterdir()) == [AFTER, BEFORE]
    assert prepare_folder(None) != folder


def test_runs_are_not_mixed(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    assert prepare_folder(out) == prepare_folder(out) == out
    (out / AFTER / "after-001.bt").touch()
    with pytest.raises(LabError, match="after is not empty"):
        prepare_folder(out)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match="cannot be made: "):
        prepare_folder(tmp_path / "file")

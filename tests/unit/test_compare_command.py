# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace compare` where input is bad or times are worse: one sentence, and the exit codes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic
from compare_folders import said, write_folder
from comparisons import PAIR
from flows import Flow
from runs import TIMES, Setup, make_run

from balloontrace.commands.compare import parse_percent
from balloontrace.compare.inputs import read_side
from balloontrace.compare.make_comparison import compare
from balloontrace.errors import UsageError

# ---- bad input: one sentence and its exit code ----


def lay_out(place: Path) -> None:
    """Everything that is wrong somewhere, in one folder."""
    (place / "empty").mkdir()
    (place / "notes").mkdir()
    (place / "notes" / "a.txt").write_text("x")
    make_run(Setup()).write(place, "inflate")
    write_folder(place / "runs", Setup())
    flow = Flow()
    flow.actual = 4096
    flow.resize(0)
    (place / "deflate.bt").write_bytes(synthetic.recording_bytes(flow))
    raw = bytearray(make_run(Setup()).guest)
    raw[raw.index(b"SPAN") + 40] ^= 1
    (place / "damaged.bt").write_bytes(raw)
    (place / "garbage").mkdir()
    (place / "garbage" / "x.bt").write_bytes(b"no recording at all, but some text")
    (place / "garbage" / "y.bt").write_bytes(make_run(Setup()).guest)
    (place / "void.bt").write_bytes(b"")
    pair = make_run(PAIR)
    pair.write(place, "pair")
    assert pair.host is not None
    (place / "stray").mkdir()
    (place / "stray" / "a.bt").write_bytes(make_run(PAIR, number=5000, factor=1.5).guest)
    (place / "stray" / "b.bt").write_bytes(make_run(PAIR, number=5001, factor=1.6).guest)
    (place / "stray" / "served.bt").write_bytes(pair.host)
    (place / "idle.bt").write_bytes(synthetic.recording_bytes(Flow()))


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["empty", "inflate.bt"], 1, "the folder empty holds no recording (no file named *.bt)"),
        (["inflate.bt", "notes"], 1, "the folder notes holds no recording (no file named *.bt)"),
        (["no-such.bt", "inflate.bt"], 2, "cannot read no-such.bt: No such file or directory"),
        (
            ["deflate.bt", "inflate.bt"],
            1,
            "no operation of the same kind and size is on both sides: deflate.bt holds deflates of 16.0 MiB",
        ),
        (
            ["inflate.bt", "inflate.bt", "--kind", "deflate"],
            1,
            "inflate.bt holds no complete deflate to compare",
        ),
        (
            ["pair-guest.bt", "pair-guest.bt,pair-host.bt"],
            1,
            "pair-guest.bt is of the guest alone and pair-guest.bt,pair-host.bt is of guest and host; ",
        ),
        (
            ["pair-host.bt", "inflate.bt"],
            1,
            "pair-host.bt holds the host's side only, and the operations are in the guest's; give both as",
        ),
        (
            ["pair-guest.bt,inflate.bt", "inflate.bt"],
            1,
            "both recordings of pair-guest.bt,inflate.bt are of a guest: give one of",
        ),
        (["a,b,c", "inflate.bt"], 2, "a,b,c is neither a file, a folder nor a pair GUEST,HOST"),
        (["garbage", "inflate.bt"], 1, "garbage/x.bt is not a recording; "),
        (["void.bt", "inflate.bt"], 1, "void.bt is empty: nothing was recorded"),
        (
            ["damaged.bt", "inflate.bt"],
            1,
            "damaged.bt holds no complete operation to compare: a part of its recording",
        ),
        (["idle.bt", "inflate.bt"], 1, "idle.bt holds no complete operation to compare"),
        (
            ["stray", "inflate.bt"],
            1,
            "stray/served.bt belongs to no recording of a guest beside it; remove it, or give --guest-only",
        ),
        (["-", "-"], 2, "only one of the recordings can come from standard input"),
        (
            ["inflate.bt", "inflate.bt", "--fail-on-regression", "much"],
            2,
            "--fail-on-regression takes a percentage such as 5, not 'much'",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_gets_one_sentence(
    words: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    got, out, err = said(capsys, *words)
    assert (got, out) == (code, "")
    (line,) = err.splitlines()
    assert line.startswith(f"balloontrace: {sentence}")


def test_an_unknown_format_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "a", "b", "--format", "xml")
    assert (code, out) == (2, "")
    assert "'xml' is not one of" in err


def test_a_name_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "\x1b[31m").mkdir()
    assert "\x1b" not in said(capsys, tmp_path / "\x1b[31m", "x.bt")[2]


def test_warnings_go_to_stderr_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Setup()).write(tmp_path, "a")
    flow = Flow()
    flow.resize(4096)
    (tmp_path / "b.bt").write_bytes(synthetic.recording_bytes(flow, ended=False, lost=5))
    code, out, err = said(capsys, tmp_path / "a.bt", tmp_path / "b.bt")
    assert code == 0
    for text in (out, err):
        words = " ".join(text.split())
        assert "events lost while recording: 0 before, 5 after; times and counts are too low there" in words
        assert "the recording has no end record" in words


# ---- regressions ----


@pytest.mark.parametrize(
    ("factor", "allowed", "code"),
    [(1.0, "0", 0), (1.3, "10", 6), (1.3, "20%", 6), (1.3, "40", 0), (0.7, "0", 0), (1.3, None, 0)],
)
def test_fail_on_regression(
    factor: float, allowed: str | None, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write_folder(tmp_path / "before", Setup())
    slow = Setup(times=replace(TIMES, send=round(TIMES.send * factor)))
    after = write_folder(tmp_path / "after", slow, shift=3)
    options = [] if allowed is None else ["--fail-on-regression", allowed]
    got, out, err = said(capsys, before, after, *options)
    assert got == code
    assert "Inflate of 16.0 MiB: 5 before, 5 after" in out
    if code:
        (line,) = err.splitlines()
        assert line.startswith("balloontrace: inflate is slower by 2")
        assert line.endswith(" % at least, more than --fail-on-regression allows")
    else:
        assert err == ""


def test_a_regression_of_one_kind_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two sizes, one is slower; of the other there is too little to tell."""
    before = write_folder(tmp_path / "before", Setup())
    after = write_folder(tmp_path / "after", Setup(times=replace(TIMES, send=3_000_000)))
    for folder in (before, after):
        make_run(Setup(mib=8)).write(folder, "small")
    assert said(capsys, before, after, "--fail-on-regression", "5")[0] == 6


@pytest.mark.parametrize("count", [1, 3])
def test_a_regression_nobody_can_tell_is_no_pass(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write_folder(tmp_path / "before", Setup(), count)
    after = write_folder(tmp_path / "after", Setup(times=replace(TIMES, send=3_000_000)), count)
    code, out, err = said(capsys, before, after, "--fail-on-regression", "5")
    assert code == 1
    assert "Inflate of 16.0 MiB" in out
    assert err == (
        f"balloontrace: --fail-on-regression cannot be checked: {count} inflate before and {count} after "
        "give no interval; take 4 of each, or more\n"
    )


def test_percentages() -> None:
    assert parse_percent("5") == 5
    assert parse_percent("2.5%") == 2.5
    for text in ("", "%", "-1", "nan", "inf", "5 %%"):
        with pytest.raises(UsageError):
            parse_percent(text)


def test_a_folder_against_itself_is_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "runs", Setup(), 10)
    read = read_side(str(folder), io.BytesIO())
    (group,) = compare(read, read).groups
    assert {(row.ratio_low, row.p_value, row.verdict) for row in group.times} == {(None, None, None)}
    code, out, err = said(capsys, folder, folder, "--fail-on-regression", "0")
    assert code == 1
    for text in (out, err):
        told = "the same recording is on both sides: "
        assert told in " ".join(text.split())
        assert "a run compared with itself proves nothing" in " ".join(text.split())


def test_a_run_on_both_sides_counts_on_neither(tmp_path: Path) -> None:
    sides = [write_folder(tmp_path / name, Setup(), shift=shift) for name, shift in (("x", 0), ("y", 3))]
    shared = make_run(Setup(), number=77)
    for number, side in enumerate(sides):
        (side / f"shared-{number}.bt").write_bytes(shared.guest)
    before, after = (read_side(str(side), io.BytesIO()) for side in sides)
    comparison = compare(before, after)
    (group,) = comparison.groups
    assert (len(group.before), len(group.after)) == (5, 5)
    assert [(each.side, each.reason) for each in comparison.left_out] == [
        (name, "the same run is on both sides") for name in ("before", "after")
    ]
    assert "shared-1.bt is the same as " in comparison.warnings[0]


def test_copies_are_no_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One slow run ten times over, under other names, and cut after its first operation."""
    before = write_folder(tmp_path / "before", Setup(deflate=True), 10)
    slow = make_run(Setup(deflate=True, times=replace(TIMES, send=3_000_000)), number=50).guest
    after = tmp_path / "after"
    after.mkdir()
    for number in range(9):
        (after / f"copy-{number}.bt").write_bytes(slow)
    (after / "cut.bt").write_bytes(slow[:-200])
    code, out, err = said(capsys, before, after, "--fail-on-regression", "0")
    assert code == 1
    assert "10 before, 1 after" in out
    assert "copies, and each run counts once: " in err

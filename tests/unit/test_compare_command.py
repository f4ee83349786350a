# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace compare` as people use it: what can be given, what comes out, and the exit codes."""

from __future__ import annotations

import functools
import io
import json
import random
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import command_tree
import pandas as pd
import pytest
import runs
import synthetic
from click.testing import CliRunner
from command_tree import Done
from goldens import assert_golden, shortened_csv, shortened_json
from mutations import mutate
from people import render_comparison, render_comparison_markdown
from runs import HOST_TIMES, TIMES, Setup, make_run, make_runs, scatter

from balloontrace.analysis.make_report import analyse
from balloontrace.commands.compare import compare as command
from balloontrace.commands.compare import parse_percent
from balloontrace.compare.inputs import read_side
from balloontrace.compare.make_comparison import Recordings, compare
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.format.recording import RecordingWriter, read_recording
from balloontrace.render.blocks_text import WIDTH_COLUMNS
from balloontrace.render.comparison.csv import render_comparison_csv
from balloontrace.render.comparison.sections import format_ratio, format_value
from balloontrace.render.json import render_comparison_json
from balloontrace.results.comparison import Comparison

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RENDERERS = {
    "txt": render_comparison,
    "csv": render_comparison_csv,
    "json": render_comparison_json,
    "md": render_comparison_markdown,
}
SHORTENED: dict[str, Callable[[str], str]] = {"csv": shortened_csv, "json": shortened_json}
PAIR = Setup(mib=80, host_times=HOST_TIMES)


@functools.cache
def typical() -> Comparison:
    """Stock against patched, six runs and five, one of them not compared, and something to warn of."""
    patched = Setup(
        patched=True, changes={"boundaries": {"fill": "fill_balloon", "build": "set_page_bitmap"}}
    )
    numbers = runs.in_turn(6)
    before = make_runs(Setup(), scatter(6), numbers[0]) + make_runs(Setup(mib=8), [1], [20])
    after = make_runs(patched, scatter(5, shift=2), numbers[1][:5])
    return compare(runs.side("stock", before), runs.side("patched", after))


@functools.cache
def both_sides() -> Comparison:
    slow = replace(PAIR, host_times=replace(HOST_TIMES, call=1000))
    before, after = make_runs(PAIR, scatter(5)), make_runs(slow, scatter(5), range(5, 10))
    return compare(runs.side("before", before), runs.side("after", after))


def write_folder(folder: Path, setup: Setup, count: int = 5, shift: int = 0) -> Path:
    folder.mkdir()
    for number, run in enumerate(make_runs(setup, scatter(count, shift=shift))):
        run.write(folder, f"run-{number}")
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Done:
    """Exit code, stdout and stderr of a comparison."""
    return command_tree.run(capsys, "compare", *words)


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


# ---- formats ----


@pytest.mark.parametrize("make", [typical, both_sides])
@pytest.mark.parametrize("kind", RENDERERS)
def test_golden(kind: str, make: Callable[[], Comparison]) -> None:
    text = SHORTENED.get(kind, str)(RENDERERS[kind](make()))
    assert_golden(f"compare-{make.__name__.replace('_', '-')}.{kind}", text)


def nasty() -> Comparison:
    """Names that break terminals, and numbers as wide as they get."""
    comparison = typical()
    (group,) = comparison.groups
    wide = tuple(
        replace(
            row,
            before=replace(row.before, median=123_456_789_012),
            after=replace(row.after, median=1_234_567),
            ratio=123_456.0,
            ratio_low=0.000123,
            ratio_high=99_999.0,
        )
        for row in group.counts
    )
    side = replace(comparison.before, given="x" * 300 + " | `rm` <b>", labels=("*",))
    return replace(comparison, groups=(replace(group, counts=wide),), before=side)


@pytest.mark.parametrize("make", [typical, both_sides, nasty])
def test_tables_fit_the_terminal(make: Callable[[], Comparison]) -> None:
    text = render_comparison(make())
    assert max(map(len, text.splitlines())) <= WIDTH_COLUMNS


@pytest.mark.parametrize("make", [typical, both_sides])
def test_csv_loads_without_options_and_has_the_numbers_of_the_json(make: Callable[[], Comparison]) -> None:
    comparison = make()
    table = pd.read_csv(io.StringIO(render_comparison_csv(comparison)))
    described = json.loads(render_comparison_json(comparison))
    for level, field in (("time", "times"), ("count", "counts")):
        rows = table[table.level == level].reset_index()
        wanted = [row for group in described["groups"] for row in group[field]]
        assert rows.name.tolist() == [row["name"] for row in wanted]
        for name in ("ratio", "ratio_low", "ratio_high", "p_value", "p_adjusted", "verdict", "part_of"):
            assert [None if pd.isna(value) else value for value in rows[name]] == [
                row[name] for row in wanted
            ]
        for side in ("before", "after"):
            for name in ("n", "median", "minimum", "maximum"):
                shown = [None if pd.isna(value) else value for value in rows[f"{name}_{side}"]]
                assert shown == [row[side][name] for row in wanted]
    replicates = table[table.level == "replicate"]
    for side in ("before", "after"):
        wanted = [each for group in described["groups"] for each in group[side]]
        for each in wanted:
            mine = replicates[(replicates.side == side) & (replicates.recording == each["recording"])]
            assert dict(zip(mine.name, mine.value, strict=True)) == {
                "started_ns": each["started_ns"],
                **each["values"],
            }
            hosts = {None if pd.isna(name) else name for name in mine.host_recording}
            assert hosts == {each["host_recording"]}
            assert set(mine.unit[mine.name == "started_ns"]) == {"ns"}
    assert set(table[table.level == "warning"].note) == set(described["warnings"])
    assert len(table[table.level == "left_out"]) == sum(
        len(each["operations"]) for each in described["left_out"]
    )


def test_what_was_not_measured_is_empty_in_every_format() -> None:
    comparison = typical()
    table = pd.read_csv(io.StringIO(render_comparison_csv(comparison)))
    calls = table[table.name == "calls"]
    assert calls.median_before.isna().all()
    assert calls.n_before.tolist() == [0]
    described = json.loads(render_comparison_json(comparison))
    (row,) = [each for each in described["groups"][0]["counts"] if each["name"] == "calls"]
    assert (row["before"]["median"], row["ratio"], row["verdict"]) == (None, None, None)
    assert "discard calls" not in render_comparison(comparison)
    assert "| \\- build bitmaps" not in render_comparison_markdown(comparison)
    (line,) = [line for line in render_comparison(comparison).splitlines() if "build bitmaps" in line]
    assert line.split()[3] == "-"


def test_markdown_takes_names_as_they_are() -> None:
    text = render_comparison_markdown(nasty())
    assert "\\| \\`rm\\` \\<b\\>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {8}


def test_numbers_of_any_size_are_short() -> None:
    for value in (0.0, 1e-9, 0.000501, 0.0994, 0.9996, 9.996, 99.96, 999.6, 12345.6, 99_999.4, 1e12):
        assert len(format_ratio(value)) <= 7
        assert len(format_value(value, "")) <= 10
    assert format_ratio(0.143) == "0.143"
    assert format_ratio(1.0) == "1.00"
    assert format_ratio(None) == "-"
    assert format_value(7168, "") == "7 168"
    assert format_value(104_857.6, "pages/send") == "104 858"
    assert format_value(0.1772, "ratio") == "17.7 %"


# ---- what can be given ----


def test_the_help_shows_an_example_that_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = CliRunner().invoke(command, ["--help"]).output
    example = next(line for line in shown.splitlines() if "compare examples/" in line)
    monkeypatch.chdir(ROOT)
    code, out, _ = said(capsys, *shlex.split(example)[2:])
    assert code == 0
    assert "Inflate of 7.00 GiB: 1 before, 1 after." in out
    assert "one run each: no interval is possible" in out
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


# ---- pairs in folders ----


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


# ---- bad input: one sentence and its exit code ----


def lay_out(place: Path) -> None:
    """Everything that is wrong somewhere, in one folder."""
    (place / "empty").mkdir()
    (place / "notes").mkdir()
    (place / "notes" / "a.txt").write_text("x")
    make_run(Setup()).write(place, "inflate")
    write_folder(place / "runs", Setup())
    flow = synthetic.Flow()
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
    (place / "idle.bt").write_bytes(synthetic.recording_bytes(synthetic.Flow()))


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
    flow = synthetic.Flow()
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


def test_damaged_recordings_are_compared_in_part_or_refused() -> None:
    """Nothing a stranger's file holds ends in anything but a comparison or one sentence."""
    made = [run.guest for run in make_runs(Setup(deflate=True), scatter(3))]
    made += [run.guest for run in make_runs(Setup(deflate=True, patched=True), scatter(3))]
    others = make_runs(Setup(deflate=True), scatter(3), (7, 8, 9))
    good = Recordings("good", tuple(run.report("good") for run in others))
    outcomes, sentences = {"compared": 0, "refused": 0}, set()
    for number in range(160):
        source = random.Random(number)
        try:
            read = [read_recording(io.BytesIO(mutate(made[number % 6], source))) for _ in range(2)]
            comparison = compare(good, Recordings("damaged", tuple(analyse(each) for each in read)))
        except BalloontraceError as error:
            outcomes["refused"] += 1
            sentences.add(str(error))
            continue
        outcomes["compared"] += 1
        texts = [render(comparison) for render in RENDERERS.values()]
        assert "\x1b" not in "".join(texts)
        assert max(map(len, texts[0].splitlines())) <= WIDTH_COLUMNS
    assert min(outcomes.values()) > 20
    assert not any("\n" in sentence for sentence in sentences)

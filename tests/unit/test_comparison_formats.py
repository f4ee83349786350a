# SPDX-License-Identifier: GPL-2.0-or-later
"""A comparison as table, CSV, JSON and Markdown."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from comparisons import both_sides, typical
from goldens import assert_golden, shortened_csv, shortened_json
from mutations import mutate
from other_runs import with_others
from people import render_comparison, render_comparison_markdown
from runs import Setup, make_runs, scatter

from balloontrace.analysis.make_report import analyse
from balloontrace.compare.make_comparison import compare
from balloontrace.compare.recordings import Recordings
from balloontrace.errors import BalloontraceError
from balloontrace.format.recording import read_recording
from balloontrace.render.blocks_text import WIDTH_COLUMNS
from balloontrace.render.comparison.csv import render_comparison_csv
from balloontrace.render.comparison.sections import format_ratio, format_value
from balloontrace.render.json import render_comparison_json
from balloontrace.results.comparison import Comparison

RENDERERS = {
    "txt": render_comparison,
    "csv": render_comparison_csv,
    "json": render_comparison_json,
    "md": render_comparison_markdown,
}
SHORTENED: dict[str, Callable[[str], str]] = {"csv": shortened_csv, "json": shortened_json}


@pytest.mark.parametrize("make", [typical, both_sides, with_others])
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


@pytest.mark.thorough
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

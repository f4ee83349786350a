# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTML page of a comparison: its numbers against the JSON's, both sides and every run in its pictures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from html_tree import Element, assert_sound, exactly
from runs import HOST_TIMES, TIMES, Setup, make_runs, scatter, side

from balloontrace.commands.compare import compare as compare_command
from balloontrace.compare.inputs import read_side
from balloontrace.compare.make_comparison import compare
from balloontrace.compare.recordings import Recordings
from balloontrace.render.comparison.html import render_comparison_html
from balloontrace.render.json import render_comparison_json
from balloontrace.units import format_duration_ns

EXAMPLES = Path(__file__).parents[2] / "examples"
HOSTILE = "<script>alert(1)<script>\"'&<img src=x>"

Json = dict[str, Any]


def page_of(before: Recordings, after: Recordings) -> tuple[str, Json]:
    comparison = compare(before, after)
    return render_comparison_html(comparison), json.loads(render_comparison_json(comparison))


def example(name: str) -> Recordings:
    return read_side(str(EXAMPLES / f"{name}.bt"), io.BytesIO())


def assert_numbers_are_those_of_the_json(tree: Element, told: Json) -> None:
    for number, group in enumerate(told["groups"], start=1):
        section = tree.by_id(f"group-{number}")
        rows = {row.attributes["data-row"]: row for row in section.all("tr") if "data-row" in row.attributes}
        measured = [
            row for row in (*group["times"], *group["counts"]) if row["before"]["n"] or row["after"]["n"]
        ]
        assert list(rows) == [row["name"] for row in measured]
        for row in measured:
            before, after = row["before"], row["after"]
            values = [before["median"], after["median"]]
            interval = ["ratio_low", "ratio_high"] if row["ratio_high"] is not None else ["ratio_low"]
            values += [row[name] for name in ("ratio", *interval, "p_adjusted")]
            values += [before["minimum"], before["maximum"], after["minimum"], after["maximum"]]
            shown = rows[row["name"]]
            assert shown.values == [exactly(value) for value in values], row["name"]
            assert shown.all("td")[5].text == (row["verdict"] or "")
        for note in group["notes"]:
            assert note in [item.text for item in section.all("li")]
    for warning in told["warnings"]:
        assert warning in [item.text for item in tree.all("li")]


@pytest.fixture(scope="module")
def sides() -> dict[str, Recordings]:
    """The same driver twice, one whose sends are faster, and one recorded on both sides."""
    faster = replace(TIMES, send=1_000_000)
    return {
        "before": side("before", make_runs(Setup(), scatter(10))),
        "same": side("same", make_runs(Setup(), scatter(10, shift=3))),
        "faster": side("faster", make_runs(Setup(times=faster), scatter(9, shift=1))),
        "both": side("both", make_runs(Setup(host_times=HOST_TIMES), scatter(8))),
        "slower host": side(
            "slower-host",
            make_runs(Setup(host_times=replace(HOST_TIMES, translate=90_000)), scatter(8, shift=2)),
        ),
    }


def test_what_became_faster(sides: dict[str, Recordings]) -> None:
    page, told = page_of(sides["before"], sides["faster"])
    tree = assert_sound(page)
    assert_numbers_are_those_of_the_json(tree, told)
    assert told["groups"][0]["times"][0]["verdict"] == "faster"
    assert tree.all("h1")[0].text.endswith(": faster")
    runs = tree.by_id("runs-1").all("circle")
    assert len(runs) == 19
    assert sum("before-" in each.text for each in runs) == 10
    ratios = tree.by_id("time-ratios-1")
    verdicts = {row["verdict"] for row in told["groups"][0]["times"]}
    assert {"faster", "~"} <= verdicts
    for dot in ratios.all("circle"):
        told_apart = dot.text.endswith(("faster", "fewer"))
        assert ("v-less" in dot.attributes["class"]) == told_apart, dot.text
    assert len(ratios.all("line", lambda line: line.attributes["class"].startswith("interval"))) == len(
        [row for row in told["groups"][0]["times"] if row["ratio_low"] is not None]
    )


def test_what_cannot_be_told_is_not_claimed(sides: dict[str, Recordings]) -> None:
    page, told = page_of(sides["before"], sides["same"])
    tree = assert_sound(page)
    assert_numbers_are_those_of_the_json(tree, told)
    assert "the data cannot tell a difference" in tree.all("h1")[0].text
    assert not [dot for dot in tree.all("circle") if "v-less" in dot.attributes["class"]]
    # Nothing was sent otherwise, so there is nothing to draw of that.
    assert "count-ratios-1" not in page


def test_one_run_each_has_no_interval() -> None:
    page, told = page_of(example("stock-inflate"), example("bitmap-inflate"))
    tree = assert_sound(page)
    assert_numbers_are_those_of_the_json(tree, told)
    assert "one run each: no interval is possible" in tree.text
    assert "the dots alone prove nothing" in tree.text
    assert not [line for line in tree.all("line") if "interval" in line.attributes["class"]]
    wall = format_duration_ns(told["groups"][0]["times"][0]["before"]["median"])
    shown = [text.text for text in tree.by_id("both-1").all("text") if "fore" in text.text]
    assert shown == [f"before: {wall}"]


def test_the_bars_are_the_medians_of_the_stages(sides: dict[str, Recordings]) -> None:
    page, told = page_of(sides["before"], sides["faster"])
    tree = assert_sound(page)
    rows = [
        row
        for row in told["groups"][0]["times"]
        if row["part_of"] is None and row["name"] in ("a", "b+c+d", "other")
    ]
    sums = [sum(row[side]["median"] for row in rows) for side in ("before", "after")]
    wanted = [row[side]["median"] / max(sums) for side in ("before", "after") for row in rows]
    drawn = [float(rect.attributes["width"].rstrip("%")) / 100 for rect in tree.by_id("both-1").all("rect")]
    assert drawn == pytest.approx(wanted, abs=1e-4)


def test_both_sides_of_the_boundary_are_compared(sides: dict[str, Recordings]) -> None:
    page, told = page_of(sides["both"], sides["slower host"])
    tree = assert_sound(page)
    assert_numbers_are_those_of_the_json(tree, told)
    rows = {row["name"]: row for row in told["groups"][0]["times"]}
    assert rows["c"]["verdict"] == "slower"
    drawn = tree.by_id("both-1").all("rect")
    assert [rect.attributes["class"].split()[0] for rect in drawn] == [
        "s-a",
        "s-b",
        "s-c",
        "s-d",
        "s-other",
    ] * 2
    assert [dot for dot in tree.by_id("time-ratios-1").all("circle") if "v-more" in dot.attributes["class"]]


def test_what_strangers_wrote_is_text() -> None:
    changes = {
        "label": f"label {HOSTILE}",
        "machine": {"kernel_release": f"kernel {HOSTILE}"},
        "driver": {"kind": f"driver {HOSTILE}"},
    }
    hostile = side(f"given {HOSTILE}", make_runs(Setup(changes=changes), scatter(3)))
    page, _ = page_of(hostile, side("plain", make_runs(Setup(), scatter(3))))
    tree = assert_sound(page)
    assert "<script" not in page
    assert not tree.all("img")
    for what in ("given", "label", "kernel", "driver"):
        assert f"{what} {HOSTILE}" in tree.text, what


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    out = tmp_path / "compare.html"
    argv = [str(EXAMPLES / f"{name}-inflate.bt") for name in ("stock", "bitmap")]
    done = CliRunner().invoke(compare_command, [*argv, "--format", "html", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "balloontrace compare" in out.read_text()

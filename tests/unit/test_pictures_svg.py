# SPDX-License-Identifier: GPL-2.0-or-later
"""Axes with round numbers, elements that hold what they are given, bars and curves of the right extent."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from html_tree import parse
from hypothesis import given
from hypothesis import strategies as st

from balloontrace.format.stages import Place
from balloontrace.format.vocabulary import Kind
from balloontrace.render.axis_ticks import size_ticks, time_ticks
from balloontrace.render.report.histogram_svg import draw_buckets
from balloontrace.render.report.page_map_svg import draw_page_map
from balloontrace.render.report.time_line_svg import draw_time_line
from balloontrace.render.stage_bars import Bar, Segment, draw_bars, segments_of
from balloontrace.render.svg import Drawing, number, percent, steps_path, tag
from balloontrace.results.operation import StageRow
from balloontrace.results.pictures import (
    BALLOON_SIZE,
    Curve,
    Histogram,
    PageMap,
    StageOverTime,
    Target,
    TimeLine,
)

UNITS_NS = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1}
UNITS_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}


@given(st.integers(1, 10**15), st.integers(1, 8))
def test_times_on_an_axis_are_round_and_right(most_ns: int, count: int) -> None:
    ticks = time_ticks(most_ns, count)
    assert 1 <= len(ticks) <= count + 1
    assert ticks[0][0] == 0
    assert ticks[-1][0] <= most_ns
    for at_ns, words in ticks:
        value, unit = words.split()
        assert float(value) * UNITS_NS[unit] == pytest.approx(at_ns, rel=1e-5)
    if len(ticks) > 1:
        assert re.fullmatch(r"[125]0*", str(ticks[1][0]))


@given(st.integers(1, 1 << 50), st.integers(2, 8))
def test_sizes_on_an_axis_are_round_and_right(most_pages: int, count: int) -> None:
    ticks = size_ticks(most_pages, count)
    assert 1 <= len(ticks) <= count
    for pages, words in ticks:
        value, unit = words.split()
        assert int(value) * UNITS_BYTES[unit] == pages * 4096
        assert 0 < pages <= most_pages


def test_elements_escape_what_they_hold() -> None:
    made = tag("text", "a < b & c", class_='"><script>', data_x=1.5, none=None)
    assert str(made) == '<text class="&#34;&gt;&lt;script&gt;" data-x="1.5">a &lt; b &amp; c</text>'


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0, 1.0, 0.12345, 100.5)] == ["0", "1", "0.123", "100.5"]
    assert percent(1 / 3) == "33.333%"


def test_a_path_of_steps_names_only_what_changes() -> None:
    assert steps_path([(0, 5), (1, 5), (1, 3), (4, 3)]) == "M0 5H1V3H4"
    assert steps_path([]) == ""


def test_a_picture_is_named_and_described() -> None:
    drawing = Drawing(20)
    drawing.rect("kind", 0.25, 1, 0.5, 10, "a tip")
    tree = parse(str(drawing.markup("an-id", "Title", "Words")))
    picture = tree.by_id("an-id")
    assert picture.attributes["aria-labelledby"] == "an-id-title an-id-desc"
    (rect,) = picture.all("rect")
    assert (rect.attributes["x"], rect.attributes["width"], rect.text) == ("25%", "50%", "a tip")


def test_b_is_drawn_in_its_parts_and_its_rest() -> None:
    rows = [
        StageRow("a", "allocate", Place.GUEST_KERNEL, total_ns=10),
        StageRow("a.extend", "memory for bitmaps", Place.GUEST_KERNEL, "a", total_ns=4),
        StageRow("b", "send", Place.GUEST_KERNEL, total_ns=50),
        StageRow("b.build", "build", Place.GUEST_KERNEL, "b", total_ns=20),
        StageRow("b.to_host", "guest to host", Place.GUEST_KERNEL, "b"),
        StageRow("c", "translate", Place.GUEST_KERNEL, total_ns=0),
        StageRow("other", "outside", Place.GUEST_KERNEL, total_ns=5),
    ]
    shown = [(segment.stage, segment.total_ns) for segment in segments_of(rows)]
    assert shown == [("a", 10), ("b.build", 20), ("b", 30), ("other", 5)]


def test_bars_share_one_scale() -> None:
    bars = [
        Bar("one", 100, (Segment("a", "allocate", 60), Segment("other", "rest", 40))),
        Bar("two", 50, (Segment("a", "allocate", 50),)),
    ]
    tree = parse(str(draw_bars("bars", "Bars", bars)))
    assert [rect.attributes["width"] for rect in tree.all("rect")] == ["60%", "40%", "50%"]
    assert [text.text for text in tree.all("text")] == ["one", "60 %", "40 %", "two", "100 %"]


LINE = TimeLine(
    number=1,
    wall_ns=4_000,
    curve=Curve(BALLOON_SIZE, 3, (0, 0, 8, 8), (0, 0, 8, 8), (0, 8, 8, 16), 16),
    targets=(Target(0, 16),),
    waits=(),
    shortages_ns=(),
    pauses=None,
    stages=(StageOverTime("a", (1000, 500, 0, 0)), StageOverTime("other", (0, 500, 1000, 1000))),
    moved_pages=(0, 8, 0, 8),
)


def test_a_curve_rises_where_it_did() -> None:
    tree = parse(str(draw_time_line("line", Kind.INFLATE, LINE)))
    (curve,) = tree.all("path", lambda path: path.attributes["class"] == "curve")
    box = next(each for each in tree.all("svg") if "0 0 4 " in each.attributes.get("viewbox", ""))
    top = float(box.attributes["viewbox"].split()[3])
    assert curve.attributes["d"] == f"M0 {number(top)}H1.5V{number(top - 8)}H3.5V{number(top - 16)}H4"
    areas = [path for path in tree.all("path") if path.attributes["class"].startswith("s-")]
    assert [area.attributes["class"] for area in areas] == ["s-a", "s-other"]
    assert areas[0].attributes["d"].startswith("M0 0H1V0.5H2V1")


def test_a_line_without_a_curve_has_its_strip() -> None:
    bare = replace(LINE, curve=None, targets=(), moved_pages=None)
    tree = parse(str(draw_time_line("line", Kind.INFLATE, bare)))
    assert {path.attributes["class"] for path in tree.all("path")} == {"s-a", "s-other"}


def test_one_call_is_seen_beside_a_million() -> None:
    calls = Histogram("f", 1_000_001, 1, 1, 1, 9, (0, 1_000_000, 0, 1))
    tree = parse(str(draw_buckets("f", "F", calls.buckets, (0, 8), lambda bucket: f"{1 << bucket} ns")))
    heights = [float(rect.attributes["height"]) for rect in tree.all("rect")]
    assert len(heights) == 2
    assert heights[0] > heights[1] > 5
    assert [rect.text for rect in tree.all("rect")] == [
        "2 ns to 4 ns: 1 000 000 calls", "8 ns to 16 ns: 1 call",
    ]  # fmt: skip


def test_cells_that_look_alike_are_one_shape() -> None:
    drawn = PageMap(1, 0, 8, 4, (8, 8, 0, 1, 4, 4, 0, 0), (600.0, 900.0, None, 1.0, 3.0, 3.0, None, None))
    _, cells = draw_page_map("map", drawn)
    tree = parse(str(cells))
    paths = {path.attributes["class"]: path.attributes["d"] for path in tree.all("path")}
    assert set(paths) == {"ground", "r-1", "r-2", "r-5"}
    assert paths["r-5"].count("M") == 1
    assert paths["r-5"].startswith("M0 0.08h2v0.84")
    assert paths["r-2"].startswith("M0 1.5h2v0.42")

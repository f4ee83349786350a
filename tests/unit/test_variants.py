# SPDX-License-Identifier: GPL-2.0-or-later
"""Real recordings with records lost, repeated, cut, moved in time or shuffled: every report still adds up."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from people import render_table
from record_changes import Fields, change_records
from sound_reports import assert_sound

from balloontrace.errors import BalloontraceError
from balloontrace.format.recording import Recording, read_recording
from balloontrace.render.json import render_json

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
GUESTS = [
    DATA / "cases" / "n2-guest.bt",
    DATA / "stock-61-mib.bt",
    DATA / "stock-61-mib-1.2.bt",
    DATA / "reporting-1.5.bt",
    DATA / "hinting-1.5.bt",
    DATA / "two-balloons-guest-1.5.bt",
    ROOT / "examples" / "after" / "after-002-guest.bt",
]
SEEDS = 5

# What nobody says: one thing called many, no number, or none of none.
_ODD = re.compile(
    r"\bnan\b|\bNone\b|\binf\b|0 of 0|(?<![\w.,])(?<!\d )1 "
    r"(?:were|have|are|sends|calls|pages|buffers|events|reports|cycles|blocks|spans|records|work items)\b"
)
# A number there is a name.
_NOT_WORDS = ("queues by eventfd", "command ")


def lost(spans: list[Fields], source: random.Random) -> list[Fields]:
    share = source.choice((0.01, 0.2, 0.9))
    return [span for span in spans if source.random() > share]


def of_one_function(spans: list[Fields], source: random.Random) -> list[Fields]:
    gone = source.choice(spans)["function"]
    return [span for span in spans if span["function"] != gone]


def repeated(spans: list[Fields], source: random.Random) -> list[Fields]:
    return [span for span in spans for _ in range(source.choice((1, 1, 2)))]


def window(spans: list[Fields], source: random.Random) -> list[Fields]:
    low, high = sorted(source.choice(spans)["start_ns"] for _ in range(2))
    return [span for span in spans if low <= span["start_ns"] <= high]


def clock_step(spans: list[Fields], source: random.Random) -> list[Fields]:
    at, step_ns = source.choice(spans)["start_ns"], source.choice((-1, 1)) * 10 ** source.randrange(3, 10)
    moved = (span | {"start_ns": max(0, span["start_ns"] + step_ns)} for span in spans)
    return [new if old["start_ns"] >= at else old for old, new in zip(spans, moved, strict=True)]


def no_length(spans: list[Fields], source: random.Random) -> list[Fields]:
    share = source.choice((0.1, 1.0))
    nothing = {"duration_ns": 0, "config_ns": 0, "wait_ns": 0}
    return [span | nothing if source.random() < share else span for span in spans]


def few(spans: list[Fields], source: random.Random) -> list[Fields]:
    return spans[: source.randrange(4)]


CHANGES = (lost, of_one_function, repeated, window, clock_step, no_length, few)


def variant(path: Path, change: Callable[..., list[Fields]], source: random.Random) -> Recording:
    data = change_records(path.read_bytes(), lambda spans: change(spans, source))
    return read_recording(io.BytesIO(data))


def assert_adds_up(table: dict[str, Any]) -> None:
    """Of an operation, or of all of a kind: a to d and other are the wall time, and parts their whole."""
    rows, wall_ns = table["stages"], table["wall_ns"]
    tops = [row for row in rows if row["part_of"] is None]
    assert sum(row["total_ns"] for row in tops) == wall_ns
    if wall_ns:
        assert sum(row["share"] for row in tops) == pytest.approx(1)
    else:
        assert all(row["share"] is None for row in rows)
    for whole in rows:
        parts = [row["total_ns"] or 0 for row in rows if row["part_of"] == whole["stage"]]
        assert sum(parts) <= (whole["total_ns"] or 0)
        assert whole["stage"] != "other" or sum(parts) == whole["total_ns"]
    for row in rows:
        spread = [row[name] for name in ("p50_ns", "p90_ns", "p99_ns", "max_ns", "total_ns")]
        known = [each for each in spread if each is not None]
        assert known == sorted(known)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("path", GUESTS, ids=lambda path: path.stem)
def test_what_is_said_adds_up(path: Path, change: Callable[..., list[Fields]]) -> None:
    for seed in range(SEEDS):
        source = random.Random(f"{path.stem} {change.__name__} {seed}")
        changed = variant(path, change, source)
        try:
            report = assert_sound(changed)
        except BalloontraceError:
            continue  # damaged beyond use; its sentences are those of test_zz_fuzz
        told = json.loads(render_json(report))
        for table in (*told["operations"], *told["totals"]):
            assert_adds_up(table)
        for total in told["totals"]:
            same = [each for each in told["operations"] if each["kind"] == total["kind"]]
            assert total["wall_ns"] == sum(each["wall_ns"] for each in same)
        text = render_table(report)
        shown = [line for line in text.splitlines() if not line.startswith(_NOT_WORDS)]
        assert not [line for line in shown if _ODD.search(line)]
        assert max(map(len, shown)) <= 80


@pytest.mark.parametrize("path", GUESTS, ids=lambda path: path.stem)
def test_the_order_in_the_file_does_not_matter(path: Path) -> None:
    def shuffled(spans: list[Fields], source: random.Random) -> list[Fields]:
        return source.sample(spans, len(spans))

    def same(spans: list[Fields], _source: random.Random) -> list[Fields]:
        return spans

    reports = [assert_sound(variant(path, change, random.Random(1))) for change in (same, shuffled)]
    assert reports[0] == reports[1]


@pytest.mark.parametrize("path", GUESTS, ids=lambda path: path.stem)
def test_each_lost_span_is_told(path: Path) -> None:
    def two_fewer(spans: list[Fields], source: random.Random) -> list[Fields]:
        gone = set(source.sample(range(len(spans)), 2))
        return [span for place, span in enumerate(spans) if place not in gone]

    report = assert_sound(variant(path, two_fewer, random.Random(2)))
    assert report.spans_missing == 2
    assert any("2 recorded spans are not in the file" in warning for warning in report.warnings)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rounds of `measure` come to: medians, intervals, rates; and what `compare` is told of machines."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import random
from pathlib import Path
from typing import Any

import pytest
from html_tree import assert_sound
from runs import HOST_TIMES, Setup, make_run, make_runs, scatter
from schemas import hold, validator

from balloontrace.commands.formats import offered
from balloontrace.compare.inputs import read_side
from balloontrace.compare.make_comparison import compare
from balloontrace.compare.provenance import _NAMES, tell_differences
from balloontrace.compare.summarise import bound_median, summarise_driven, summarise_folder
from balloontrace.format.provenance import FIRST, NAME, read_provenance
from balloontrace.measure.facts import read_conditions
from balloontrace.results.measurement import Measurement

MIB_PAGES = 256
ROUNDS = 7
MACHINE = {"kernel": "6.12 #1", "cpu_model": "EPYC", "cpus": 4, "governor": "performance", "load": 0.5}
TOLD: dict[str, Any] = {
    "vm": "vm1",
    "vmm": ["qemu", "-name", "vm1"],
    "touched": True,
    "take_bytes": 16 << 20,
    "host": MACHINE,
    "guest": {"kernel": "6.12 #2", "load": 0.0},
    "rounds": [
        {"number": number, "inflate_s": 0.2, "deflate_s": 0.4, "touched_ns": 1_000_000_000}
        for number in range(1, ROUNDS + 1)
    ],
}


def tell(folder: Path, **changes: Any) -> None:
    (folder / NAME).write_text(json.dumps({**TOLD, **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rounds of both sides, as `measure` leaves them."""
    setup = Setup(host_times=HOST_TIMES, deflate=True)
    for number, run in enumerate(make_runs(setup, scatter(ROUNDS)), start=1):
        run.write(tmp_path, f"round-{number:03}")
    (tmp_path / FIRST).mkdir()
    make_run(setup, number=99, factor=3.0).write(tmp_path / FIRST, "round-000")
    tell(tmp_path)
    return tmp_path


def test_medians_of_all_rounds(folder: Path) -> None:
    found = summarise_folder(folder, folder)
    assert (found.vm, found.rounds, found.touched) == ("vm1", ROUNDS, True)
    inflate, deflate = found.moves
    assert [(move.kind, move.pages) for move in found.moves] == [
        ("inflate", 16 * MIB_PAGES),
        ("deflate", 16 * MIB_PAGES),
    ]
    walls = sorted(report.operations[0].wall_ns for report in read_side(str(folder), io.BytesIO()).reports)
    wall, *stages = inflate.times
    assert (wall.n, wall.median, wall.minimum, wall.maximum) == (ROUNDS, walls[3], walls[0], walls[-1])
    assert (wall.low, wall.high) == (walls[0], walls[-1])
    assert [row.name for row in stages] == ["a", "b", "c", "d", "other"]
    assert all(row.n == ROUNDS and row.share is not None for row in stages)
    (rate,) = inflate.rates
    assert (rate.label, rate.median) == ("reclaim touched", (16 << 20) * 1e9 / walls[3])
    assert inflate.first_wall_ns is not None
    assert inflate.first_wall_ns > walls[-1]
    returned, touched = deflate.rates
    assert (returned.label, touched.label) == ("return", "return and touch")
    assert touched.median is not None
    assert touched.median == pytest.approx((16 << 20) * 1e9 / ((deflate.times[0].median or 0) + 1e9))
    assert inflate.driven is not None
    assert inflate.driven.median == 0.2e9


def test_without_touching_names_are_others(folder: Path) -> None:
    tell(folder, touched=False)
    inflate, deflate = summarise_folder(folder).moves
    assert [rate.label for rate in inflate.rates] == ["reclaim untouched"]
    assert inflate.first_wall_ns is None
    assert deflate.rates[0].label == "return"


def test_where_no_guest_was_recorded(folder: Path) -> None:
    found = summarise_driven(folder)
    assert [(move.kind, move.pages, move.times) for move in found.moves] == [
        ("inflate", 16 * MIB_PAGES, ()),
        ("deflate", 16 * MIB_PAGES, ()),
    ]
    assert [move.driven.median for move in found.moves if move.driven] == [0.2e9, 0.4e9]
    hold(validator("measure"), json.loads(show(found, "json")))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '"x"', "[" * 100_000, '{"rounds": 3, "host": 7, "vmm": "x"}']
)
def test_a_file_of_strangers(folder: Path, text: str) -> None:
    (folder / NAME).write_text(text)
    assert len(summarise_folder(folder).moves) == 2


@pytest.mark.parametrize("count", [6, 7, 10, 25])
def test_the_interval_has_the_median_in_95_of_100_cases(count: int) -> None:
    chance = random.Random(count)
    inside = 0
    for _ in range(2000):
        bounds = bound_median([chance.expovariate(1) for _ in range(count)])
        assert bounds is not None
        inside += bounds[0] <= math.log(2) <= bounds[1]
    assert inside / 2000 >= 0.94


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_rounds_have_no_interval(count: int) -> None:
    assert bound_median([1.0] * count) is None


def show(found: Measurement, name: str) -> str:
    make = offered("measure")[name].measure
    assert make is not None
    return "".join(str(piece) for piece in make(found))


def test_every_format(folder: Path) -> None:
    found = summarise_folder(folder, folder)
    assert set(offered("measure")) == {"table", "markdown", "csv", "json", "html"}
    table = show(found, "table")
    assert max(map(len, table.splitlines())) <= 80
    assert "vm1: 7 rounds" in table
    assert "return and touch" in table
    wall = found.moves[0].times[0]
    rows = list(csv.DictReader(io.StringIO(show(found, "csv"))))
    assert [row["name"] for row in rows if row["kind"] == "inflate"][:3] == ["rate", "wall", "a"]
    assert float(rows[1]["median"]) == wall.median
    described = json.loads(show(found, "json"))
    hold(validator("measure"), described)
    assert described["moves"][0]["times"][0]["median"] == wall.median
    assert "| wall " in show(found, "markdown")
    assert_sound(show(found, "html"))


def test_compare_tells_what_was_not_the_same(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("after")
    for number, run in enumerate(
        make_runs(Setup(host_times=HOST_TIMES, deflate=True), scatter(5), range(20, 25))
    ):
        run.write(other, f"round-{number:03}")
    tell(
        other,
        host={**MACHINE, "governor": "powersave", "load": 3.5},
        vmm=["qemu", "-name", "vm1", "-smp", "2"],
    )
    before, after = (read_side(str(each), io.BytesIO()) for each in (folder, other))
    found = compare(before, after)
    told = {each.name: each.text for each in found.differences}
    assert told["CPU frequency governor of the host"].endswith("performance before, powersave after")
    assert told["command line of the VMM"].endswith("qemu -name vm1 before, qemu -name vm1 -smp 2 after")
    assert told["other work of the host when it began"].endswith("little before, load 3.5 after")
    assert set(told.values()) <= set(found.warnings)


def test_long_command_lines_are_told_by_their_difference() -> None:
    long = ["qemu", *(f"-device=virtio-{number}" for number in range(20))]
    (found,) = tell_differences({"vmm": [*long, "-x"]}, {"vmm": [*long, "-y", "-z"]})
    assert found.text == "command line of the VMM: -x before, -y -z after"
    assert tell_differences({"vmm": long}, None) == tell_differences({"vmm": long}, {"vmm": long}) == []


def test_two_states_are_what_is_compared() -> None:
    (found,) = tell_differences({"state_command": "insmod a.ko"}, {"state_command": "insmod b.ko"})
    assert (found.text, found.expected) == ("state: insmod a.ko before, insmod b.ko after", True)


def test_what_a_folder_says_is_printable(tmp_path: Path) -> None:
    tell(tmp_path, vm="vm\x1b[31m")
    told = read_provenance(tmp_path)
    assert told is not None
    assert told["vm"] == "vm?[31m"
    assert read_provenance(tmp_path / "no") is None


def test_compare_has_a_name_for_every_condition() -> None:
    found = read_conditions()
    assert set(found) == {*_NAMES, "load"}
    assert str(found["kernel"]).startswith(f"{platform.release()} ")
    assert found["cpus"] == os.cpu_count()

# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of what recorders cost: stages from reports of one side or both, percentages within rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from click.testing import CliRunner

from balloontrace.format.vocabulary import Kind
from bench import both_sides_cost
from bench.both_sides_cost import SERVED, WALL, Mode, Round, main, parse_stages, render_table
from lab.errors import LabError
from lab.results import REPO
from lab.results_tables import read_report

EXAMPLE = [REPO / f"examples/nested-qemu-{side}.bt" for side in ("guest", "host")]


def test_stages_of_either_side_and_of_both() -> None:
    guest, host, both = (parse_stages(read_report(*words)) for words in (EXAMPLE[:1], EXAMPLE[1:], EXAMPLE))
    assert set(guest) == {(Kind.INFLATE, name) for name in ("a", SERVED, "other")}
    assert set(host) == {(Kind.INFLATE, "d")}
    of_both = ("a", "b", "c", "d", SERVED, "other", "tracing_c", "tracing_d")
    assert set(both) == {(Kind.INFLATE, name) for name in of_both}
    assert both[Kind.INFLATE, "d"] == host[Kind.INFLATE, "d"]
    assert both[Kind.INFLATE, SERVED] == guest[Kind.INFLATE, SERVED]


def test_several_operations_of_one_recording() -> None:
    guest = read_report(*EXAMPLE[:1])
    twice = {**guest, "operations": guest["operations"] * 2}
    once, both = parse_stages(guest), parse_stages(twice)
    assert both == {what: times_ns * 2 for what, times_ns in once.items()}
    host = read_report(*EXAMPLE[1:])
    (d_ns,), (mean_ns,) = (parse_stages(host, moves)[Kind.INFLATE, "d"] for moves in (1, 4))
    assert mean_ns == d_ns / 4


def test_a_cell_compares_within_rounds_with_the_first_mode_that_has_it() -> None:
    wall, d = (Kind.INFLATE, WALL), (Kind.INFLATE, "d")
    rounds: list[Round] = [
        {"none": {wall: [100e6, 102e6]}, "host": {wall: [111.1e6], d: [50e6]}, "both": {d: [49e6]}},
        {"none": {wall: [200e6, 204e6]}, "host": {wall: [226.24e6], d: [100e6]}, "both": {d: [98e6]}},
    ]
    rows = {line.split(" | ")[0]: line for line in render_table(rounds).splitlines() if "inflate" in line}
    assert rows["| none"].startswith("| none | inflate | 152 ms | - ")
    assert rows["| host"].startswith("| host | inflate | 169 ms, +11.00 \u00b1 1.00 % | - ")
    assert "| 75.0 ms | - |" in rows["| host"]
    assert "| 73.5 ms, -2.00 \u00b1 0.00 % | - |" in rows["| both"]


def test_help_names_the_modes_and_starts_nothing() -> None:
    told = CliRunner().invoke(main, ["--help"])
    assert told.exit_code == 0
    wrong = CliRunner().invoke(main, ["guests"])
    assert wrong.exit_code == 2
    assert "'guest-all'" in wrong.output


def test_modes_are_taken_by_name_and_what_is_whole_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(modes: Sequence[Mode], **numbers: int) -> Iterator[Round]:
        asked.append(([mode.name for mode in modes], numbers))
        yield {mode.name: {(Kind.INFLATE, WALL): [1e6]} for mode in modes}
        raise LabError("Only 1 of 2 rounds became whole in 3 boots.")

    monkeypatch.setattr(both_sides_cost, "measure_rounds", measure)
    told = CliRunner().invoke(main, ["guest", "none", "--rounds", "2", "--boots", "3", "--moves", "4"])
    assert asked == [(["none", "guest"], {"rounds": 2, "boots": 3, "moves": 4})]
    assert told.exit_code == 1
    assert "| guest | inflate | 1.00 ms, +0.00 % |" in told.stdout
    assert "Only 1 of 2 rounds" in told.output

# SPDX-License-Identifier: GPL-2.0-or-later
"""`make results`: each scenario is told apart, and tables say what reports of both sides say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.errors import LabError
from lab.results import PAGE, REPO, SCENARIOS
from lab.results_tables import BEGIN, END, Operation, Run, read_run, render_tables, replace_tables

STAGES_NS = {"a": 100_000_000, "b": 30_000_000, "c": 100_000_000, "d": 270_000_000, "other": 500_000}
INFLATE = Operation("inflate", 65_536, 500_500_000, STAGES_NS, 256, 65_536)
DEFLATE = replace(INFLATE, kind="deflate", stages_ns={"a": 1, "b+c+d": 2}, calls=None)
RUN = Run("6.12.1", "0.1.0", (INFLATE, DEFLATE), 20_000)


def test_scenarios_have_names_of_their_own_and_repeat_known_ones() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert {scenario.repeats for scenario in SCENARIOS} <= {"", *names}
    for scenario in SCENARIOS:
        if scenario.repeats:
            (first,) = (each for each in SCENARIOS if each.name == scenario.repeats)
            same = replace(
                scenario, name=first.name, title=first.title, repeats="", beside_load=first.beside_load
            )
            assert same == first


def test_an_example_of_both_sides_is_read() -> None:
    run = read_run(*(REPO / f"examples/nested-qemu-{side}.bt" for side in ("guest", "host")))
    (operation,) = run.operations
    assert (operation.kind, operation.pages, operation.sends) == ("inflate", 262_144, 1024)
    assert operation.calls == 262_144
    assert sum(operation.stages_ns.values()) == operation.wall_ns


def test_a_row_for_each_operation() -> None:
    text = render_tables([("the device", ("untouched",), RUN), ("never", ("x",), None)], [], "QEMU 1")
    assert "6.12.1" in text
    assert "QEMU 1" in text
    assert "### The device" in text
    assert "### Never" not in text
    rows = [line for line in text.splitlines() if line.startswith("| untouched")]
    cells = [cell.strip() for cell in rows[0].split("|")]
    assert cells[2:7] == ["inflate", "500 ms", "0.50", "100 ms, 20.0 %", "30.0 ms, 6.0 %"]
    assert cells[-3:-1] == ["256", "65 536"]
    assert rows[1].count(" - ") == len(["b", "c", "d", "other", "discards"])


def test_how_far_runs_are_apart() -> None:
    slower = replace(
        INFLATE, wall_ns=505_505_000, stages_ns={**STAGES_NS, "d": 272_700_000, "other": 900_000}
    )
    text = render_tables([], [[RUN, replace(RUN, operations=(slower, DEFLATE))], [RUN, None]], "")
    assert text.count("### The same 2 times") == 1
    (row,) = (line for line in text.splitlines() if line.startswith("| 1 inflate"))
    assert row == "| 1 inflate | 1.0 % | 0.0 % | 0.0 % | 0.0 % | 1.0 % | - |"


def test_the_page_keeps_what_is_around_its_tables() -> None:
    page = PAGE.read_text()
    changed = replace_tables(page, "new", [])
    assert changed.split(BEGIN)[0] == page.split(BEGIN)[0]
    assert changed.split(END)[1] == page.split(END)[1]
    assert changed.split(BEGIN)[1].split("\n### ")[0].strip() == "new"
    with pytest.raises(LabError, match="no place"):
        replace_tables("a page without marks", "new", [])


def test_tables_whose_recordings_are_elsewhere_stay() -> None:
    page = f"a\n{BEGIN}\nold\n\n### First\n\n1\n\n### Spread\n\n2\n\n{END}b\n"
    changed = replace_tables(page, "new\n\n### Second\n\n3\n", ["First", "Second"])
    assert changed == f"a\n{BEGIN}\nnew\n\n### First\n\n1\n\n### Second\n\n3\n\n### Spread\n\n2\n\n{END}b\n"
    assert "1\n" not in replace_tables(changed, "new\n\n### First\n\n4\n", ["First", "Second"])

# SPDX-License-Identifier: GPL-2.0-or-later
"""`make results`: each scenario is told apart, and tables say what reports of both sides say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.reporting_sweep import NAME, SETTINGS, Sample, Seen, Setting, parse_samples
from lab.reporting_tables import Swept, draw_sweep, render_sweep
from lab.results import PAGE, REPO, SCENARIOS
from lab.results_tables import (
    BEGIN,
    END,
    Operation,
    Run,
    read_run,
    render_tables,
    replace_between,
    replace_tables,
)

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


def test_a_sweep_is_compared_with_no_reports(tmp_path: Path) -> None:
    reports = {"reports": 20, "pages": 262_144, "worker_ns": 4_000_000, "transport_ns": 9_000_000}
    with_host = {**reports, "host_c_ns": 1_000_000, "host_d_ns": 5_000_000}
    none = {**dict.fromkeys(with_host, 0), "host_c_ns": None, "host_d_ns": None}
    samples = (Sample(0.1, 100 << 20), Sample(0.4, 300 << 20))
    swept = [
        Swept(SETTINGS[-1], none, Seen((9.0, 2.0, 2.0), samples, 0.911)),
        Swept(SETTINGS[-2], none, Seen((9.0, 1.0, 1.0), samples, 0.04)),
        Swept(Setting(4, 100), with_host, Seen((9.0, 1.25, 1.5, 1.2), samples, 0.05)),
        Swept(Setting(4, 100, is_fragmented=True), with_host, Seen((9.0, 2.2, 2.2), samples, 0.9)),
    ]
    off, on, pieces_off, pieces = (line.split(" | ") for line in render_sweep(swept).splitlines()[-4:])
    assert off[1:4] == ["no reports", "4 %", "0"]
    assert off[5:9] == ["-"] * 4
    assert on == [
        "| 4", "100 ms", "5 %", "20", "1.00 GiB", "4.00 ms", "9.00 ms", "1.00 ms", "5.00 ms", "1.25 s",
        "25.0 %", "200 MiB |",
    ]  # fmt: skip
    # Fragmented ones are compared with each other.
    assert pieces_off[1:4] == ["no reports", "91 %", "0"]
    assert (pieces[2], pieces[-2]) == ("90 %", "10.0 %")
    draw_sweep(swept, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_samples_of_a_stretch_of_time() -> None:
    lines = [f"{at_s} VmRSS: {kib} kB" for at_s, kib in ((9.9, 1), (10.0, 2), (11.5, 3), (12.1, 4))]
    assert parse_samples(lines, 10, 12) == (Sample(0.0, 2048), Sample(1.5, 3072))


def test_the_sweep_has_a_place_of_its_own_on_the_page() -> None:
    page = PAGE.read_text()
    changed = replace_between(page, NAME, "| a table |")
    assert "| a table |" in changed
    assert replace_between(changed, NAME, "x").count("| a table |") == 0
    assert changed.index(END) < changed.index("| a table |")
    with pytest.raises(LabError):
        replace_between(page, "unknown", "x")

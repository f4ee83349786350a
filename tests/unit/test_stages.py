# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of stages is their one home: no other module spells one, and a new row shows everywhere."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from runs import Setup, make_runs, side

import balloontrace
from balloontrace.compare.make_comparison import compare
from balloontrace.compare.recordings import Recordings
from balloontrace.format import stages
from balloontrace.format.stages import A, Colours, Place, Stage
from balloontrace.render.blocks_text import text_of
from balloontrace.render.comparison.sections import describe_comparison
from balloontrace.render.report.sections import describe_report
from balloontrace.render.stage_bars import segments_of
from balloontrace.results.operation import StageRow
from balloontrace.results.report import Report

PACKAGE = Path(balloontrace.__file__).parent
HOME = PACKAGE / "format" / "stages.py"
# Words of the language or of the kernel, which other modules use for other things.
COMMON = frozenset(
    {"a", "b", "c", "d", "other", "build", "send", "madvise", "remaining", "allocate", "compaction"}
)
ZEROING = Stage(
    "a.zero", "zeroing pages", "zeroing", Place.GUEST_KERNEL, "a", colours=Colours("#123", "#456")
)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_other_module_spells_a_stage(path: Path) -> None:
    words = {
        word for stage in stages.STAGES for word in (stage.code, stage.name, stage.short, stage.css_class)
    }
    words |= {name for stage in stages.STAGES for names in stage.of_kind.values() for name in names}
    spelled = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    assert path == HOME or not spelled & (words - COMMON)


def test_codes_are_told_apart() -> None:
    codes = [stage.code for stage in stages.STAGES]
    assert len(set(codes)) == len(codes) == len({stage.css_class for stage in stages.STAGES})
    named = [code for stage in stages.STAGES for code in (stage.part_of, *stage.instead_of) if code]
    assert set(named) <= set(codes)


def with_zeroing(report: Report) -> Report:
    """The same, a tenth of each allocation spent on zeroing pages."""

    def longer(rows: tuple[StageRow, ...]) -> tuple[StageRow, ...]:
        total_ns = (rows[0].total_ns or 0) // 10
        row = StageRow(ZEROING.code, ZEROING.name, ZEROING.where, A.code, total_ns=total_ns)
        return (rows[0], row, *rows[1:])

    return replace(
        report,
        operations=tuple(replace(each, stages=longer(each.stages)) for each in report.operations),
        totals=tuple(replace(each, stages=longer(each.stages)) for each in report.totals),
    )


def test_a_new_row_of_the_table_shows_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from balloontrace.render.html_page import render_page

    monkeypatch.setattr(stages, "STAGES", (*stages.STAGES, ZEROING))
    runs = side("runs", make_runs(Setup(), [1.0, 1.1]))
    recordings = Recordings("runs", tuple(map(with_zeroing, runs.reports)))
    report = recordings.reports[0]
    assert "- zeroing " in text_of(describe_report(report))
    assert "- zeroing " in text_of(describe_comparison(compare(recordings, recordings)))
    assert ZEROING.code in {segment.stage for segment in segments_of(report.operations[0].stages)}
    assert f".{ZEROING.css_class} {{" in render_page("page.css")

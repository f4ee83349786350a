# SPDX-License-Identifier: GPL-2.0-or-later
"""Markdown: the tables and sentences of the text report, in tables that GitHub takes for tables."""

from __future__ import annotations

import re

import pytest
import synthetic
from collection import NAMES, examined
from flows import typical_flow
from people import render_markdown

from balloontrace.analysis.make_report import analyse
from balloontrace.render.blocks import Line, Table, Title, plain
from balloontrace.render.blocks_markdown import markdown_of
from balloontrace.render.report.sections import describe_report

RULE = re.compile(r"\|(:?-+:?\|)+")
CELLS = re.compile(r"(?<!\\)\|")


def cells(line: str) -> list[str]:
    """What a GitHub table has in its columns."""
    assert line.startswith("|")
    assert line.endswith("|")
    return [re.sub(r"\\(.)", r"\1", cell).strip() for cell in CELLS.split(line)[1:-1]]


def tables(text: str) -> list[list[list[str]]]:
    """Every table with its header row first, checked to be one by GitHub's rules."""
    found = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        if lines[0].startswith("|"):
            head, rule, *rows = lines
            assert RULE.fullmatch(rule)
            assert {len(cells(line)) for line in lines} == {len(cells(head))}
            found.append([cells(head), *map(cells, rows)])
        else:
            assert not any(line.startswith("|") for line in lines)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_table_and_sentence_is_there(name: str) -> None:
    report = examined(name).report
    text = render_markdown(report)
    blocks = [block for section in describe_report(report) for block in section]
    wanted = [block for block in blocks if isinstance(block, Table)]
    assert tables(text) == [
        [list(table.names), *([plain(cell).strip() for cell in row] for row in table.rows)]
        for table in wanted
    ]
    bare = text.replace("\\", "")
    for block in blocks:
        if not isinstance(block, Table):
            assert plain(block.text) in bare
    assert len(re.findall(r"^##+ ", text, re.MULTILINE)) == sum(isinstance(block, Title) for block in blocks)
    assert text.startswith("## Recording ")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_what_strangers_wrote_is_no_markup() -> None:
    label = "a|b <img src=x> [link](y) *bold* `code` _under_"
    report = analyse(synthetic.recording(typical_flow(), changes={"label": label}))
    text = render_markdown(report)
    assert r"a\|b \<img src=x\> \[link\](y) \*bold\* \`code\` \_under\_" in text
    assert "update_balloon_size_func" in text


def test_a_line_that_begins_like_a_heading_is_none() -> None:
    assert markdown_of([[Line("# 1"), Line("#1")]]) == "- \\# 1\n- #1\n"


def test_a_bar_in_a_cell_stays_in_it() -> None:
    text = markdown_of([[Table(("a", "b"), [("x|y", "z")], "lr")]])
    assert tables(text) == [[["a", "b"], ["x|y", "z"]]]

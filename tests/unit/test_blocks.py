# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks in three languages: the same words, each escaped, and exact values in HTML."""

from __future__ import annotations

from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Line, Name, Section, Table, Term, Title, words
from balloontrace.render.blocks_html import html_of
from balloontrace.render.blocks_markdown import markdown_of
from balloontrace.render.blocks_text import text_of

STRANGER = "<b>{} *"
SECTION: Section = [
    Title(words("Of {}", STRANGER)),
    Line(words("{} in {}", numbers.pages(256), numbers.duration(None))),
    Item("one"),
    Item("two"),
    Term("name", numbers.things(1, "send")),
    Table(
        ("row", "n"),
        [(Name("a long name", " (5, 4)", key="a", target="x"), numbers.count(1024))],
        "lr",
        {0: 12},
    ),
]


def test_text_is_cut_but_for_its_remarks() -> None:
    assert text_of([SECTION, []]) == (
        "Of <b>{} *\n1.00 MiB in -\n- one\n- two\nname        1 send\n"
        "row              n\n------------ -----\na lo~ (5, 4) 1 024\n"
    )


def test_markdown_is_whole_and_escaped() -> None:
    assert markdown_of([SECTION]) == (
        "## Of \\<b\\>{} \\*\n\n- 1.00 MiB in -\n- one\n- two\n- **name**: 1 send\n\n"
        "| row                |     n |\n|:-------------------|------:|\n| a long name (5, 4) | 1 024 |\n"
    )


def test_html_has_exact_values_and_lists() -> None:
    html = html_of([SECTION], 2)
    assert "<h2>Of &lt;b&gt;{} *</h2>" in html
    assert (
        '<data value="256" title="256 pages">1.00\N{NO-BREAK SPACE}MiB</data> in <span class="none"' in html
    )
    assert "<ul><li>one</li><li>two</li></ul>" in html
    assert '<dl class="facts"><dt>name</dt><dd><data value="1" title="1">1</data> send</dd></dl>' in html
    assert '<tr data-row="a"><th class="l" scope="row"><span class="swatch s-a"></span><a href="#x">' in html
    assert '<a href="#x">a long name</a><span class="quiet"> (5, 4)</span></th>' in html

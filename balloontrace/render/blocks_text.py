# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks as text for people: tables and paragraphs of at most 80 columns, no pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import tabulate as tabulate_library
from tabulate import DataRow, Line, TableFormat, tabulate

from balloontrace.render import blocks

# Without this every header is padded by two columns, and the tables would not fit.
tabulate_library.MIN_PADDING = 0

WIDTH_COLUMNS = 80

NAME_COLUMNS = 14

_TERM_COLUMNS = 12

_FORMAT = TableFormat(
    lineabove=None,
    linebelowheader=Line("", "-", " ", ""),
    linebetweenrows=None,
    linebelow=None,
    headerrow=DataRow("", " ", ""),
    datarow=DataRow("", " ", ""),
    padding=0,
    with_header_hide=None,
)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> str:
    """Rows under their names; `alignment` has l or r for each column."""
    words = {"l": "left", "r": "right"}
    text = tabulate(
        rows,
        headers=names,
        tablefmt=_FORMAT,
        disable_numparse=True,
        colalign=[words[letter] for letter in alignment] if rows else None,
    )
    return "\n".join(line.rstrip() for line in text.splitlines())


def text_of(sections: Iterable[blocks.Section]) -> str:
    """Sections separated by an empty line; those with nothing in them are left out."""
    shown = ("\n".join(_show(block) for block in section) for section in sections)
    return "\n\n".join(text for text in shown if text) + "\n"


def _show(block: blocks.Block) -> str:
    match block:
        case blocks.Table(names, rows, alignment, most_columns):
            cut = [[_cut(cell, most_columns.get(place)) for place, cell in enumerate(row)] for row in rows]
            return _table(names, cut, alignment)
        case blocks.Item(text):
            return wrap(f"- {blocks.plain(text)}")
        case blocks.Term(name, text):
            return wrap(f"{name:{_TERM_COLUMNS}}{blocks.plain(text)}", " " * _TERM_COLUMNS)
        case blocks.Title(text) | blocks.Line(text):
            return wrap(blocks.plain(text))


def _cut(cell: blocks.Text, columns: int | None) -> str:
    """A cell cut to its column's width, but for a remark at its end."""
    if columns is None:
        return blocks.plain(cell)
    aside = cell.aside if isinstance(cell, blocks.Name) else ""
    return clip(blocks.plain(cell).removesuffix(aside), columns - len(aside)) + aside


def wrap(text: str, indent: str = "  ") -> str:
    """A paragraph, its second and later lines indented."""
    return textwrap.fill(text, WIDTH_COLUMNS, subsequent_indent=indent, break_on_hyphens=False)


def clip(text: str, columns: int = NAME_COLUMNS) -> str:
    """The text, cut to a column's width."""
    return text if len(text) <= columns else text[: columns - 1] + "~"

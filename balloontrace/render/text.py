# SPDX-License-Identifier: GPL-2.0-or-later
"""Text for people: tables and paragraphs of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import tabulate as tabulate_library
from tabulate import DataRow, Line, TableFormat, tabulate

# Without this every header is padded by two columns, and the tables would not fit.
tabulate_library.MIN_PADDING = 0

WIDTH_COLUMNS = 80

NAME_COLUMNS = 14

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


def table(names: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> str:
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


def wrap(text: str, indent: str = "  ") -> str:
    """A paragraph, its second and later lines indented."""
    return textwrap.fill(text, WIDTH_COLUMNS, subsequent_indent=indent, break_on_hyphens=False)


def clip(text: str, columns: int = NAME_COLUMNS) -> str:
    """The text, cut to a column's width."""
    return text if len(text) <= columns else text[: columns - 1] + "~"

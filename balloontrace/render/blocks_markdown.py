# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks as Markdown that GitHub renders: the same tables and sentences as on a terminal, nothing cut."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tabulate import tabulate

from balloontrace.render.blocks import Block, Item, Line, Section, Table, Term, Text, Title, plain

# What would be read as markup: anywhere, at the edge of a word (tell_host stays what it is), or as a heading.
_MARKUP = re.compile(r"[\\`*\[\]<>|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^#+(?= )")


def markdown_of(sections: Iterable[Section]) -> str:
    """Sections as Markdown, the first title as the document's; those with nothing in them are left out."""
    texts: list[str] = []
    for section in sections:
        for block in section:
            level = "###" if texts else "##"
            listed = isinstance(block, (Line, Item, Term))
            shown = _show(block, level)
            if listed and texts and texts[-1].startswith("- "):
                texts[-1] += f"\n{shown}"
            else:
                texts.append(shown)
    return "\n\n".join(texts) + "\n"


def _show(block: Block, level: str) -> str:
    match block:
        case Title(text):
            return f"{level} {_escape(text)}"
        case Line(text) | Item(text):
            return f"- {_escape(text)}"
        case Term(name, text):
            return f"- **{_escape(name)}**: {_escape(text)}"
        case Table(names, rows, alignment):
            return _table(names, rows, alignment)


def _table(names: Iterable[str], rows: Iterable[Iterable[Text]], alignment: str) -> str:
    words = {"l": "left", "r": "right"}
    return tabulate(
        [[_escape(cell) for cell in row] for row in rows],
        headers=[_escape(name) for name in names],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=[words[letter] for letter in alignment],
    )


def _escape(text: Text) -> str:
    return _MARKUP.sub(lambda found: f"\\{found[0]}", plain(text))

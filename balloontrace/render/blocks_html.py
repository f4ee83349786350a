# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks as HTML: every word escaped, every number with its exact value in `<data value>`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from markupsafe import Markup

from balloontrace.format.stages import colour_class
from balloontrace.render.blocks import Block, Item, Line, Name, Number, Section, Table, Term, Text, Title
from balloontrace.render.svg import tag
from balloontrace.units import NOT_MEASURED, format_count

UNMEASURED = Markup(
    '<span class="none" title="not measured">{}<span class="aside"> not measured</span></span>'
).format("\N{EN DASH}")

# Longer than this, a cell may have several lines.
_LONG_CELL = 40


def unbroken(shown: str) -> str:
    """Words that no line ends in: a number stays beside its unit."""
    return shown.replace(" ", "\N{NO-BREAK SPACE}")


def html_of(sections: Iterable[Section], level: int = 3) -> Markup:
    """Sections one below the other, their titles being headings of this level."""
    return Markup("\n").join(shown for section in sections for shown in _grouped(section, level))


def html_words(text: Text) -> Markup:
    """Words, and numbers with their exact values."""
    return Markup("").join(map(_piece, (text,) if isinstance(text, str) else text))


def _piece(piece: str) -> Markup:
    if isinstance(piece, Number):
        return _number(piece)
    return UNMEASURED if piece == NOT_MEASURED else Markup.escape(piece)


def _number(number: Number) -> Markup:
    value = number.value
    if value is None:
        return UNMEASURED
    exact = format_count(value) if isinstance(value, int) else repr(value)
    return tag("data", unbroken(number), value=repr(value), title=f"{exact} {number.unit}".rstrip())


def _grouped(section: Section, level: int) -> Iterator[Markup]:
    """Neighbours of one kind are one list."""
    for kind, blocks in groupby(section, type):
        shown = [_show(block, level) for block in blocks]
        if kind is Item:
            yield tag("ul", *shown)
        elif kind is Term:
            yield tag("dl", *shown, class_="facts")
        else:
            yield from shown


def _show(block: Block, level: int) -> Markup:
    match block:
        case Title(text):
            return tag(f"h{level}", html_words(text))
        case Line(text):
            return tag("p", html_words(text))
        case Item(text):
            return tag("li", html_words(text))
        case Term(name, text):
            return tag("dt", name) + tag("dd", html_words(text))
        case Table():
            return html_table(block)


def html_table(table: Table, caption: str = "") -> Markup:
    """A table that is scrolled where the page is too narrow for it."""
    left = ["l" if letter == "l" else None for letter in table.alignment]
    head = [tag("th", name, class_=kind, scope="col") for name, kind in zip(table.names, left, strict=True)]
    rows = [_row(row, left) for row in table.rows]
    has_keys = any(isinstance(row[0], Name) and row[0].key for row in table.rows)
    return tag(
        "div",
        tag(
            "table",
            *([tag("caption", caption)] if caption else []),
            tag("thead", tag("tr", *head)),
            tag("tbody", *rows),
            class_="stages" if has_keys else None,
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption or table.names[0],
    )


def _row(row: Iterable[Text], left: list[str | None]) -> Markup:
    first, *others = row
    name = first if isinstance(first, Name) else None
    cells = [
        tag("td", html_words(cell), class_="wide" if kind and len(cell) > _LONG_CELL else kind)
        for cell, kind in zip(others, left[1:], strict=True)
    ]
    return tag(
        "tr",
        tag("th", html_words(first) if name is None else _name(name), class_=left[0], scope="row"),
        *cells,
        class_="part" if name is not None and name.is_part else None,
        data_row=name.key or None if name is not None else None,
    )


def _name(name: Name) -> Markup:
    colour = colour_class(name.key)
    mark = tag("span", class_=f"swatch {colour}" if colour else "indent") if name.key else Markup("")
    shown = Markup.escape(name.removesuffix(name.aside))
    link = tag("a", shown, href=f"#{name.target}") if name.target else shown
    return mark + link + (tag("span", name.aside, class_="quiet") if name.aside else Markup(""))

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report for people consists of, in any language: sections of paragraphs and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class Number(str):
    """A number in words, with its exact value for a page; None where nothing was measured."""

    __slots__ = ("unit", "value")
    value: float | None
    unit: str

    def __new__(cls, shown: str, value: float | None, unit: str = "") -> Number:
        """The value in `unit`; `shown` has the unit that reads best."""
        self = super().__new__(cls, shown)
        self.value, self.unit = value, unit
        return self


class Name(str):
    """A cell that names its row; `aside` is a remark at its end, which stays where the name is cut.

    A page knows the row by `key`, marks a stage by its colour and `is_part` by an indentation, and makes the
    name a link to what has the id `target`.
    """

    __slots__ = ("aside", "is_part", "key", "target")
    aside: str
    key: str
    is_part: bool
    target: str

    def __new__(
        cls, name: str, aside: str = "", *, key: str = "", is_part: bool = False, target: str = ""
    ) -> Name:
        """Words as in any cell: the name, then the remark."""
        self = super().__new__(cls, name + aside)
        self.aside, self.key, self.is_part, self.target = aside, key, is_part, target
        return self


Text = str | tuple[str, ...]
"""Words, or pieces of them of which some are numbers."""


def words(template: str, *pieces: Text) -> Text:
    """The template with a piece in the place of each `{}`; what a stranger wrote is a piece, no template."""
    first, *others = template.split("{}")
    found = [first]
    for piece, after in zip(pieces, others, strict=True):
        found += [piece, after] if isinstance(piece, str) else [*piece, after]
    return tuple(found)


def plain(text: Text) -> str:
    """The words alone."""
    return text if isinstance(text, str) else "".join(text)


@dataclass(frozen=True, slots=True)
class Title:
    """What the section is about, as a sentence."""

    text: Text


@dataclass(frozen=True, slots=True)
class Line:
    """A paragraph that begins a line of its own."""

    text: Text


@dataclass(frozen=True, slots=True)
class Item:
    """A remark, one of several."""

    text: Text


@dataclass(frozen=True, slots=True)
class Term:
    """A name and what there is to say of it."""

    name: str
    text: Text


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under their names; `alignment` has l or r for each column.

    `most_columns` has the place of each table column that is cut on a terminal, and to how many characters.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[Text]]
    alignment: str
    most_columns: Mapping[int, int] = field(default_factory=dict)


Block = Title | Line | Item | Term | Table
Section = Sequence[Block]

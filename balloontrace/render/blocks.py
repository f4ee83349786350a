# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report for people consists of, whatever it is rendered as: sections of paragraphs and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Title:
    """What the section is about, as a sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A paragraph that begins a line of its own."""

    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """A remark, one of several."""

    text: str


@dataclass(frozen=True, slots=True)
class Term:
    """A name and what there is to say of it."""

    name: str
    text: str


class Name(str):
    """A cell that names its row; `aside` is a remark at its end, which stays where the name is cut."""

    __slots__ = ("aside",)
    aside: str

    def __new__(cls, name: str, aside: str = "") -> Name:
        """Words as in any cell: the name, then the remark."""
        self = super().__new__(cls, name + aside)
        self.aside = aside
        return self


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under their names; `alignment` has l or r for each column.

    `most_columns` has the place of each table column that is cut on a terminal, and to how many characters.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    alignment: str
    most_columns: Mapping[int, int] = field(default_factory=dict)


Section = Sequence[Title | Line | Item | Term | Table]

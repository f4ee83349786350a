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

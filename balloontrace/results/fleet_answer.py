# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer to a question asked of many recordings, as plain frozen data; None always means "not measured".

Column names are the names in CSV and JSON.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

Cell = str | int | float | bool | None


class Unit(enum.StrEnum):
    """What the numbers of a column are; words have none."""

    WORDS = ""
    COUNT = "count"
    NS = "ns"
    BYTES = "B"
    RATE = "B/s"
    SHARE = "share"
    RATIO = "ratio"
    MOMENT = "ns since 1970"


@dataclass(frozen=True, slots=True)
class AnswerColumn:
    """A column; `label` is its name on a terminal, where one without is left out; `most` letters fit."""

    name: str
    unit: Unit = Unit.WORDS
    label: str = ""
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A bar for each row; with `segment`, a stage's code, for rows that agree in `labels`, divided by it."""

    labels: tuple[str, ...]
    value: str
    segment: str | None = None
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows in order, with a cell for each column. `notes` are sentences on what to know beside them."""

    question: str
    title: str
    dataset: str
    engine: str
    recordings: int
    columns: tuple[AnswerColumn, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    picture: Picture | None = None

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a question consists of: what the engine sums up, and what is made of its rows here.

An engine gives whole numbers and words only. Whatever is divided is divided here, so that engines agree to
the last digit.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from balloontrace.results.fleet_answer import AnswerColumn, Cell, Picture

if TYPE_CHECKING:
    import ibis.expr.types as ir

Row = Mapping[str, Any]
"""A row of an engine, by column."""


class By(enum.StrEnum):
    """What rows can be grouped by, and the column that has it."""

    HOST = "host"
    VM = "vm"
    KERNEL = "kernel"

    @property
    def column(self) -> str:
        """Its name in every table."""
        return "kernel_release" if self is By.KERNEL else self.value


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may say beside the question."""

    limit: int = 20
    by: By | None = None
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of an answer, and sentences beside them."""

    rows: Sequence[Sequence[Cell]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """One stock question. `text` is the question itself, in words.

    `ask` says what to sum up, in an order that is the same everywhere; `finish` makes cells of the rows.
    `by` is what rows are grouped by unless a person says otherwise, None where nobody can. `sides`: it
    compares two, which a person has to name.
    """

    text: str
    columns: Callable[[Options], tuple[AnswerColumn, ...]]
    ask: Callable[[Mapping[str, ir.Table], Options], ir.Table]
    finish: Callable[[Sequence[Row], Options], Found]
    picture: Callable[[Options], Picture | None]
    by: By | None = None
    sides: bool = False


def share_of(part: int | None, whole: int | None) -> float | None:
    """A fraction of one; None where either is not known, or there is nothing to divide."""
    return None if part is None or not whole else part / whole


def rate_of(size_bytes: int | None, duration_ns: int | None) -> float | None:
    """Bytes a second."""
    return None if size_bytes is None or not duration_ns else size_bytes * 1_000_000_000 / duration_ns


def cells(rows: Sequence[Row], columns: Sequence[AnswerColumn]) -> list[tuple[Cell, ...]]:
    """Rows that have a cell for each column already."""
    return [tuple(row[column.name] for column in columns) for row in rows]


def key_column(options: Options) -> AnswerColumn:
    """What rows are grouped by."""
    assert options.by is not None  # whoever asks has put the question's own there
    most = 24 if options.by is By.KERNEL else 16
    return AnswerColumn(options.by.column, label=options.by.value, most=most)

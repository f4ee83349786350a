# SPDX-License-Identifier: GPL-2.0-or-later
"""An answer for people: "-" where nothing was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Line, Number, Section, Table, Text, Title, words
from balloontrace.results.fleet_answer import Answer, AnswerColumn, Cell, Unit
from balloontrace.units import NOT_MEASURED, NS_PER_S

_SHOWN: Mapping[Unit, Callable[[float | None], Number]] = {
    Unit.COUNT: numbers.count,
    Unit.NS: numbers.duration,
    Unit.BYTES: numbers.size,
    Unit.RATE: numbers.rate,
    Unit.SHARE: numbers.share,
    Unit.RATIO: numbers.ratio,
}


def describe_answer(answer: Answer, *, whole: bool = False) -> list[Section]:
    """All of it; a terminal has no room for columns without a label, which `whole` shows too."""
    what = words("{} of {}", numbers.things(answer.recordings, "recording"), answer.dataset)
    return [
        [Title(f"{answer.title[0].upper()}{answer.title[1:]}"), Line(what)],
        [table_of(answer, whole=whole)] if answer.rows else [Line("Nothing in the dataset answers this.")],
        [Item(note) for note in answer.notes],
    ]


def table_of(answer: Answer, *, whole: bool) -> Table:
    """The rows, as many as there are."""
    shown = [(place, column) for place, column in enumerate(answer.columns) if column.label or whole]
    cuts = {at: column.most for at, (_, column) in enumerate(shown) if column.most is not None and not whole}
    return Table(
        [_heading(column, whole=whole) for _, column in shown],
        [[show_cell(row[place], column) for place, column in shown] for row in answer.rows],
        "".join("l" if column.unit in (Unit.WORDS, Unit.MOMENT) else "r" for _, column in shown),
        cuts,
    )


def _heading(column: AnswerColumn, *, whole: bool) -> str:
    """Its label; where there is none, its name without the unit, which each number has."""
    if not whole and column.label:
        return column.label
    name = column.name
    for ending in ("_bytes_per_s", "_ns_per_gib", "_at_ns", "_ns", "_bytes"):
        name = name.removesuffix(ending) or name
    return name.replace("_", " ")


def show_cell(cell: Cell, column: AnswerColumn) -> Text:
    """A cell in words; numbers keep their value."""
    if column.unit in _SHOWN and (cell is None or isinstance(cell, int | float)):
        return _SHOWN[column.unit](cell)
    if cell is None:
        return NOT_MEASURED
    return _moment(cell) if column.unit is Unit.MOMENT and isinstance(cell, int) else str(cell)


def _moment(at_ns: int) -> str:
    """A moment in UTC, to the second."""
    try:
        return datetime.fromtimestamp(at_ns // NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(at_ns)

# SPDX-License-Identifier: GPL-2.0-or-later
"""A question, or a query in SQL, into its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from typing import TypeVar

from balloontrace.archive.dataset import Dataset, explain_broken, read_dataset
from balloontrace.archive.storage import open_storage
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.fleet.engine import Engine
from balloontrace.fleet.open_engine import open_engine
from balloontrace.fleet.question import Options, Question, Row
from balloontrace.fleet.side_filter import parse_side
from balloontrace.results.fleet_answer import Answer, AnswerColumn, Unit
from balloontrace.untrusted import printable

_SQL = "sql"


class BrokenFileError(BalloontraceError):
    """A file of the dataset is gone or damaged."""


_Found = TypeVar("_Found")


def ask_dataset(url: str, since: date | None, until: date | None, ask: Callable[[Dataset], _Found]) -> _Found:
    """What `ask` makes of a dataset; once more, where batches were merged meanwhile, and so removed."""
    dataset = find_dataset(url, since, until)
    try:
        return ask(dataset)
    except BrokenFileError:
        again = find_dataset(url, since, until)
        if again.batches == dataset.batches:
            raise
        return ask(again)


def find_dataset(url: str, since: date | None = None, until: date | None = None) -> Dataset:
    """What is in a dataset, perhaps of these days only. UsageError where nothing is."""
    dataset = read_dataset(open_storage(url), since, until)
    if not dataset.batches:
        which = "" if since is None and until is None else " of these days"
        raise UsageError(
            f"{printable(url)} holds no archived recordings{which}: `balloontrace archive` brings them there"
        )
    return dataset


def answer(dataset: Dataset, name: str, question: Question, options: Options, engine: str) -> Answer:
    """The answer to a stock question. UsageError for options that it does not take."""
    _fitting(name, question, options)
    with _explained_files(dataset), open_engine(engine, dataset) as opened:
        return answer_on(opened, dataset, name, question, options)


def answer_on(engine: Engine, dataset: Dataset, name: str, question: Question, options: Options) -> Answer:
    """The same, of an engine that is connected already."""
    options = _fitting(name, question, options)
    rows = engine.rows(question.ask(engine.tables_of(dataset), options))
    found = question.finish(rows, options)
    return Answer(
        question=name,
        title=question.text,
        dataset=printable(dataset.storage.url),
        engine=engine.name,
        recordings=len(dataset.ranks),
        columns=question.columns(options),
        rows=tuple(map(tuple, found.rows)),
        notes=found.notes,
        picture=question.picture(options),
    )


@contextmanager
def _explained_files(dataset: Dataset) -> Iterator[None]:
    """What an engine says of a file of the dataset, with what to do about it."""
    try:
        yield
    except UsageError:
        raise
    except BalloontraceError as error:
        advice = explain_broken(dataset, f"{error} {error.__cause__}")
        if advice is None:
            raise
        raise BrokenFileError(f"{advice}: {error}") from error


def _fitting(name: str, question: Question, options: Options) -> Options:
    """The options with the question's own where a person said nothing."""
    if options.by is not None and question.by is None:
        raise UsageError(f"{name} takes no --by")
    sides = (options.before, options.after)
    if question.sides and None in sides:
        raise UsageError(f"{name} takes --before and --after: a week (2026-W48), a month, a day or a kernel")
    if not question.sides and sides != (None, None):
        raise UsageError(f"{name} takes no --before and --after; changes does")
    for side in sides:
        if side is not None:
            parse_side(side)
    return replace(options, by=options.by or question.by)


def answer_sql(dataset: Dataset, text: str, engine: str) -> Answer:
    """The answer to a query of the tables, in the engine's own SQL."""
    with _explained_files(dataset), open_engine(engine, dataset) as opened:
        names, rows = opened.ask_sql(dataset, text)
    return Answer(
        question=_SQL,
        title=printable(" ".join(text.split())),
        dataset=printable(dataset.storage.url),
        engine=engine,
        recordings=len(dataset.ranks),
        columns=tuple(AnswerColumn(name, _unit_of(name, rows), name, 24) for name in names),
        rows=tuple(tuple(row[name] for name in names) for row in rows),
    )


def _unit_of(name: str, rows: Sequence[Row]) -> Unit:
    """What a column's name says of its numbers; words where one cell is a word."""
    if any(isinstance(row[name], str | bool) for row in rows):
        return Unit.WORDS
    if name.endswith("_at_ns"):
        return Unit.MOMENT
    for ending, unit in (("_ns", Unit.NS), ("bytes", Unit.BYTES), ("_share", Unit.SHARE)):
        if name.endswith(ending):
            return unit
    return Unit.RATIO if any(isinstance(row[name], float) for row in rows) else Unit.COUNT

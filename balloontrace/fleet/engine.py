# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine that reads a dataset and sums it up, as a question sees it.

This one does as any backend of ibis; `duckdb_engine` and `spark_engine` say what is different there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from balloontrace.archive.dataset import Dataset
from balloontrace.archive.schema import TABLES, Type
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.fleet.question import Row
from balloontrace.results.fleet_answer import Cell
from balloontrace.untrusted import printable

if TYPE_CHECKING:
    import ibis.expr.types as ir

_LONGEST_REASON = 300
_ASKED = "what_was_asked"
_TYPES = {Type.TEXT: "string", Type.INTEGER: "int64", Type.BOOLEAN: "boolean", Type.DAY: "date"}


class Engine:
    """A connection of ibis; `name` is what a person called it."""

    def __init__(self, name: str, connection: Any) -> None:  # noqa: ANN401 - each backend has a class of its own
        self.name, self.connection = name, connection

    def tables_of(self, dataset: Dataset) -> Mapping[str, ir.Table]:
        """The dataset's tables by name, each opened when it is looked up; each recording is in them once."""
        return _Tables(self, dataset)

    def open_tables(self, dataset: Dataset) -> None:
        """Give all tables their names in SQL."""
        for table in TABLES:
            self.open_table(dataset, table)

    def open_table(self, dataset: Dataset, table: str) -> ir.Table:
        """One table. Errors as `rows`."""
        with explained(self.name):
            every = self._read(dataset.files_of(table), f"{table}_of_all_batches", is_mixed=dataset.is_mixed)
            missing = [column for column in TABLES[table] if column.name not in every.columns]
            if missing:  # older files have them not
                import ibis

                every = every.mutate(
                    **{column.name: ibis.literal(None, type=_TYPES[column.type]) for column in missing}
                )
            hidden = [f"{batch} {recording}" for batch, recording in dataset.hidden]
            if hidden:
                every = every.filter((every.batch + " " + every.recording_id).notin(hidden))
            return self._name(table, every)

    def rows(self, asked: ir.Table) -> list[Row]:
        """All rows, by column, of plain values. BalloontraceError for whatever the engine does not like."""
        with explained(self.name):
            return [{name: _plain(value) for name, value in row.items()} for row in self._rows(asked)]

    def ask_sql(self, dataset: Dataset, text: str) -> tuple[list[str], list[Row]]:
        """Columns and rows of a query of the dataset's tables in the engine's own SQL.

        Errors as `rows`; UsageError for anything but one query, since a statement may write.
        """
        with explained(self.name):
            if not self._is_one_query(text):
                raise UsageError(
                    "--sql takes one query and no other statement: it begins with SELECT or WITH"
                )
            self.open_tables(dataset)
            asked = self._name_sql(_ASKED, text)
            return list(asked.columns), self.rows(asked)

    def _is_one_query(self, text: str) -> bool:
        """Whether a text is that and nothing else; raises as a parser does for what it cannot read."""
        import sqlglot

        logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of statements that it hardly knows
        try:
            found = sqlglot.parse(text, read=self.connection.dialect)
        except sqlglot.ParseError as error:
            where = error.errors[0] if error.errors else {}
            words = f"{where.get('description', error)} (line {where.get('line')}, column {where.get('col')})"
            raise BalloontraceError(f"{printable(self.name)} cannot answer: {printable(words)}") from error
        while found and found[-1] is None:  # behind the last semicolon
            found.pop()
        return len(found) == 1 and isinstance(found[0], sqlglot.exp.Query)

    def _read(self, files: Sequence[str], name: str, *, is_mixed: bool) -> ir.Table:  # noqa: ARG002
        """Parquet files as one table of this name. With `is_mixed` some have columns that others have not."""
        return self.connection.read_parquet(list(files), table_name=name)

    def _name(self, name: str, table: ir.Table) -> ir.Table:
        """The same under a name that SQL knows."""
        return self.connection.create_view(name, table, overwrite=True)

    def _name_sql(self, name: str, text: str) -> ir.Table:
        """What a query finds, under a name."""
        return self._name(name, self.connection.sql(text))

    def _rows(self, asked: ir.Table) -> Sequence[Mapping[str, object]]:
        rows: Sequence[Mapping[str, object]] = self.connection.to_pyarrow(asked).to_pylist()
        return rows


class _Tables(Mapping[str, "ir.Table"]):
    """Tables that a question asks for; the others cost nothing."""

    def __init__(self, engine: Engine, dataset: Dataset) -> None:
        self._engine, self._dataset = engine, dataset
        self._opened: dict[str, ir.Table] = {}

    def __getitem__(self, name: str) -> ir.Table:
        if name not in self._opened:
            self._opened[name] = self._engine.open_table(self._dataset, name)
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES)

    def __len__(self) -> int:
        return len(TABLES)


@contextmanager
def explained(engine: str) -> Iterator[None]:
    """Whatever an engine raises, as one sentence; each has errors of its own."""
    try:
        yield
    except BalloontraceError:
        raise
    except Exception as error:
        words = printable(" ".join(str(error).split())) or type(error).__name__
        raise BalloontraceError(f"{printable(engine)} cannot answer: {words[:_LONGEST_REASON]}") from error


def _plain(value: object) -> Cell:
    """A value as JSON has it. Sums may come as decimals; what is no number stays out."""
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine that reads a dataset and sums it up: DuckDB in this process, Spark, or another of ibis."""

from __future__ import annotations

import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from balloontrace.archive.dataset import Dataset
from balloontrace.archive.schema import TABLES
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.fleet.question import Row
from balloontrace.results.fleet_answer import Cell
from balloontrace.untrusted import printable

if TYPE_CHECKING:
    import ibis.expr.types as ir

DUCKDB = "duckdb"
_SPARK_CONNECT = "sc://"
# What SparkSession takes as a master.
_SPARK_MASTER = re.compile(r"spark://.+|local(\[.*\])?|local-cluster\[.+\]|yarn|k8s://.+")
_CONNECT_PORT = "15002"
_REACHED_S = 20.0
_LONGEST_REASON = 300
# What DuckDB would take for a pattern in a file's name, or for its end.
_MAGIC = re.compile(r"[\[*?']")
_ASKED = "what_was_asked"


def _literally(found: re.Match[str]) -> str:
    return "''" if found[0] == "'" else f"[{found[0]}]"


@dataclass(frozen=True, slots=True)
class Engine:
    """A connection; `name` is what a person called it."""

    name: str
    connection: Any
    session: Any = None

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
            return self._open(dataset, table)

    def _open(self, dataset: Dataset, table: str) -> ir.Table:
        files = dataset.files_of(table)
        if not dataset.hidden:
            return self._read(files, table)
        every = self._read(files, f"{table}_of_all_batches")
        hidden = [f"{batch} {recording}" for batch, recording in dataset.hidden]
        visible = every.filter((every.batch + " " + every.recording_id).notin(hidden))
        if self.session is None:
            return self.connection.create_view(table, visible, overwrite=True)
        self.session.sql(self.connection.compile(visible)).createOrReplaceTempView(table)
        return self.connection.table(table)

    def _read(self, files: Sequence[str], name: str) -> ir.Table:
        if self.session is not None:
            self.session.read.parquet(*files).createOrReplaceTempView(name)
            return self.connection.table(name)
        if self.name == DUCKDB:
            # Day and host are in the files, too: names of folders need not be looked at. ibis.read_parquet
            # would have an extension of DuckDB downloaded for an object store, which fsspec reads as well.
            names = ", ".join(f"'{_MAGIC.sub(_literally, file)}'" for file in files)
            what = f"read_parquet([{names}], hive_partitioning=false)"
            view = f"CREATE OR REPLACE TEMPORARY VIEW {name} AS SELECT * FROM {what}"  # noqa: S608 - quoted
            self.connection.raw_sql(view)
            return self.connection.table(name)
        return self.connection.read_parquet(list(files), table_name=name)

    def rows(self, asked: ir.Table) -> list[Row]:
        """All rows, by column, of plain values. BalloontraceError for whatever the engine does not like."""
        with explained(self.name):
            if self.session is not None:
                found = [row.asDict() for row in self.session.sql(self.connection.compile(asked)).collect()]
            else:
                found = self.connection.to_pyarrow(asked).to_pylist()
        return [{name: _plain(value) for name, value in row.items()} for row in found]

    def ask_sql(self, text: str) -> tuple[list[str], list[Row]]:
        """Columns and rows of a query in the engine's own SQL. Errors as `rows`."""
        with explained(self.name):
            if self.session is not None:
                self.session.sql(text).createOrReplaceTempView(_ASKED)
            elif self.name == DUCKDB:
                # ibis.sql needs a function that DuckDB 2 has no more.
                self.connection.raw_sql(f"CREATE OR REPLACE TEMPORARY VIEW {_ASKED} AS {text}")
            else:
                self.connection.create_view(_ASKED, self.connection.sql(text), overwrite=True)
            asked = self.connection.table(_ASKED)
            return list(asked.columns), self.rows(asked)


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
def open_engine(name: str, dataset: Dataset) -> Iterator[Engine]:
    """Connect to an engine, and let go of it afterwards.

    `name` is duckdb, a Spark master, `sc://` with the address of Spark Connect, or a URL that ibis knows.
    UsageError for anything else; BalloontraceError where it cannot be reached, or Java is missing.
    """
    import ibis

    if name == DUCKDB:
        connection = ibis.duckdb.connect()
        if "://" in dataset.storage.url:
            connection.con.register_filesystem(dataset.storage.files)
        yield Engine(name, connection)
        connection.disconnect()
        return
    if name.startswith(_SPARK_CONNECT) or _SPARK_MASTER.fullmatch(name):
        with _spark_session(name) as session:
            yield Engine(name, ibis.pyspark.connect(session), session)
        return
    if "://" not in name:
        raise UsageError(
            f"{printable(name)} is no engine: give duckdb, a Spark master such as spark://host:7077, or "
            "a URL that ibis connects to"
        )
    with explained(name):
        connection = ibis.connect(name)
    yield Engine(name, connection)
    connection.disconnect()


@contextmanager
def _spark_session(master: str) -> Iterator[Any]:
    """A session of Spark; where it is started here it is stopped here."""
    _require_reachable(master)
    if not master.startswith(_SPARK_CONNECT):
        _require_java()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how new pandas is, which is not used
        from pyspark.sql import SparkSession

        with explained(master):
            builder = SparkSession.builder.appName("balloontrace fleet")
            if master.startswith(_SPARK_CONNECT):
                session = builder.remote(master).getOrCreate()
            else:
                builder = builder.master(master).config("spark.ui.enabled", "false")
                builder = builder.config("spark.ui.showConsoleProgress", "false").config(
                    "spark.log.level", "ERROR"
                )
                session = builder.getOrCreate()
        try:
            yield session
        finally:
            with suppress(Exception):  # it may be gone already, and nothing depends on it any more
                session.stop()


def _require_reachable(master: str) -> None:
    """Spark itself would try for minutes. BalloontraceError where nobody listens at any address given."""
    scheme, _, rest = master.partition("://")
    if scheme not in ("spark", "sc"):
        return
    reasons = []
    for place in rest.partition("/")[0].split(","):
        host, _, port = place.rpartition(":") if ":" in place else (place, "", _CONNECT_PORT)
        try:
            socket.create_connection((host, int(port)), _REACHED_S).close()
        except (OSError, ValueError) as error:
            reasons.append(f"{place}: {getattr(error, 'strerror', None) or error}")
        else:
            return
    raise BalloontraceError(f"no Spark is reached at {printable('; '.join(reasons))}")


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (home and os.access(f"{home}/bin/java", os.X_OK)):
        raise BalloontraceError(
            "Spark needs Java, which is not installed: install default-jre-headless (Debian, Ubuntu), or "
            "set JAVA_HOME"
        )


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
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and value != value:
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine that a name or a URL means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from balloontrace.archive.dataset import Dataset
from balloontrace.errors import UsageError
from balloontrace.fleet.duckdb_engine import DuckDbEngine
from balloontrace.fleet.engine import Engine, explained
from balloontrace.fleet.spark_engine import SparkEngine, is_spark, spark_session
from balloontrace.untrusted import printable

DUCKDB = "duckdb"


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
        yield DuckDbEngine(name, connection)
        connection.disconnect()
        return
    if is_spark(name):
        with spark_session(name) as session:
            yield SparkEngine(name, ibis.pyspark.connect(session), session)
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

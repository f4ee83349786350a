# SPDX-License-Identifier: GPL-2.0-or-later
"""Spark: a cluster that a session is started on, or a server of Spark Connect."""

from __future__ import annotations

import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from balloontrace.errors import BalloontraceError
from balloontrace.fleet.engine import Engine, explained
from balloontrace.untrusted import printable

if TYPE_CHECKING:
    import ibis.expr.types as ir

_SPARK_CONNECT = "sc://"
# What SparkSession takes as a master.
_SPARK_MASTER = re.compile(r"spark://.+|local(\[.*\])?|local-cluster\[.+\]|yarn|k8s://.+")
_CONNECT_PORT = "15002"
_REACHED_S = 20.0


def is_spark(name: str) -> bool:
    """Whether an engine of this name is Spark."""
    return name.startswith(_SPARK_CONNECT) or _SPARK_MASTER.fullmatch(name) is not None


class SparkEngine(Engine):
    """ibis writes the SQL, and the session runs it, in views that end with it."""

    def __init__(self, name: str, connection: Any, session: Any) -> None:  # noqa: ANN401 - of one of two classes
        super().__init__(name, connection)
        self._session = session

    def _read(self, files: Sequence[str], name: str, *, is_mixed: bool) -> ir.Table:
        return self._named(name, self._session.read.option("mergeSchema", is_mixed).parquet(*files))

    def _name(self, name: str, table: ir.Table) -> ir.Table:
        return self._name_sql(name, self.connection.compile(table))

    def _name_sql(self, name: str, text: str) -> ir.Table:
        return self._named(name, self._session.sql(text))

    def _named(self, name: str, found: Any) -> ir.Table:  # noqa: ANN401 - a DataFrame of one of two classes
        found.createOrReplaceTempView(name)
        return self.connection.table(name)

    def _rows(self, asked: ir.Table) -> Sequence[Mapping[str, object]]:
        return [row.asDict() for row in self._session.sql(self.connection.compile(asked)).collect()]


@contextmanager
def spark_session(master: str) -> Iterator[Any]:
    """A session of Spark; where it is started here it is stopped here."""
    _require_reachable(master)
    if not master.startswith(_SPARK_CONNECT):
        _require_java()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how new pandas is, which is not used
        from pyspark.logger import PySparkLogger
        from pyspark.sql import SparkSession

        # A page of JSON for each error, which is raised as well.
        PySparkLogger.getLogger("SQLQueryContextLogger").disabled = True
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

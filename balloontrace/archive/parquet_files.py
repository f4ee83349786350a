# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of a batch as Parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from balloontrace.archive.rows import Cells
from balloontrace.archive.schema import SCHEMA_VERSION, TABLES, Column, Type

_TYPES = {
    Type.TEXT: pa.string(),
    Type.INTEGER: pa.int64(),
    Type.BOOLEAN: pa.bool_(),
    Type.DAY: pa.date32(),
}
COMPRESSION = "zstd"


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The columns of a table, and the version of the schema as metadata."""
    version = ".".join(map(str, SCHEMA_VERSION))
    fields = [pa.field(column.name, _TYPES[column.type]) for column in columns]
    return pa.schema(fields, metadata={"balloontrace_schema": version})


SCHEMAS: Mapping[str, pa.Schema] = {table: arrow_schema(columns) for table, columns in TABLES.items()}


def to_parquet(table: str, batch: str, rows: Iterable[Cells]) -> bytes:
    """The rows of one table of a batch as one file; cells that are not there are null.

    Stages lie together, so that what repeats is stored once.
    """
    ordered = [{**row, "batch": batch} for row in rows]
    if table == "stages":
        ordered.sort(key=lambda row: (row["part_of"] is not None, str(row["part_of"]), str(row["stage"])))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ordered, schema=SCHEMAS[table]), sink, compression=COMPRESSION)
    content: bytes = sink.getvalue().to_pybytes()
    return content

# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of a batch as Parquet files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from balloontrace.archive.rows import Cells
from balloontrace.archive.schema import SCHEMA_VERSION, TABLES, Column, Type
from balloontrace.errors import BalloontraceError

_TYPES = {
    Type.TEXT: pa.string(),
    Type.INTEGER: pa.int64(),
    Type.BOOLEAN: pa.bool_(),
    Type.DAY: pa.date32(),
}
# Snappy takes a third more room and half the time to read: so columns that stock questions sum up have it.
_OFTEN_READ = frozenset(
    {
        "kernel_release",
        "driver_kind",
        "vm",
        "kind",
        "outcome",
        "bytes",
        "stage",
        "part_of",
        "total_ns",
        "wall_ns",
    }
)
# Sizes repeat, as targets and numbers of pages do.
_REPEATED = frozenset({"bytes", "count"})
# Engines take a row group at a time, and pass over one whose least and largest values tell enough.
_ROW_GROUP_ROWS = 1 << 17


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
    return encode(table, pa.Table.from_pylist(ordered, schema=SCHEMAS[table]))


def read_rows(table: str, content: bytes) -> pa.Table:
    """What is in a file of a table. BalloontraceError for one that is damaged."""
    try:
        return pq.read_table(pa.BufferReader(content), schema=SCHEMAS[table])
    except (pa.ArrowException, OSError) as error:
        raise BalloontraceError(" ".join(str(error).split())) from error


def merge_files(
    table: str, batch: str, files: Mapping[str, pa.Table], hidden: Collection[tuple[str, str]]
) -> bytes:
    """The rows of some batches, by name, as one file of `batch`; without `hidden` recordings of batches."""
    parts = []
    for name, rows in files.items():
        shown = [(name, each) not in hidden for each in rows["recording_id"].to_pylist()]
        parts.append(rows.filter(pa.array(shown, type=pa.bool_())))
    every = pa.concat_tables(parts)
    if table == "stages":
        whole = pc.is_null(every["part_of"])
        by_stage = [("part_of", "ascending"), ("stage", "ascending")]
        every = pa.concat_tables(every.filter(each).sort_by(by_stage) for each in (whole, pc.invert(whole)))
    named = pa.array([batch] * len(every), type=pa.string())
    return encode(table, every.set_column(0, SCHEMAS[table].field("batch"), named))


def encode(table: str, rows: pa.Table) -> bytes:
    """The rows of one table as a file; words are stored once a row group, and so are numbers that repeat."""
    columns = TABLES[table]
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        compression={each.name: "snappy" if each.name in _OFTEN_READ else "zstd" for each in columns},
        use_dictionary=[
            each.name for each in columns if each.type is not Type.INTEGER or each.name in _REPEATED
        ],
        row_group_size=_ROW_GROUP_ROWS,
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content

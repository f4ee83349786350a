# SPDX-License-Identifier: GPL-2.0-or-later
"""Datasets of the examples, what is in them as pandas reads it, and what DuckDB answers."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from balloontrace.analysis.make_report import analyse
from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.dataset import Dataset, commit_batch, name_batch, read_dataset
from balloontrace.archive.parquet_files import to_parquet
from balloontrace.archive.rows import Origin, describe
from balloontrace.archive.schema import TABLES
from balloontrace.archive.storage import open_storage
from balloontrace.fleet.ask import answer
from balloontrace.fleet.question import Options
from balloontrace.fleet.questions import questions
from balloontrace.format.recording import read_recording
from balloontrace.results.fleet_answer import Answer
from balloontrace.results.host_memory import Freed, Reason, Verdict
from balloontrace.results.operation import STALLED
from bench.fleet_recordings import KERNELS, write_fleet

DAYS, HOSTS = 10, 4
MANY = Options(limit=1000)
SIDES = Options(before=KERNELS[0], after="6.12.107*")
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def dataset_of(folder: Path) -> Dataset:
    return read_dataset(open_storage(str(folder)))


def table_of(folder: Path, table: str) -> pd.DataFrame:
    """The visible rows of a table, read without the engine that fleet uses; integers stay integers."""
    dataset = dataset_of(folder)
    frames = [
        pq.read_table(path, partitioning=None).to_pandas(integer_object_nulls=True)
        for path in dataset.files_of(table)
    ]
    rows = pd.concat(frames, ignore_index=True)
    hidden = set(dataset.hidden)
    shown = [key not in hidden for key in zip(rows["batch"], rows["recording_id"], strict=True)]
    visible: pd.DataFrame = rows[pd.Series(shown, dtype=bool)]
    return visible


def plain_rows(folder: Path, table: str) -> list[str]:
    """The visible rows of a table as text and in order, whatever batches they came in."""
    dataset = dataset_of(folder)
    files = [pq.read_table(path, partitioning=None) for path in dataset.files_of(table)]
    hidden = set(dataset.hidden)
    return sorted(
        repr({**row, "batch": ""})
        for file in files
        for row in file.to_pylist()
        if (row["batch"], row["recording_id"]) not in hidden
    )


def assert_same_rows(folder: Path, expected: Path) -> None:
    """Two datasets hold the same, whatever batches it came in."""
    for table in TABLES:
        assert plain_rows(folder, table) == plain_rows(expected, table)


def add_unusual(folder: Path) -> None:
    """What no example has: a stall, memory that did not become free, events lost."""
    guest, host = (
        read_recording(EXAMPLES / "before" / f"before-001-{side}.bt") for side in ("guest", "host")
    )
    report = analyse(guest, host)
    first, second = report.operations
    freed = Freed(Verdict.NOTHING, 256, 0, Reason.SHARED, "shared file", 1 << 28, 0, 1 << 20)
    stalled = replace(first, outcome=STALLED, actual_after_pages=1000, freed=freed, run_delay_ns=17_000_000)
    unknown = replace(second, freed=replace(freed, verdict=Verdict.UNKNOWN, reason=None, least_bytes=None))
    losses = tuple(replace(loss, lost=3) for loss in report.losses)
    changed = replace(report, operations=(stalled, unknown), losses=losses)
    of_host = analyse(host)
    assert of_host.host is not None
    calls = tuple(replace(each, freed_nothing=12, freed_bytes=1 << 20) for each in of_host.host.calls)
    alone = replace(of_host, host=replace(of_host.host, calls=calls))
    entries = [describe(each, Origin(name)) for name, each in (("unusual", changed), ("unusual host", alone))]
    for entry in entries:
        batch = name_batch(entry.day, entry.host, {entry.recording_id: entry.rank})
        files = {table: to_parquet(table, batch.name, entry.rows[table]) for table in TABLES}
        commit_batch(open_storage(str(folder)), batch, files)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a dataset by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_varied(folder: Path) -> Path:
    """200 recordings of 4 hosts, and what the examples have not: stalls, what was freed, losses."""
    write_fleet(folder / "recordings", 200, HOSTS, DAYS)
    cases = EXAMPLES.parent / "tests" / "data" / "cases"
    for name in ("m2-shared-dontneed-counted.bt", "n2-guest.bt", "n2-host.bt", "e1-deflate-on-oom.bt"):
        shutil.copy(cases / name, folder / "recordings")
    assert not archive([folder / "recordings"], open_storage(str(folder / "data")), keep_damaged=True).refused
    add_unusual(folder / "data")
    return folder / "data"


rows_of = cache(table_of)  # which no test changes


def ask(data: Path, name: str, options: Options = MANY) -> list[dict[str, Any]]:
    found = answer(dataset_of(data), name, questions()[name], options, "duckdb")
    return as_dicts(found)


def as_dicts(found: Answer) -> list[dict[str, Any]]:
    names = [column.name for column in found.columns]
    return [dict(zip(names, row, strict=True)) for row in found.rows]


def is_none(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def summed(rows: pd.DataFrame, column: str) -> int | None:
    """The sum of what was measured; None where nothing was."""
    known = [int(value) for value in rows[column] if not is_none(value)]
    return sum(known) if known else None


def groups(rows: pd.DataFrame, *keys: str) -> dict[tuple[Any, ...], pd.DataFrame]:
    found = rows.groupby(list(keys), dropna=False, sort=False)
    return {tuple(None if is_none(each) else each for each in key): group for key, group in found}

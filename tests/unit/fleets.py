# SPDX-License-Identifier: GPL-2.0-or-later
"""Datasets of the examples, and what is in them as pandas reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from balloontrace.analysis.make_report import analyse
from balloontrace.archive.dataset import Dataset, commit_batch, name_batch, read_dataset
from balloontrace.archive.parquet_files import to_parquet
from balloontrace.archive.rows import Origin, describe
from balloontrace.archive.schema import TABLES
from balloontrace.archive.storage import open_storage
from balloontrace.format.recording import read_recording
from balloontrace.results.host_memory import Freed, Reason, Verdict
from balloontrace.results.operation import STALLED

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
    visible: pd.DataFrame = rows[
        [key not in hidden for key in zip(rows["batch"], rows["recording_id"], strict=True)]
    ]
    return visible


def assert_same_rows(folder: Path, expected: Path) -> None:
    """Two datasets hold the same, whatever batches it came in."""
    for table in TABLES:
        rows = [table_of(each, table).drop(columns="batch").astype(str) for each in (folder, expected)]
        found, wanted = (each.sort_values([*each.columns]).reset_index(drop=True) for each in rows)
        pd.testing.assert_frame_equal(found, wanted)


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

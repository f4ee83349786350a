# SPDX-License-Identifier: GPL-2.0-or-later
"""Datasets of the examples, and what is in them as pandas reads it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from balloontrace.archive.dataset import Dataset, read_dataset
from balloontrace.archive.schema import TABLES
from balloontrace.archive.storage import open_storage

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


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a dataset by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

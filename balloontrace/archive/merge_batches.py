# SPDX-License-Identifier: GPL-2.0-or-later
"""Many small batches of a day and host into one, so that a question opens fewer files.

The merged batch is committed before those in it are removed. Whoever reads meanwhile, or after this was
killed, finds a recording in several batches, and counts it once as always. So this needs no lock either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from balloontrace.archive.claims import remove_spent
from balloontrace.archive.dataset import (
    Batch,
    Dataset,
    commit_batch,
    explain_broken,
    merged_batch,
    read_dataset,
    remove_batch,
)
from balloontrace.archive.parquet_files import merge_files, read_rows
from balloontrace.archive.schema import SCHEMA_VERSION, TABLES
from balloontrace.archive.storage import Storage
from balloontrace.errors import BalloontraceError


def merge(storage: Storage) -> tuple[int, int]:
    """Merge what has several batches. How many batches there were, and are.

    BalloontraceError where that cannot be written; what was merged until then stays merged.
    """
    dataset = read_dataset(storage)
    folders: dict[str, list[Batch]] = defaultdict(list)
    for batch in dataset.batches:
        folders[batch.folder].append(batch)
    hidden = frozenset(dataset.hidden)
    left = sum(_merge_folder(dataset, hidden, batches) for batches in folders.values())
    remove_spent(storage, dataset.contents)
    return len(dataset.batches), left


def _merge_folder(dataset: Dataset, hidden: Collection[tuple[str, str]], batches: Sequence[Batch]) -> int:
    """How many batches are left: one, or none where others stand for all their recordings.

    What a newer version wrote may have columns that are not known here, and is left alone.
    """
    if any(batch.minor > SCHEMA_VERSION[1] for batch in batches):
        return len(batches)
    ranks = {
        recording: rank
        for batch in batches
        for recording, rank in batch.ranks.items()
        if (batch.name, recording) not in hidden
    }
    merged = merged_batch(batches, ranks)
    if [merged.name] == [batch.name for batch in batches]:
        return 1
    if ranks:
        _write(dataset, merged, batches, hidden)
    for batch in batches:
        if batch.name != merged.name:
            remove_batch(dataset.storage, batch)
    return int(bool(ranks))


def _write(
    dataset: Dataset, merged: Batch, batches: Sequence[Batch], hidden: Collection[tuple[str, str]]
) -> None:
    files = {}
    for table in TABLES:
        found = {}
        for batch in batches:
            try:
                found[batch.name] = read_rows(table, dataset.storage.get(batch.file_of(table)))
            except BalloontraceError as error:
                raise BalloontraceError(f"{explain_broken(dataset, batch.name)}: {error}") from error
        files[table] = merge_files(table, merged.name, found, hidden)
    commit_batch(dataset.storage, merged, files)

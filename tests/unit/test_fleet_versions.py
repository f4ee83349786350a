# SPDX-License-Identifier: GPL-2.0-or-later
"""Batches of other minor versions in one dataset: columns that are not known are null, and none is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_tree import run
from fleets import EXAMPLES, contents, dataset_of

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.dataset import Batch
from balloontrace.archive.rows import best_rank
from balloontrace.archive.schema import LEVEL_BITS
from balloontrace.archive.storage import open_storage
from balloontrace.fleet.questions import questions

Capsys = pytest.CaptureFixture[str]


def make_old(folder: Path, batch: Batch) -> None:
    """As 1.0 had it: without `whole`, and with ranks that are levels."""
    path, commit = folder / batch.file_of("operations"), folder / batch.commit
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns("whole"), path)
    told = json.loads(commit.read_text())
    ranks = {recording: rank >> LEVEL_BITS for recording, rank in told["recordings"].items()}
    commit.write_text(json.dumps({"schema": [1, 0], "host": told["host"], "recordings": ranks}))


def make_new(folder: Path, batch: Batch) -> None:
    """As 1.9 may have it: with a column more."""
    path, commit = folder / batch.file_of("operations"), folder / batch.commit
    rows = pq.read_table(path, partitioning=None)
    pq.write_table(rows.append_column("later", pa.array([7] * len(rows), type=pa.int64())), path)
    told = json.loads(commit.read_text())
    commit.write_text(json.dumps({**told, "schema": [1, 9]}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    for name in ("before-001", "before-002", "before-003"):
        archive(
            [EXAMPLES / "before" / f"{name}-{side}.bt" for side in ("guest", "host")], open_storage(str(data))
        )
    return data


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param((0,), (), marks=pytest.mark.thorough),
        pytest.param((0, 1, 2), (), marks=pytest.mark.thorough),
        pytest.param((), (2,), marks=pytest.mark.thorough),
        ((1,), (0,)),
        ((0, 1, 2), (2,)),
    ],
)
def test_other_versions_are_read_beside_this_one(
    old: tuple[int, ...], new: tuple[int, ...], folder: Path, capsys: Capsys
) -> None:
    batches, ranks = dataset_of(folder).batches, dataset_of(folder).ranks
    for number in set(old) - set(new):
        make_old(folder, batches[number])
    for number in new:
        make_new(folder, batches[number])
    assert dataset_of(folder).ranks == ranks
    for name, question in questions().items():
        if not question.sides:
            assert run(capsys, "fleet", folder, name).status == 0, name
    query = "SELECT count(*) AS n, count(whole) AS known, sum(bytes) AS bytes FROM operations"
    (row,) = json.loads(run(capsys, "fleet", folder, "--sql", query, "--format", "json").stdout)["rows"]
    assert row == {"n": 6, "known": 6 - 2 * len(set(old) - set(new)), "bytes": 6 << 28}
    # What a newer one wrote stays as it is.
    before = (
        {name: content for name, content in contents(folder).items() if batches[new[0]].name in name}
        if new
        else {}
    )
    assert run(capsys, "archive", "--merge", "--to", folder).status == 0
    assert before.items() <= contents(folder).items()
    assert len(dataset_of(folder).batches) == (3 if new else 1)
    (after,) = json.loads(run(capsys, "fleet", folder, "--sql", query, "--format", "json").stdout)["rows"]
    assert after == row
    assert min(ranks.values()) >= best_rank(is_pair=False)

# SPDX-License-Identifier: GPL-2.0-or-later
"""A dataset: batches of Parquet files, and a commit for each, which is what makes a batch visible.

    DATASET/operations/day=2026-11-29/host=alpha/BATCH.parquet      so for each table
    DATASET/commits/day=2026-11-29/host=alpha/BATCH.json            written last

A batch holds recordings of one day and host. Its name is made of what is in it, so that two writers of the
same recordings write the same files. Where two batches hold the same recording, the one that knows more of it
counts, or the first by folder and name: readers agree on that without asking anybody. So there is no lock,
and nothing is ever changed. Recordings of one id and other contents are kept apart by `claims`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from urllib.parse import quote, unquote

from balloontrace.archive.schema import LEVEL_BITS, SCHEMA_VERSION, TABLES
from balloontrace.archive.storage import Storage
from balloontrace.errors import BalloontraceError
from balloontrace.untrusted import printable

_COMMITS = "commits"
# Hive's word for a partition whose value is null: DuckDB, Spark and Arrow know it.
_NULL = "__HIVE_DEFAULT_PARTITION__"
_LONGEST_HOST = 64  # of Linux (HOST_NAME_MAX)


@dataclass(frozen=True, slots=True)
class Batch:
    """Recordings that were committed together, with what is known of each; `folder` tells day and host.

    `contents` tells recordings of the same id apart: hashes of whole ones, where they are known. Files
    have the columns of the `minor` version of the schema.
    """

    name: str
    folder: str
    ranks: Mapping[str, int]
    contents: Mapping[str, str] = field(default_factory=dict)
    minor: int = SCHEMA_VERSION[1]

    def file_of(self, table: str) -> str:
        """The file that has this batch's rows of a table."""
        return f"{table}/{self.folder}/{self.name}.parquet"

    @property
    def commit(self) -> str:
        """The file whose being there makes it visible."""
        return f"{_COMMITS}/{self.folder}/{self.name}.json"


def _day_of(folder: str) -> date | None:
    """The day in a folder's name; None where it is not known."""
    try:
        return date.fromisoformat(folder.removeprefix("day="))
    except ValueError:
        return None


def name_batch(
    day: date | None, host: str | None, ranks: Mapping[str, int], contents: Mapping[str, str] | None = None
) -> Batch:
    """The batch of these recordings."""
    return _batch_in(f"day={day or _NULL}/host={_quoted(host)}", ranks, contents or {})


def merged_batch(batches: Sequence[Batch], ranks: Mapping[str, int]) -> Batch:
    """The batch of these recordings, all of which are in some batches of one day and host."""
    contents = {
        recording: content
        for batch in batches
        for recording, content in batch.contents.items()
        if ranks.get(recording) == batch.ranks[recording]
    }
    return _batch_in(batches[0].folder, ranks, contents)


def _batch_in(folder: str, ranks: Mapping[str, int], contents: Mapping[str, str]) -> Batch:
    version = ".".join(map(str, SCHEMA_VERSION))
    inside = json.dumps([version, folder, sorted(ranks.items()), sorted(contents.items())])
    return Batch(hashlib.sha256(inside.encode()).hexdigest()[:32], folder, dict(ranks), dict(contents))


def _quoted(host: str | None) -> str:
    """A host's name as part of a path, whatever a stranger called it."""
    if host is None:
        return _NULL
    quoted = quote(host, safe="")
    return quoted if len(quoted) <= _LONGEST_HOST else f"~{hashlib.sha256(host.encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class Dataset:
    """All batches that are committed."""

    storage: Storage
    batches: tuple[Batch, ...]

    @cached_property
    def ranks(self) -> dict[str, int]:
        """The most that is known of each recording."""
        best: dict[str, int] = {}
        for batch in self.batches:
            for recording, rank in batch.ranks.items():
                best[recording] = max(rank, best.get(recording, rank))
        return best

    @cached_property
    def contents(self) -> dict[str, str]:
        """Hashes of those recordings that are whole, where they are known."""
        return {key: content for batch in self.batches for key, content in batch.contents.items()}

    @cached_property
    def hidden(self) -> tuple[tuple[str, str], ...]:
        """Batches and recordings in them that another batch stands for."""
        best: dict[str, Batch] = {}
        for batch in self.batches:
            for recording, rank in batch.ranks.items():
                known = best.get(recording)
                if known is None or _precedence(batch, rank) < _precedence(known, known.ranks[recording]):
                    best[recording] = batch
        return tuple(
            (batch.name, recording)
            for batch in self.batches
            for recording in batch.ranks
            if best[recording] is not batch
        )

    @cached_property
    def is_mixed(self) -> bool:
        """Whether files of the same table may have different columns."""
        return len({batch.minor for batch in self.batches}) > 1

    def files_of(self, table: str) -> list[str]:
        """Where the rows of a table are: a path or a URL a batch, but for those with nothing that counts."""
        hidden = frozenset(self.hidden)
        return [
            self.storage.locate(batch.file_of(table))
            for batch in self.batches
            if not all((batch.name, recording) in hidden for recording in batch.ranks)
        ]


def _precedence(batch: Batch, rank: int) -> tuple[int, str, str]:
    """Which of two batches counts, the lower one.

    The folder comes before the name, which merging changes: else two that merge at once could each drop what
    the other one has dropped.
    """
    return -rank, batch.folder, batch.name


def explain_broken(dataset: Dataset, words: str) -> str | None:
    """What to do about a file that an error names, by the words of the error; None where it names none."""
    for batch in dataset.batches:
        if batch.name in words:
            url, commit = printable(dataset.storage.url), printable(batch.commit)
            return (
                f"a file of {url} is damaged or gone; if asking again does not help, remove {commit} there "
                "and archive its recordings again"
            )
    return None


def _is_between(day: date | None, since: date | None, until: date | None) -> bool:
    return day is not None and (since is None or since <= day) and (until is None or day <= until)


def read_dataset(storage: Storage, since: date | None = None, until: date | None = None) -> Dataset:
    """What is committed, which may be nothing; only what began from one day on, or up to another.

    What does not know its day is left out then. BalloontraceError for a dataset of another version.
    """
    names = storage.find(_COMMITS, ".json")
    if since is not None or until is not None:
        names = [name for name in names if _is_between(_day_of(name.split("/")[1]), since, until)]
    return Dataset(storage, tuple(_read_commits(storage, names)))


def read_newer(dataset: Dataset) -> Dataset:
    """What was committed since a dataset was read. Errors as `read_dataset`."""
    known = {batch.commit for batch in dataset.batches}
    names = [name for name in dataset.storage.find(_COMMITS, ".json") if name not in known]
    return Dataset(dataset.storage, tuple(_read_commits(dataset.storage, names)))


def _read_commits(storage: Storage, names: Sequence[str]) -> Iterator[Batch]:
    # One that was merged since they were listed is gone.
    for name, content in storage.get_all(names).items():
        folder, _, file = name.removeprefix(f"{_COMMITS}/").rpartition("/")
        try:
            commit = json.loads(content)
            major, minor = (int(commit["schema"][part]) for part in (0, 1))
            shift = LEVEL_BITS if minor == 0 else 0
            ranks = {str(key): int(rank) << shift for key, rank in commit["recordings"].items()}
            contents = {str(key): str(content) for key, content in commit.get("contents", {}).items()}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise BalloontraceError(
                f"{printable(name)} of {printable(storage.url)} is no commit of a dataset; remove it, and "
                "archive its recordings again"
            ) from error
        if major != SCHEMA_VERSION[0]:
            raise BalloontraceError(
                f"{printable(storage.url)} has schema {major}, this version reads {SCHEMA_VERSION[0]}; "
                "use the balloontrace that wrote it"
            )
        yield Batch(file.removesuffix(".json"), folder, ranks, contents, minor)


def commit_batch(storage: Storage, batch: Batch, files: Mapping[str, bytes]) -> None:
    """Write a batch's file of each table, and then its commit. Errors as `Storage.put`."""
    assert set(files) == set(TABLES)
    for table, content in files.items():
        storage.put(batch.file_of(table), content)
    commit = {
        "schema": list(SCHEMA_VERSION),
        "host": _host_of(batch),
        "recordings": dict(batch.ranks),
        "contents": dict(batch.contents),
    }
    storage.put(batch.commit, json.dumps(commit, indent=1).encode())


def remove_batch(storage: Storage, batch: Batch) -> None:
    """Remove a batch whose recordings are in another one, its commit first. Errors as `Storage.remove`."""
    storage.remove(batch.commit)
    for table in TABLES:
        storage.remove(batch.file_of(table))


def _host_of(batch: Batch) -> str | None:
    value = batch.folder.rpartition("/host=")[2]
    return None if value == _NULL else unquote(value)

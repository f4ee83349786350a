# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings into a dataset: each once, with what is known of it, whatever is killed or written meanwhile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from balloontrace.analysis.make_report import analyse
from balloontrace.analysis.metadata import mapping, parse_end, text
from balloontrace.archive.claims import claimed
from balloontrace.archive.dataset import Dataset, commit_batch, name_batch, read_dataset
from balloontrace.archive.find_pairs import Likely, find_awaited, find_hosts
from balloontrace.archive.look_at_recordings import Reader, Seen, find_paths, look_at
from balloontrace.archive.match_pieces import Match, match_run
from balloontrace.archive.parquet_files import to_parquet
from balloontrace.archive.rows import Entry, Origin, best_rank, describe
from balloontrace.archive.schema import TABLES
from balloontrace.archive.storage import Storage
from balloontrace.errors import BalloontraceError, RecordingError
from balloontrace.format.recording import Recording
from balloontrace.results.report import Report
from balloontrace.untrusted import printable

# So many recordings, or rows, are written at a time: more make fewer files, and take more memory.
_MOST_PENDING = 4096
_MOST_ROWS = 1_000_000
_NONE = Likely(())


@dataclass(slots=True)
class Archived:
    """What came of it: numbers of recordings, and a sentence for each that was refused."""

    written: int = 0
    known: int = 0
    matched: int = 0
    refused: list[str] = field(default_factory=list)
    taken: list[Path] = field(default_factory=list)  # files of which the dataset has all now
    unended: set[Path] = field(default_factory=set)  # those of them that may still be written to
    awaited: set[Path] = field(default_factory=set)  # those whose counterparts may still come


def archive(
    given: Sequence[Path], storage: Storage, *, host: str | None = None, keep_damaged: bool = False
) -> Archived:
    """Bring recordings, and all below folders, into a dataset; those that it has are left alone.

    `host` is where guests ran whose host was not recorded. A damaged recording is refused, and the others are
    archived. UsageError for a path that is not there; BalloontraceError where the dataset cannot be written:
    what was committed stays, and the rest can be archived later.
    """
    dataset = read_dataset(storage)
    archiving = _Archiving(dataset, host, Reader(keep_damaged=keep_damaged))
    result = archiving.result
    looked = look_at(find_paths(given), archiving.refuse, keep_damaged=keep_damaged)
    seen = list(looked.seen.values())
    pending = _Pending(dataset)
    for entry in archiving.describe_all(seen):
        pending.add(entry)
    pending.flush()
    result.written, result.matched = pending.written, pending.matched
    for recording, other in pending.left_out.items():
        archiving.refuse_another(looked.seen[recording], other)
    taken = dict.fromkeys((*looked.spare, *(each.path for each in seen)))
    result.taken = [path for path in taken if looked.stands_for(path) not in archiving.left]
    result.unended = {each.path for each in seen if not each.has_ended}
    result.awaited = find_awaited(seen)
    return result


class _Archiving:
    """One run of `archive`: what the dataset had before, and what becomes of each recording."""

    def __init__(self, dataset: Dataset, host: str | None, reader: Reader) -> None:
        self.result = Archived()
        self.left: set[Path] = set()
        self._dataset, self._host, self._reader = dataset, host, reader

    def refuse(self, path: Path, error: BalloontraceError) -> None:
        """Leave a file out, and say why."""
        self.left.add(path)
        self.result.refused.append(str(error))

    def describe_all(self, seen: Sequence[Seen]) -> Iterator[Entry]:
        """The entries of all recordings of which the dataset knows less, or nothing."""
        hosts_of = find_hosts(seen)
        for each in seen:
            likely = _NONE if each.of_host else hosts_of(each)
            if self._is_another(each):
                continue
            known = self._dataset.ranks.get(each.recording_id, -1)
            if known >= best_rank(is_pair=bool(likely.of_recorders)):
                self.result.known += 1
                continue
            try:
                entry = self._describe_one(each, likely)
            except BalloontraceError as error:
                self.refuse(each.path, error)
                continue
            if entry.rank > known:
                yield entry
            else:
                self.result.known += 1

    def _is_another(self, seen: Seen) -> bool:
        """Refuse a recording whose id is that of another one, as a clone of a VM may make it."""
        known = self._dataset.contents.get(seen.recording_id)
        if None in (known, seen.content) or known == seen.content:
            return False
        self.refuse_another(seen, f"a recording in {printable(self._dataset.storage.url)}")
        return True

    def refuse_another(self, seen: Seen, other: str) -> None:
        """Leave a recording out, for `other` has its id."""
        why = "an id stands for one recording, so it was left out"
        path = printable(str(seen.path))
        self.refuse(seen.path, RecordingError(f"{path} has the id of {other} and other contents: {why}"))

    def _describe_one(self, seen: Seen, likely: Likely) -> Entry:
        """A recording with the host's that it matches, or alone."""
        recording = self._reader.read(seen)
        origin = Origin(
            seen.recording_id,
            _ended_ns(recording),
            self._host,
            content=seen.content,
            is_piece=seen.is_piece,
        )
        if match := self._find_match(seen, recording, likely):
            first = match.run[0]
            vm = _vm_of(self._reader.read(first))
            return describe(
                match.report,
                replace(origin, host_recording_id=first.recording_id, vm=vm, host_is_all=match.is_whole),
            )
        report = _analyse(recording)
        if seen.part:  # the recorder of many VMs took what it took once
            report = replace(report, own_cost=None)
        return describe(report, replace(origin, vm=_vm_of(recording)))

    def _find_match(self, seen: Seen, guest: Recording, likely: Likely) -> Match | None:
        """The host's recording that a guest's matches; where several VMs' do, none is proved."""
        found: list[Match] = []
        for of_vms in likely.of_recorders:
            matches = [match for run in of_vms if (match := match_run(seen, guest, run, self._reader))]
            if likely.are_named and len(matches) == 1:
                return matches[0]
            found += [] if likely.are_named else matches
        # One VM may be recorded twice, or with a piece missing in between.
        of_one = len({match.run[0].process for match in found}) == 1
        return max(found, key=lambda match: match.pairs) if of_one else None


def _vm_of(host: Recording) -> str | None:
    """What a host's recording calls its VM."""
    return text(mapping(host.metadata, "process"), "vm")


def _analyse(recording: Recording) -> Report:
    try:
        return analyse(recording)
    except RecordingError as error:
        raise RecordingError(f"{recording.label}: {error}") from error


def _ended_ns(recording: Recording) -> int | None:
    end = parse_end(recording.end)
    return end.ended_monotonic_ns if end else None


class _Pending:
    """Entries not yet written, by day and host; what was written, and what could not be, with its reason."""

    def __init__(self, dataset: Dataset) -> None:
        """`dataset` is what was there when the first of them was chosen."""
        self._dataset = dataset
        self.written = self.matched = 0
        self.left_out: dict[str, str] = {}
        self._entries: dict[tuple[date | None, str | None], list[Entry]] = defaultdict(list)
        self._recordings = self._rows = 0

    def add(self, entry: Entry) -> None:
        """Keep an entry, and write all where they are many."""
        self._entries[entry.day, entry.host].append(entry)
        self._recordings += 1
        self._rows += sum(map(len, entry.rows.values()))
        if self._recordings >= _MOST_PENDING or self._rows >= _MOST_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write and commit all, a batch for each day and host, but for what others commit with their ids."""
        found = [entry for entries in self._entries.values() for entry in entries]
        contents = {entry.recording_id: entry.content for entry in found if entry.content}
        with claimed(self._dataset, contents) as left_out:
            for (day, host), entries in self._entries.items():
                self._commit(day, host, [each for each in entries if each.recording_id not in left_out])
        self.left_out |= left_out
        self._entries.clear()
        self._recordings = self._rows = 0

    def _commit(self, day: date | None, host: str | None, found: Sequence[Entry]) -> None:
        if found:
            # In an order of their own: others who archive the same write the same bytes.
            entries = sorted(found, key=lambda each: each.recording_id)
            ranks = {entry.recording_id: entry.rank for entry in entries}
            contents = {entry.recording_id: entry.content for entry in entries if entry.content}
            batch = name_batch(day, host, ranks, contents)
            files = {
                table: to_parquet(table, batch.name, (row for entry in entries for row in entry.rows[table]))
                for table in TABLES
            }
            commit_batch(self._dataset.storage, batch, files)
            self.written += len(entries)
            self.matched += sum(entry.is_of_both for entry in entries)

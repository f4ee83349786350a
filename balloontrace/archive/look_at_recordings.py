# SPDX-License-Identifier: GPL-2.0-or-later
"""Which recordings there are to archive: each is looked at alone, and only what a choice needs is kept.

So thousands take no memory. One of many VMs is a recording of each of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from balloontrace.analysis.join_pieces import join_pieces
from balloontrace.analysis.metadata import Json, integer, is_of_host, mapping, parse_header
from balloontrace.analysis.processes import split_processes
from balloontrace.compare.inputs import SUFFIX, bare_name, window_of
from balloontrace.errors import BalloontraceError, RecordingError, UsageError
from balloontrace.format.recording import Recording, read_recording
from balloontrace.results.recording_header import Header
from balloontrace.untrusted import printable

_CUTS = "--archive-every"  # what makes pieces
_MOST_KEPT = 4  # a guest's piece, and of its host those around it

Moment = tuple[str | None, int, int]
"""A boot, and both clocks: where one piece ends in the very moment another begins, that one follows."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a choice needs to know of a recording; `window` are first and last moment by the wall clock.

    `part` is its place among the VMs of its file; `process` is a boot, and the process recorded in it. A
    piece `began` and `ended` with its file; None where it is no piece, or does not say. `content` is a hash
    of its file, if that is whole.
    """

    path: Path
    part: int
    recording_id: str
    of_host: bool
    has_ended: bool
    window: tuple[int, int] | None
    pair: str | None
    bare_name: str
    is_piece: bool = False
    process: tuple[str, int | None] = ("", None)
    began: Moment | None = None
    ended: Moment | None = None
    content: str | None = None


def find_paths(given: Sequence[Path]) -> list[Path]:
    """The files that are given, and all recordings below the folders. UsageError for what is not there."""
    found: list[Path] = []
    for path in given:
        try:
            if path.is_dir():
                below = sorted(each for each in path.rglob(f"*{SUFFIX}") if each.is_file())
                if not below:
                    raise UsageError(
                        f"below {printable(str(path))} is no recording (no file named *{SUFFIX})"
                    )
                found += below
            elif path.exists():
                found.append(path)
            else:
                raise UsageError(f"{printable(str(path))} is not there")
        except OSError as error:
            raise UsageError(f"cannot read {printable(str(path))}: {error.strerror}") from error
    return list(dict.fromkeys(found))


Refuse = Callable[[Path, BalloontraceError], None]
"""Is told of a file that cannot be archived, and why."""


@dataclass(slots=True)
class Looked:
    """What was found: all that can be archived, each once; `spare` files, and what stands for each of them.

    A file is spare that holds nothing, of a host where no VM ran (None); or a copy, whole or torn off.
    """

    seen: dict[str, Seen] = field(default_factory=dict)
    spare: dict[Path, Path | None] = field(default_factory=dict)

    def stands_for(self, path: Path) -> Path:
        """The file that is taken where this one is given."""
        while (other := self.spare.get(path)) is not None:
            path = other
        return path


def look_at(paths: Sequence[Path], refuse: Refuse, *, keep_damaged: bool) -> Looked:
    """Look at files. Of two with one id the longer is taken; the other is refused if it is no part of it."""
    looked = Looked()
    reader = Reader(keep_damaged=keep_damaged)
    for path in paths:
        try:
            found = [_see(path, part, recording, reader) for part, recording in enumerate(reader.parts(path))]
        except BalloontraceError as error:
            refuse(path, error)
            continue
        if not found:
            looked.spare[path] = None
        others = {other.path for each in found if (other := looked.seen.get(each.recording_id))}
        try:
            is_spare = [_is_spare(path, other, refuse, looked) for other in sorted(others)]
        except OSError as error:
            refuse(path, UsageError(f"cannot read {printable(str(path))}: {error.strerror}"))
            continue
        if not any(is_spare):
            looked.seen.update((each.recording_id, each) for each in found)
    return looked


def _is_spare(path: Path, other: Path, refuse: Refuse, looked: Looked) -> bool:
    """Whether another file of the same recording is taken rather than this one. Raises OSError."""
    is_spare = path.stat().st_size <= other.stat().st_size
    less, more = (path, other) if is_spare else (other, path)
    if not more.read_bytes().startswith(less.read_bytes()):
        words = f"{printable(str(less))} has the id of {printable(str(more))} and other contents"
        refuse(less, RecordingError(f"{words}: a recording is archived once, so only the other one was"))
    else:
        looked.spare[less] = more
    for each in [each for each in looked.seen.values() if each.path == less]:
        del looked.seen[each.recording_id]
    return is_spare


class Reader:
    """Reads recordings, and keeps the last few: the VMs of a file are asked for one after the other."""

    def __init__(self, *, keep_damaged: bool) -> None:
        self._keep_damaged = keep_damaged
        self._kept: dict[Path, tuple[Recording, tuple[Recording, ...]]] = {}
        self._content: tuple[Path, str] | None = None

    def read(self, seen: Seen) -> Recording:
        """One that was seen; errors as `parts`."""
        return self.parts(seen.path)[seen.part]

    def read_run(self, run: Sequence[Seen]) -> Recording:
        """What a recorder has of a VM, as one recording; errors as `parts`."""
        return join_pieces([self.read(each) for each in run])

    def whole(self, path: Path) -> Recording:
        """A file, with all of its VMs; errors as `parts`."""
        self.parts(path)
        return self._kept[path][0]

    def content(self, path: Path) -> str:
        """A hash of what is in a file. UsageError where it cannot be read."""
        if self._content is None or self._content[0] != path:
            try:
                self._content = path, hashlib.sha256(path.read_bytes()).hexdigest()[:32]
            except OSError as error:
                raise UsageError(f"cannot read {printable(str(path))}: {error.strerror}") from error
        return self._content[1]

    def parts(self, path: Path) -> tuple[Recording, ...]:
        """The recording of each VM of a file, or the one there is.

        RecordingError if it is damaged, unless that is allowed; errors as `read_recording`.
        """
        if path not in self._kept:
            recording = read_recording(path)
            if recording.damage and not self._keep_damaged:
                raise RecordingError(f"{recording.label} is damaged: {recording.damage[0]}")
            while len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[path] = recording, split_processes(recording)
        return self._kept[path][1]


def _see(path: Path, part: int, recording: Recording, reader: Reader) -> Seen:
    header, content = parse_header(recording), reader.content(path)
    whole = reader.whole(path)
    is_piece = any(word.split("=")[0] == _CUTS for word in header.command_line)
    return Seen(
        path,
        part,
        header.recording_id or f"sha256-{content}{f'-{part}' if part else ''}",
        is_of_host(recording),
        recording.end is not None,
        window_of(recording),
        header.pair,
        bare_name(recording),
        is_piece,
        (header.machine.boot_id or str(path), integer(mapping(recording.metadata, "process"), "pid")),
        _moment(header, whole.metadata, "started") if is_piece else None,
        _moment(header, whole.end or {}, "ended") if is_piece else None,
        content if whole.complete else None,
    )


def _moment(header: Header, table: Json, key: str) -> Moment | None:
    clocks = mapping(table, key)
    monotonic_ns, realtime_ns = integer(clocks, "monotonic_ns"), integer(clocks, "realtime_ns")
    return (
        None
        if monotonic_ns is None or realtime_ns is None
        else (header.machine.boot_id, monotonic_ns, realtime_ns)
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which recordings there are to archive, and which of a host may belong to which of a guest.

Each is looked at alone, and only what a choice needs is kept, so that thousands take no memory. That two
recordings do belong together, matching proves later. One of many VMs is a recording of each of them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from balloontrace.analysis.metadata import is_of_host, parse_header
from balloontrace.analysis.processes import split_processes
from balloontrace.compare.inputs import SUFFIX, bare_name, window_of
from balloontrace.errors import BalloontraceError, RecordingError, UsageError
from balloontrace.format.recording import Recording, read_recording
from balloontrace.untrusted import printable


@dataclass(frozen=True, slots=True)
class Seen:
    """What a choice needs to know of a recording; `window` are first and last moment by the wall clock.

    `part` is its place among the VMs of its file.
    """

    path: Path
    part: int
    recording_id: str
    of_host: bool
    has_ended: bool
    window: tuple[int, int] | None
    pair: str | None
    bare_name: str


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


def look_at(paths: Sequence[Path], refuse: Refuse, *, keep_damaged: bool) -> tuple[list[Seen], list[Path]]:
    """All that can be archived, each once; and files that hold nothing, of hosts where no VM ran."""
    seen: dict[str, Seen] = {}
    empty: list[Path] = []
    reader = Reader(keep_damaged=keep_damaged)
    for path in paths:
        try:
            found = [_see(path, *each) for each in enumerate(reader.parts(path))]
        except BalloontraceError as error:
            refuse(path, error)
            continue
        for each in found:
            seen.setdefault(each.recording_id, each)
        if not found:
            empty.append(path)
    return list(seen.values()), empty


class Reader:
    """Reads recordings, and keeps the last one: the VMs of a file are asked for one after the other."""

    def __init__(self, *, keep_damaged: bool) -> None:
        self._keep_damaged = keep_damaged
        self._path: Path | None = None
        self._parts: tuple[Recording, ...] = ()

    def read(self, seen: Seen) -> Recording:
        """One that was seen; errors as `parts`."""
        return self.parts(seen.path)[seen.part]

    def parts(self, path: Path) -> tuple[Recording, ...]:
        """The recording of each VM of a file, or the one there is.

        RecordingError if it is damaged, unless that is allowed; errors as `read_recording`.
        """
        if path != self._path:
            self._path = None
            recording = read_recording(path)
            if recording.damage and not self._keep_damaged:
                raise RecordingError(f"{recording.label} is damaged: {recording.damage[0]}")
            self._path, self._parts = path, split_processes(recording)
        return self._parts


def _see(path: Path, part: int, recording: Recording) -> Seen:
    header = parse_header(recording)
    return Seen(
        path,
        part,
        header.recording_id or f"{_content_id(path)}{f'-{part}' if part else ''}",
        is_of_host(recording),
        recording.end is not None,
        window_of(recording),
        header.pair,
        bare_name(recording),
    )


def _content_id(path: Path) -> str:
    """For a recording that does not know who it is: what is in it."""
    try:
        return f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"
    except OSError as error:
        raise UsageError(f"cannot read {printable(str(path))}: {error.strerror}") from error


def find_hosts(seen: Sequence[Seen]) -> Callable[[Seen], Iterator[Seen]]:
    """A function that gives the hosts' recordings that may belong to a guest's, the likeliest first.

    Those of the same pair; else those of the same name beside it, but for the words guest and host; else
    those made at the same time.
    """
    hosts = [each for each in seen if each.of_host]
    pairs: dict[str, list[Seen]] = defaultdict(list)
    names: dict[tuple[Path, str], list[Seen]] = defaultdict(list)
    days: dict[int, list[Seen]] = defaultdict(list)
    for host in hosts:
        if host.pair is not None:
            pairs[host.pair].append(host)
        names[host.path.parent, host.bare_name].append(host)
        for day in _days(host.window):
            days[day].append(host)

    def candidates(guest: Seen) -> Iterator[Seen]:
        if guest.pair is not None and guest.pair in pairs:
            yield from pairs[guest.pair]
            return
        named = names.get((guest.path.parent, guest.bare_name))
        if named:
            yield from named
            return
        near = {host.recording_id: host for day in _days(guest.window) for host in days[day]}
        yield from (host for host in near.values() if _overlap(guest.window, host.window))

    return candidates


_DAY_NS = 86_400 * 10**9
_MOST_DAYS = 400  # a recording that says it is longer has a wrong clock


def _days(window: tuple[int, int] | None) -> range:
    """The days that a recording touches, by number."""
    if window is None:
        return range(0)
    first, last = window[0] // _DAY_NS, window[1] // _DAY_NS
    return range(first, min(last, first + _MOST_DAYS) + 1)


def _overlap(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person gives as one side of a comparison, read and analysed.

That is a recording; a guest's and its host's with a comma between them; or a folder with any number of `.bt`
files. In a folder a host's recording belongs to the guest's with the same name but for `guest` and `host`.
Without such a name it belongs to each guest's that it matches, if no other host's does, or no other one made
at the same time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from balloontrace.analysis.make_report import analyse
from balloontrace.analysis.metadata import is_of_host, parse_end, parse_header
from balloontrace.compare.recordings import Recordings
from balloontrace.errors import RecordingError, UsageError
from balloontrace.format.provenance import read_provenance
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import Side
from balloontrace.results.report import Report
from balloontrace.untrusted import printable

SUFFIX = ".bt"
STDIN = "-"

_SIDE_WORD = re.compile(r"(?:^|(?<=[-_.]))(?:guest|host)(?=$|[-_.])")
_SEPARATORS = "-_."

# Wall clocks of a guest and its host differ by less. Matching needs no clock, but takes its time.
_CLOCK_SLACK_NS = 3600 * 10**9


def read_side(given: str, stdin: BinaryIO, *, guest_only: bool = False) -> Recordings:
    """Read and analyse one side; `guest_only` ignores all recordings of hosts.

    UsageError when there is nothing of that name or it may not be read; RecordingError when a file is no
    recording or a host's recording belongs to no guest's, or to one of several.
    """
    paths = find_paths(given)
    recordings = [read_recording(stdin if given == STDIN else path) for path in paths]
    if len(paths) == 2 and not Path(given).is_dir():
        _refuse_one_side_twice(given, recordings)
    guests = [each for each in recordings if not is_of_host(each)]
    hosts = [] if guest_only else [each for each in recordings if is_of_host(each)]
    if not guests:
        raise RecordingError(
            f"{printable(given)} holds the host's side only, and the operations are in the guest's; "
            "give both as GUEST,HOST"
        )
    told = None if given == STDIN else read_provenance(Path(given))
    return Recordings(printable(given), tuple(_analyse_all(guests, hosts)), told)


def find_paths(given: str) -> list[Path]:
    """The files that one side is read from, `-` being standard input. Errors as `read_side`."""
    path = Path(given)
    if not given:  # as a path, the current folder
        raise UsageError("a name is empty: give a recording, a folder or a pair GUEST,HOST")
    try:
        if given != STDIN and path.is_dir():
            return _in_folder(path)
        is_name = given == STDIN or path.exists() or "," not in given
    except OSError as error:
        raise UsageError(f"cannot read {printable(given)}: {error.strerror}") from error
    return [path] if is_name else _in_pair(given)


def _in_pair(given: str) -> list[Path]:
    names = given.split(",")
    if len(names) != 2 or not all(names):
        raise UsageError(f"{printable(given)} is neither a file, a folder nor a pair GUEST,HOST")
    return [Path(name) for name in names]


def _in_folder(folder: Path) -> list[Path]:
    """All recordings that lie in a folder itself, by name."""
    paths = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and not path.is_dir())
    if not paths:
        raise RecordingError(
            f"the folder {printable(str(folder))} holds no recording (no file named *{SUFFIX})"
        )
    return paths


def _refuse_one_side_twice(given: str, recordings: Sequence[Recording]) -> None:
    hosts = [is_of_host(each) for each in recordings]
    if sum(hosts) != 1:
        side = Side.HOST if all(hosts) else Side.GUEST
        raise RecordingError(
            f"both recordings of {printable(given)} are of a {side}: give one of a guest and one of its host"
        )


def _analyse_all(guests: Sequence[Recording], hosts: Sequence[Recording]) -> Iterator[Report]:
    """Every guest's recording with its host's, if there are any."""
    used = set()
    for guest in guests:
        place, report = _with_host(guest, hosts, alone=len(guests) == len(hosts) == 1)
        used.add(place)
        yield report
    for index, host in enumerate(hosts):
        if index not in used:
            raise RecordingError(
                f"{host.label} belongs to no recording of a guest beside it; remove it, or give --guest-only"
            )


def _with_host(guest: Recording, hosts: Sequence[Recording], *, alone: bool) -> tuple[int | None, Report]:
    """A guest's recording analysed with the host's that belongs to it: that one's place in `hosts`."""
    namesakes = [index for index, host in enumerate(hosts) if alone or bare_name(host) == bare_name(guest)]
    if len(namesakes) == 1:
        return namesakes[0], _analyse_pair(guest, hosts[namesakes[0]])
    matched: list[tuple[int | None, Report]] = []
    for index, host in enumerate(hosts):
        if (not namesakes or index in namesakes) and _may_overlap(guest, host, _CLOCK_SLACK_NS):
            try:
                matched.append((index, analyse(guest, host)))
            except RecordingError:
                continue  # Of another run.
    if len(matched) > 1:
        # Runs that are much alike match each other too: then the time of day must tell.
        at_the_time = [
            each for each in matched if each[0] is not None and _may_overlap(guest, hosts[each[0]])
        ]
        matched = at_the_time if len(at_the_time) == 1 else matched
    if len(matched) > 1:
        raise RecordingError(
            f"{guest.label} matches several recordings of hosts; give the right one the guest's name, with "
            "host in place of guest"
        )
    return matched[0] if matched else (None, analyse(guest))


def _analyse_pair(guest: Recording, host: Recording) -> Report:
    try:
        return analyse(guest, host)
    except RecordingError as error:
        raise RecordingError(f"{guest.label} and {host.label}: {error}") from error


def bare_name(recording: Recording) -> str:
    """A recording's name without the word that tells its side: run-3-guest.bt and run-3-host.bt are alike."""
    return _SIDE_WORD.sub("", Path(recording.label).stem).strip(_SEPARATORS)


def _may_overlap(guest: Recording, host: Recording, slack_ns: int = 0) -> bool:
    """Whether both were recording at one time, as far as their wall clocks tell, give or take `slack_ns`."""
    windows = [window_of(each) for each in (guest, host)]
    if None in windows:
        return True
    (guest_first, guest_last), (host_first, host_last) = (window or (0, 0) for window in windows)
    return guest_first <= host_last + slack_ns and host_first <= guest_last + slack_ns


def window_of(recording: Recording) -> tuple[int, int] | None:
    """First and last moment of a recording by the wall clock; None when it does not say."""
    header, end = parse_header(recording), parse_end(recording.end)
    started_ns, realtime_ns = header.started_monotonic_ns, header.started_realtime_ns
    if end is None or None in (started_ns, realtime_ns, end.ended_monotonic_ns):
        return None
    return realtime_ns or 0, (realtime_ns or 0) + (end.ended_monotonic_ns or 0) - (started_ns or 0)

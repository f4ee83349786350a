# SPDX-License-Identifier: GPL-2.0-or-later
"""Which recordings of a host may belong to which of a guest; that they do, matching proves later.

A recorder with --archive-every makes pieces, and a guest's are not cut where its host's are. So those of a
host that follow each other are a run, which is held against a guest's as one recording.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from balloontrace.archive.look_at_recordings import Seen

Run = tuple[Seen, ...]
"""What a host's recorder has of one VM: pieces that follow each other, or one recording."""


@dataclass(frozen=True, slots=True)
class Likely:
    """Hosts' recordings that may belong to a guest's, by recorder, the likeliest first.

    `are_named`: the pair's name or the file's says that they do, so that the first which matches is the one.
    """

    of_recorders: Sequence[Sequence[Run]]
    are_named: bool = False


def find_hosts(seen: Sequence[Seen]) -> Callable[[Seen], Likely]:
    """A function that gives the hosts' recordings that may belong to a guest's.

    Those of the same pair; else those of the same name beside it, but for the words guest and host; else
    those made at the same time. Pieces of a pair are many: of them, too, those made at the same time.
    """
    hosts = [each for each in seen if each.of_host]
    recorders = _recorders(hosts)
    pairs: dict[str, list[Seen]] = defaultdict(list)
    names: dict[tuple[Path, str], list[Seen]] = defaultdict(list)
    days: dict[int, list[Seen]] = defaultdict(list)
    for host in hosts:
        if host.pair is not None:
            pairs[host.pair].append(host)
        names[host.path.parent, host.bare_name].append(host)
        for day in _days(host):
            days[day].append(host)

    def likely(guest: Seen) -> Likely:
        if guest.pair is not None and guest.pair in pairs:
            found = pairs[guest.pair]
            if not guest.is_piece and not any(host.is_piece for host in found):
                return Likely(_runs(found, recorders), are_named=True)
            return Likely(_runs([host for host in found if _overlap(guest, host)], recorders))
        named = names.get((guest.path.parent, guest.bare_name))
        if named:
            return Likely(_runs(named, recorders), are_named=True)
        near = {host.recording_id: host for day in _days(guest) for host in days[day]}
        return Likely(_runs([host for host in near.values() if _overlap(guest, host)], recorders))

    return likely


def _recorders(hosts: Sequence[Seen]) -> dict[str, str]:
    """The first piece of the recorder that made each recording: both by id."""
    by_end = {host.ended: host for host in hosts if host.ended is not None}
    first: dict[Path, str] = {}
    for host in sorted(hosts, key=lambda each: (each.began or ("", 0, 0))[1:]):
        before = by_end.get(host.began) if host.began is not None else None
        known = first.get(before.path) if before is not None else None
        first.setdefault(host.path, known or host.recording_id)
    return {host.recording_id: first[host.path] for host in hosts}


def _runs(hosts: Sequence[Seen], recorders: Mapping[str, str]) -> list[list[Run]]:
    """Recordings by recorder, each recorder's by VM, in the order in which they are given."""
    found: dict[str, dict[object, list[Seen]]] = defaultdict(lambda: defaultdict(list))
    for host in hosts:
        vm = host.process[1] if host.is_piece else host.recording_id
        found[recorders[host.recording_id]][vm].append(host)
    return [
        [tuple(sorted(pieces, key=lambda each: (each.began or ("", 0, 0))[1])) for pieces in of_vms.values()]
        for of_vms in found.values()
    ]


_DAY_NS = 86_400 * 10**9
_MOST_DAYS = 400  # a recording that says it is longer has a wrong clock
# By so much the clocks of both sides may differ where few sends are matched (`analysis/matching`).
_CLOCKS_APART_NS = 60 * 10**9


def _days(seen: Seen) -> range:
    """The days that a recording touches, by number."""
    if seen.window is None:
        return range(0)
    slack_ns = _CLOCKS_APART_NS if seen.is_piece else 0
    first, last = (seen.window[0] - slack_ns) // _DAY_NS, (seen.window[1] + slack_ns) // _DAY_NS
    return range(first, min(last, first + _MOST_DAYS) + 1)


def _overlap(one: Seen, other: Seen) -> bool:
    """Whether both were made at the same time; what is beside a piece may have what its end cut off."""
    if one.window is None or other.window is None:
        return False
    slack_ns = _CLOCKS_APART_NS if one.is_piece or other.is_piece else 0
    return one.window[0] <= other.window[1] + slack_ns and other.window[0] <= one.window[1] + slack_ns


def find_awaited(seen: Iterable[Seen]) -> set[Path]:
    """Pieces of both sides whose counterparts on the other side may still come.

    None where only one side is given. Once both sides have a later piece nothing more of that time comes, nor
    when a day has passed.
    """
    pieces = [each for each in seen if each.is_piece and each.window is not None]
    ends_ns = [
        [each.window[1] for each in pieces if each.window and each.of_host is of_host]
        for of_host in (False, True)
    ]
    if not all(ends_ns):
        return set()
    newest_ns = [max(of_side) for of_side in ends_ns]
    since_ns = max(min(newest_ns) - _CLOCKS_APART_NS, max(newest_ns) - _DAY_NS)
    return {each.path for each in pieces if each.window and each.window[1] >= since_ns}

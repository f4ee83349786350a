# SPDX-License-Identifier: GPL-2.0-or-later
"""Each run counts once: copies of a recording are found, left out, and told.

A run is known by its recording's name for itself, and by when it began and how long it took. So a copy is
one by whatever name it goes, cut shorter or packed anew, and beside other recordings or not. A run that is
on both sides proves nothing about their difference, and counts on neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from balloontrace.compare.replicates import Found, Refused
from balloontrace.units import format_count

_COPY = "a copy: the same run counts already"
_ON_BOTH = "the same run is on both sides"


@dataclass(frozen=True, slots=True)
class Told:
    """The runs of one side that count, those that are copies, and sentences on these."""

    counting: tuple[Found, ...]
    copies: tuple[Refused, ...]
    warnings: tuple[str, ...]


def tell_copies(
    before: Sequence[Found], after: Sequence[Found], names: tuple[str, str], *, keep_shared: bool = False
) -> tuple[Told, Told]:
    """Each side without copies; `names` are what was given. The first of a run's copies is the one kept.

    `keep_shared` leaves runs that are on both sides on both, to be shown and not judged.
    """
    sides = (before, after)
    firsts = [_firsts(side) for side in sides]
    pairs = [(first, firsts[1][run]) for run, first in firsts[0].items() if run in firsts[1]]
    both = tuple(_both_in_words(pairs, keep_shared=keep_shared))
    shared = set() if keep_shared else firsts[0].keys() & firsts[1].keys()
    told = [_told(side, first, shared, name) for side, first, name in zip(sides, firsts, names, strict=True)]
    return Told(told[0].counting, told[0].copies, (*both, *told[0].warnings)), told[1]


def _firsts(found: Sequence[Found]) -> dict[tuple[str, int, int], Found]:
    firsts: dict[tuple[str, int, int], Found] = {}
    for each in found:
        firsts.setdefault(each.run, each)
    return firsts


def _told(
    found: Sequence[Found],
    firsts: dict[tuple[str, int, int], Found],
    shared: set[tuple[str, int, int]],
    name: str,
) -> Told:
    counting, copies, pairs = [], [], []
    for each in found:
        if each.run in shared:
            copies.append(_refused(each, _ON_BOTH))
        elif firsts[each.run] is each:
            counting.append(each)
        else:
            copies.append(_refused(each, _COPY))
            pairs.append((firsts[each.run], each))
    return Told(tuple(counting), tuple(copies), tuple(_copies_in_words(pairs, name)))


def _refused(found: Found, reason: str) -> Refused:
    return Refused(found.replicate.recording, found.replicate.operation, found.kind, reason)


def _copies_in_words(pairs: Sequence[tuple[Found, Found]], name: str) -> Iterator[str]:
    if pairs:
        count = len(pairs)
        runs = "1 operation is a copy" if count == 1 else f"{format_count(count)} operations are copies"
        yield f"{name}: {runs}, and each run counts once: {_named(pairs)}"


def _both_in_words(pairs: Sequence[tuple[Found, Found]], *, keep_shared: bool) -> Iterator[str]:
    if not pairs:
        return
    told = f"the same recording is on both sides: {_named(pairs)}"
    if keep_shared:
        yield f"{told}; a run compared with itself proves nothing"
    else:
        runs = "1 operation is" if len(pairs) == 1 else f"{format_count(len(pairs))} operations are"
        yield f"{told}; its {runs} left out of both"


def _named(pairs: Sequence[tuple[Found, Found]]) -> str:
    """The first two recordings that are one, and how many other pairs there are."""
    names = list(dict.fromkeys((one.replicate.recording, other.replicate.recording) for one, other in pairs))
    more = f" and {format_count(len(names) - 1)} more" if len(names) > 1 else ""
    return f"{names[0][1]} is the same as {names[0][0]}{more}"

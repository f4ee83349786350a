# SPDX-License-Identifier: GPL-2.0-or-later
"""In which order the runs of both sides were made, and what that order allows.

A machine that gets slower with time makes whatever ran later look slower. In before, after, after, before
each run has one of the other side next to it, and either side is first equally often. So both of a pair met
the same machine, and a steady drift cancels. In before, after, before, after it does not: each pair has the
later run on the same side. Such runs are compared as two samples, in which a drift only
widens the interval. Where one side ran earlier as a whole, drift and difference look alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

FEWEST_PAIRS = 4
# How much less an estimate tells when a steady drift has to be estimated with it (variance inflation).
_MOST_INFLATION = 1.2
# One run in ten may have no partner: a run that failed is left out, and its neighbours are not.
_MOST_ALONE = 0.1


class Turns(StrEnum):
    """How the sides followed each other."""

    PAIRS = "pairs"
    """In pairs of neighbours, either side being first as often: a steady drift cancels."""
    MIXED = "mixed"
    """Neither side earlier than the other as a whole."""
    APART = "apart"
    """One side earlier than the other, wholly or for the greater part."""
    UNKNOWN = "unknown"
    """At least one run does not say when it was made, or two say the same."""


@dataclass(frozen=True, slots=True)
class Order:
    """The place of each run among all runs of both sides, from 0, by side; empty where it is unknown.

    `pairs` are indices of runs before and after that are compared with each other.
    """

    turns: Turns
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def is_wholly_apart(self) -> bool:
        """Whether all runs of one side were made before any of the other."""
        return bool(self.before and self.after) and (
            max(self.before) < min(self.after) or max(self.after) < min(self.before)
        )


UNKNOWN_ORDER = Order(Turns.UNKNOWN)


def find_order(before: Sequence[int | None], after: Sequence[int | None]) -> Order:
    """The order of runs that were made at these times, on one clock."""
    times = [*before, *after]
    if not before or not after or None in times or len(set(times)) < len(times):
        return UNKNOWN_ORDER
    sequence = sorted(range(len(times)), key=lambda index: times[index] or 0)
    place = {index: position for position, index in enumerate(sequence)}
    first = tuple(place[index] for index in range(len(before)))
    second = tuple(place[len(before) + index] for index in range(len(after)))
    pairs = _pairs(sequence, len(before))
    if pairs:
        return Order(Turns.PAIRS, first, second, pairs)
    turns = Turns.APART if _inflation(first, second) > _MOST_INFLATION else Turns.MIXED
    return Order(turns, first, second)


def _pairs(sequence: Sequence[int], size_before: int) -> tuple[tuple[int, int], ...]:
    """Neighbours of different sides, each run in one pair at most; none unless they make a fair design."""
    pairs: list[tuple[int, int]] = []
    lead = 0
    at = 0
    while at + 1 < len(sequence):
        one, other = sequence[at : at + 2]
        if (one < size_before) == (other < size_before):
            at += 1
            continue
        pairs.append((min(one, other), max(one, other) - size_before))
        lead += 1 if one < size_before else -1
        at += 2
    alone = len(sequence) - 2 * len(pairs)
    fair = abs(lead) <= max(1.0, math.sqrt(len(pairs)) / 2)
    most_alone = max(1.0, _MOST_ALONE * len(sequence))
    return tuple(pairs) if len(pairs) >= FEWEST_PAIRS and fair and alone <= most_alone else ()


def _inflation(before: Sequence[int], after: Sequence[int]) -> float:
    """1 / (1 - R^2) of side and place: by how much a steady drift widens what is known of the side."""
    place = np.array([*before, *after], dtype=np.float64)
    side = np.repeat([0.0, 1.0], [len(before), len(after)])
    explained = float(np.corrcoef(place, side)[0, 1]) ** 2
    return math.inf if explained >= 1 else 1 / (1 - explained)

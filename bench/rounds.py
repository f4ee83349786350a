# SPDX-License-Identifier: GPL-2.0-or-later
"""Rounds of what is measured in turn, each within one boot; costs are compared within a round.

A host that counts instructions may stand still at any time (lab/README.md). What it had done of a round is
thrown away then, every whole round is kept, and the next boot goes on. Boots differ; the runs of one round
share theirs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from bench.figures import say
from lab.boot_retries import LOST_BY_EMULATION
from lab.errors import LabError

Machines = TypeVar("Machines")
Round = TypeVar("Round")


@dataclass(frozen=True)
class Change:
    """By how much something is longer than something else: the mean over rounds, in percent of the latter."""

    percent: float
    error: float | None = None  # standard error of that mean; one round has none

    def __str__(self) -> str:
        error = "" if self.error is None else f" \u00b1 {self.error:.2f}"
        return f"{self.percent:+.2f}{error} %"


def whole_rounds(
    boot: Callable[[], AbstractContextManager[Machines]],
    make_round: Callable[[Machines, int], Round],
    *,
    wanted: int,
    most_boots: int,
) -> Iterator[Round]:
    """Yields each round as soon as it is whole. `make_round` is told its number, from 1.

    Raises LabError where `most_boots` were not enough.
    """
    whole = 0
    for booted in range(1, most_boots + 1):
        try:
            with boot() as machines:
                while whole < wanted:
                    made = make_round(machines, whole + 1)
                    whole += 1
                    yield made
            return
        except LOST_BY_EMULATION as lost:
            kept = f"{whole} of {wanted} rounds are whole after {booted} of at most {most_boots} boots"
            say(f"{str(lost).splitlines()[0]}; {kept}")
    raise LabError(f"Only {whole} of {wanted} rounds became whole in {most_boots} boots.")


def compare_pairs(pairs: Sequence[tuple[float, float]]) -> Change:
    """How much longer the first of each pair is than the second. A pair is of one round."""
    percents = [100 * (longer / than - 1) for longer, than in pairs]
    error = statistics.stdev(percents) / math.sqrt(len(percents)) if len(percents) > 1 else None
    return Change(statistics.mean(percents), error)

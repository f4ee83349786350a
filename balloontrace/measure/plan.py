# SPDX-License-Identifier: GPL-2.0-or-later
"""What is to be measured: how much memory, how often, in which state of the machine, and where it goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from balloontrace.format.provenance import FIRST

STATES = ("a", "b")
INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Plan:
    """What the user asks for. `alternate` is empty, or has the commands of two states."""

    out: Path
    take_bytes: int
    rounds: int
    first: bool = True  # one more before, kept apart
    settle_s: float = 2.0
    timeout_s: float = 600.0
    touched: bool = False
    alternate: Sequence[str] = ()
    guest_options: Sequence[str] = ()  # more of `record`
    host_options: Sequence[str] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where complete rounds are: one folder for each state."""
        return tuple(self.out / state for state in STATES) if self.alternate else (self.out,)


@dataclass(frozen=True)
class Turn:
    """One inflate and one deflate: the number of its round, 0 for the first apart, and its state's."""

    number: int
    state: int | None
    folder: Path

    @property
    def is_first(self) -> bool:
        """Whether it counts in no result."""
        return self.number == 0

    @property
    def name(self) -> str:
        """Of its recordings, without side and ending."""
        return f"round-{self.number:03}"

    def describe(self, rounds: int) -> str:
        """E.g. `round 2 of 10`, `round 2 of 10, state a`."""
        which = "the round before the first" if self.is_first else f"round {self.number} of {rounds}"
        return which if self.state is None else f"{which}, state {STATES[self.state]}"


def turns(plan: Plan) -> Iterator[Turn]:
    """All of them in order. Two states in A, B, B, A: a steady drift cancels in pairs of neighbours."""
    if plan.first:
        yield Turn(0, 0 if plan.alternate else None, plan.out / FIRST)
    for number in range(1, plan.rounds + 1):
        if not plan.alternate:
            yield Turn(number, None, plan.out)
            continue
        for state in (0, 1) if number % 2 else (1, 0):
            yield Turn(number, state, plan.folders[state])

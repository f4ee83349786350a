# SPDX-License-Identifier: GPL-2.0-or-later
"""The rounds of one VM together, as plain frozen data; None means "not measured".

Field names are the names in the JSON: they are only ever added to. Times are nanoseconds, rates bytes a
second, pages 4 KiB units.
"""

from __future__ import annotations

from dataclasses import dataclass

MEASUREMENT_VERSION = 1

WALL = "wall"
RATE = "rate"
RETURN_AND_TOUCH = "return_and_touch"


@dataclass(frozen=True, slots=True)
class Summary:
    """One quantity over all rounds. `low` and `high` bound the median at 95 %, None for fewer than 6 rounds.

    `unit` is ns or B/s; `share` is of the median wall time.
    """

    name: str
    label: str
    unit: str
    n: int
    median: float | None = None
    low: float | None = None
    high: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """All inflates or all deflates of one size: rates by the names they are published under, and times.

    `first` has the wall time of the round before the first. `driven` is how long moves took as the VMM
    tells, seen from outside.
    """

    kind: str
    pages: int
    published_as: str
    rates: tuple[Summary, ...]
    times: tuple[Summary, ...]
    first_wall_ns: int | None = None
    driven: Summary | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """Something of the machines that decides how fast they are."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """What rounds of one VM, in one state, have shown."""

    measurement_version: int
    folder: str
    vm: str | None
    state: str | None
    rounds: int
    touched: bool | None
    moves: tuple[Move, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    conditions: tuple[Condition, ...]

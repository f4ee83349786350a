# SPDX-License-Identifier: GPL-2.0-or-later
"""A time line as plain data: what ran on which thread, single moments, and values over time.

Times are integer nanoseconds since the time line's origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Arguments = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Slice:
    """Something that took time; an arrow goes from the slice with its number as `arrow_out` to `arrow_in`."""

    name: str
    start_ns: int
    end_ns: int
    arguments: Arguments = field(default_factory=dict)
    arrow_out: int | None = None
    arrow_in: int | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """One row of a time line. Its slices are in order of start, an outer one before those inside it.

    They nest: of two, one ends before the other begins, or lies inside it.
    """

    name: str
    slices: Iterable[Slice]


@dataclass(frozen=True, slots=True)
class Instant:
    """Something that happened at one moment."""

    name: str
    at_ns: int
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counter:
    """A value that holds from each of its points to the next."""

    name: str
    unit: str
    points: Iterable[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Process:
    """A side of the boundary with all that is shown of it."""

    name: str
    tracks: tuple[Track, ...]
    instants: tuple[Instant, ...] = ()
    counters: tuple[Counter, ...] = ()


@dataclass(frozen=True, slots=True)
class Timeline:
    """Everything on one clock: `origin_ns` of `clock` is 0; `about` is what the recording says of itself."""

    processes: tuple[Process, ...]
    clock: str
    origin_ns: int
    about: Arguments

# SPDX-License-Identifier: GPL-2.0-or-later
"""Slices into tracks in which they nest.

In a damaged recording two calls of one thread may overlap without one being inside the other. Then the later
one goes to another track of that thread, so that the slices of a track always nest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column
from balloontrace.errors import RecordingError

Rows = NDArray[np.intp]

CHUNK_ROWS = 1 << 14
"""So many slices are made at once."""

_MOST_LANES = 64
_MOST_TRACKS = 4096


def grouped(keys: Column, rows: Rows, most: str | None = None) -> Iterator[tuple[int, Rows]]:
    """Some rows by their key, ascending, each group in the order of `rows`; `most` names what is limited."""
    order = rows[np.argsort(keys[rows], kind="stable")]
    bounds = np.flatnonzero(np.diff(keys[order])) + 1
    groups = np.split(order, bounds) if len(order) else []
    if most is not None:
        hold_to_tracks(len(groups), most)
    return ((int(keys[group[0]]), group) for group in groups)


def hold_to_tracks(count: int, what: str) -> None:
    """RecordingError for more tracks than anybody can look at."""
    if count > _MOST_TRACKS:
        raise RecordingError(
            f"a time line of {count} {what} cannot be shown: the most is {_MOST_TRACKS}; "
            "--format csv or ndjson has every call"
        )


def lanes(start_ns: Sequence[int], end_ns: Sequence[int], name: str) -> list[list[int]]:
    """Places of slices in order of start, outer first, in as few lanes as they nest in; mostly one."""
    lanes: list[list[int]] = []
    stacks: list[list[int]] = []
    for place, (start, end) in enumerate(zip(start_ns, end_ns, strict=True)):
        for lane, ends in enumerate(stacks):  # noqa: B007
            while ends and ends[-1] <= start:
                ends.pop()
            if not ends or end <= ends[-1]:
                break
        else:
            lane = len(stacks)
            if lane == _MOST_LANES:
                raise RecordingError(
                    f"more than {_MOST_LANES} calls of {name} overlap: the recording is damaged "
                    "and makes no time line"
                )
            stacks.append([])
            lanes.append([])
        stacks[lane].append(end)
        lanes[lane].append(place)
    return lanes


def lane_name(name: str, lane: int) -> str:
    """What a track is called whose slices overlap those of its first lane."""
    return f"{name}, overlapping {lane}" if lane else name

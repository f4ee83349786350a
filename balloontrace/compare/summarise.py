# SPDX-License-Identifier: GPL-2.0-or-later
"""The rounds of a folder that `measure` made, into medians with their intervals.

The interval of a median is that of its order statistics: between which of the sorted values it lies in 95 %
of all cases, whatever their distribution (the sign test, turned round). Fewer than 6 rounds give none.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from balloontrace.compare.inputs import SUFFIX, read_side
from balloontrace.compare.provenance import conditions_of
from balloontrace.compare.recordings import Recordings
from balloontrace.compare.replicates import Found, Refused, find_replicates
from balloontrace.format.provenance import FIRST, read_provenance
from balloontrace.format.stages import ABCD, BCD, OTHER, C, Stage, finest_stages
from balloontrace.format.vocabulary import Kind
from balloontrace.results.measurement import (
    MEASUREMENT_VERSION,
    RATE,
    RETURN_AND_TOUCH,
    WALL,
    Measurement,
    Move,
    Summary,
)
from balloontrace.units import NS_PER_S, format_count, pages_to_bytes

CONFIDENCE = 0.95


def summarise_folder(folder: Path, above: Path | None = None) -> Measurement:
    """The rounds in a folder, read and analysed; `above` has the round kept apart, if there was one.

    Errors as `read_side`.
    """
    first = above / FIRST if above is not None else None
    has_first = first is not None and any(first.glob(f"*{SUFFIX}"))
    return summarise(
        read_side(str(folder), sys.stdin.buffer),
        read_side(str(first), sys.stdin.buffer) if has_first else None,
    )


def summarise(recordings: Recordings, first: Recordings | None) -> Measurement:
    """All rounds of a folder whose recordings were read and analysed; `first` is the round kept apart."""
    told = recordings.provenance or {}
    rounds = _rounds(told)
    found, refused = _replicates(recordings)
    first_found = _replicates(first)[0] if first is not None else []
    touched = told.get("touched")
    groups: dict[tuple[Kind, int], list[Found]] = {}
    for each in found:
        groups.setdefault((each.kind, each.pages), []).append(each)
    order = list(Kind)
    return Measurement(
        MEASUREMENT_VERSION,
        folder=recordings.given,
        vm=told.get("vm"),
        state=told.get("state_command"),
        rounds=len(rounds) or len(recordings.reports),
        touched=touched if isinstance(touched, bool) else None,
        moves=tuple(
            _move(*key, groups[key], first_found, rounds, touched=touched is True)
            for key in sorted(groups, key=lambda key: (order.index(key[0]), key[1]))
        ),
        left_out=tuple(
            f"{each.recording}: {each.kind} {format_count(each.operation)}: {each.reason}" for each in refused
        ),
        warnings=tuple(
            dict.fromkeys(warning for report in recordings.reports for warning in report.warnings)
        ),
        conditions=conditions_of(told),
    )


def summarise_driven(folder: Path) -> Measurement:
    """Where no guest was recorded: how long moves took, as the VMM told."""
    told = read_provenance(folder) or {}
    rounds = _rounds(told)
    pages = int(told.get("take_bytes") or 0) // pages_to_bytes(1)
    moves = tuple(
        Move(kind, pages, _published(kind, touched=False), (), (), driven=_driven(kind, rounds))
        for kind in Kind
    )
    return Measurement(
        MEASUREMENT_VERSION, str(folder), told.get("vm"), told.get("state_command"), len(rounds), None, moves,
        (), (), conditions_of(told),
    )  # fmt: skip


def _rounds(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = told.get("rounds")
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def bound_median(values: Sequence[float]) -> tuple[float, float] | None:
    """The interval of their median at 95 %; None where there are too few."""
    count, ordered = len(values), sorted(values)
    outside = 0
    tail = 0.0  # the chance that at most so many of them lie below the median
    while True:
        tail += math.comb(count, outside) / 2**count
        if tail > (1 - CONFIDENCE) / 2:
            break
        outside += 1
    return (ordered[outside - 1], ordered[count - outside]) if outside else None


def _replicates(recordings: Recordings) -> tuple[list[Found], list[Refused]]:
    counting: list[Found] = []
    others: list[Refused] = []
    for report in recordings.reports:
        found, refused = find_replicates(report)
        counting += found
        others += refused
    return counting, others


def _move(
    kind: Kind,
    pages: int,
    found: Sequence[Found],
    first: Sequence[Found],
    rounds: Sequence[Mapping[str, Any]],
    *,
    touched: bool,
) -> Move:
    values = [each.replicate.values for each in found]
    walls = [each[WALL] for each in values]
    wall = _summary(WALL, "wall", walls)
    times = [wall, *(_stage(stage, kind, values, wall.median) for stage in _stages(values))]
    size_bytes = pages_to_bytes(pages)
    rates = [_summary(RATE, _published(kind, touched=touched), _rates(size_bytes, walls), "B/s")]
    touches = [each.get("touched_ns") for each in rounds]
    if kind == Kind.DEFLATE and touches and len(touches) == len(walls) and all(touches):
        both = [wall_ns + float(touch_ns or 0) for wall_ns, touch_ns in zip(walls, touches, strict=True)]
        rates.append(_summary(RETURN_AND_TOUCH, "return and touch", _rates(size_bytes, both), "B/s"))
    alike = [each.replicate.values[WALL] for each in first if (each.kind, each.pages) == (kind, pages)]
    return Move(
        kind,
        pages,
        _published(kind, touched=touched),
        tuple(rates),
        tuple(times),
        first_wall_ns=round(alike[0]) if alike else None,
        driven=_driven(kind, rounds),
    )


def _published(kind: Kind, *, touched: bool) -> str:
    """What the literature calls it."""
    if kind == Kind.DEFLATE:
        return "return"
    return "reclaim touched" if touched else "reclaim untouched"


def _rates(size_bytes: int, times_ns: Sequence[float]) -> list[float]:
    return [size_bytes * NS_PER_S / time_ns for time_ns in times_ns if time_ns]


def _stages(values: Sequence[Mapping[str, float]]) -> tuple[Stage, ...]:
    """The rows below the wall time: as fine as all rounds have them."""
    finest = finest_stages()
    if all(C.code in each for each in values):
        return (*finest, OTHER)
    if all(BCD.code in each for each in values):
        return (*(stage for stage in finest if stage.code not in BCD.instead_of), BCD, OTHER)
    return (ABCD, OTHER)


def _stage(stage: Stage, kind: Kind, values: Sequence[Mapping[str, float]], wall_ns: float | None) -> Summary:
    measured = [each[stage.code] for each in values if stage.code in each]
    name = stage.short_for(stage.name_for(kind), None)
    return _summary(stage.code, name, measured, wall=wall_ns)


def _driven(kind: Kind, rounds: Sequence[Mapping[str, Any]]) -> Summary | None:
    name = "inflate_s" if kind == Kind.INFLATE else "deflate_s"
    seconds = [each.get(name) for each in rounds]
    known = [each * NS_PER_S for each in seconds if isinstance(each, int | float)]
    return _summary("driven", "as the VMM tells", known) if known else None


def _summary(
    name: str, label: str, values: Sequence[float], unit: str = "ns", wall: float | None = None
) -> Summary:
    if not values:
        return Summary(name, label, unit, 0)
    middle = median(values)
    low, high = bound_median(values) or (None, None)
    share = middle / wall if wall else None
    return Summary(name, label, unit, len(values), middle, low, high, min(values), max(values), share)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations of one kind and size, before and after: rows with ratios, intervals and verdicts.

The wall time is tested first, at 5 %. Where it changed, its stages are tested at 5 % together (Holm). Where
it did not, they are tested together at what the wall time's test leaves of its 5 %: ranks take few values,
so that 10 runs against 10 leave 0.7 %. So the table of a driver against itself claims something at most
once in 20 comparisons, and the wall time loses nothing to its stages. Counts are a family of their own.
Parts of stages have an interval and no verdict: they would cost the others their power. A count that is the
same in all runs of either side is no sample, and is judged by its own p value. Intervals are of each row
alone, but one with `~` reaches to 1, which is then not refused. So interval and verdict are one decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from balloontrace.compare.compare_rows import (
    Quantity,
    column_of,
    compare_row,
    is_constant,
    judge_family,
    says_something,
    to_frame,
    with_verdicts,
)
from balloontrace.compare.comparison_notes import describe_order, name_too_few, name_two_kinds
from balloontrace.compare.drift import find_drift
from balloontrace.compare.replicates import Found
from balloontrace.compare.run_order import Order, Turns, find_order
from balloontrace.compare.significance import LEVEL, adjust_stages, size_of
from balloontrace.format.stages import ABCD, BCD, BCD_SEND, BUILD, OTHER, C, Stage, finest_stages, with_parts
from balloontrace.format.vocabulary import Kind
from balloontrace.results.comparison import (
    FASTER,
    FEWER,
    INDEPENDENT,
    MORE,
    PAIRED,
    SLOWER,
    WALL,
    Drift,
    Group,
    Row,
)
from balloontrace.units import format_things

_BYTES = "B"

_WALL = Quantity(WALL, "wall")
_COUNTS = (
    Quantity("sends", "sends", ""),
    Quantity("pages_per_send", "pages per send", "pages/send"),
    Quantity("bytes_sent", "bytes sent", _BYTES),
    Quantity("bytes_per_page", "bytes per page", "B/page"),
    Quantity("records", "records sent", ""),
    Quantity("bitmap_fill", "bitmap fill", "ratio"),
    Quantity("pages_repeated", "pages named again", "pages"),
    Quantity("pages_held_before", "pages the host had", "pages"),
    Quantity("calls", "discard calls", ""),
    Quantity("bytes_called", "bytes of calls", _BYTES),
    Quantity("bytes_per_call", "bytes per call", _BYTES),
    Quantity("failed_calls", "failed calls", ""),
    Quantity("thp_splits", "huge pages split", ""),
)


def compare_group(
    kind: Kind, pages: int, before: Sequence[Found], after: Sequence[Found], *, judged: bool = True
) -> Group:
    """Compare the operations of one kind and size; unless `judged`, show their medians and ratios only."""
    sides = (before, after)
    frames = [to_frame([each.replicate.values for each in side]) for side in sides]
    order = find_order(*([each.replicate.started_realtime_ns for each in side] for side in sides))
    split = all(C.code in frame for frame in frames)
    stages = _stages(frames, split=split)
    times_asked = (_WALL, *stages, *map(_quantity, with_parts(OTHER)))
    weighed = {each: compare_row(each, frames, order, judged=judged) for each in (*times_asked, *_COUNTS)}
    times = judge_times([weighed[each][0] for each in times_asked], order)
    counts = judge_family([weighed[each][0] for each in _COUNTS], (FEWER, MORE))
    drifts = [
        _drift(frame, places) for frame, places in zip(frames, (order.before, order.after), strict=True)
    ]
    explained = [each.label for each, (_, found) in weighed.items() if found.drift_explains]
    return Group(
        kind=kind,
        pages=pages,
        times=tuple(row for row in times if row.part_of is None or says_something(row)),
        counts=tuple(counts),
        before=tuple(each.replicate for each in before),
        after=tuple(each.replicate for each in after),
        notes=(
            *name_too_few(len(before), len(after)),
            *(describe_order(order, len(before), len(after), drifts, explained) if judged else ()),
            *_topology(frames, split=split),
            *name_two_kinds((*times, *counts)),
        ),
        design=PAIRED if order.turns is Turns.PAIRS else INDEPENDENT,
        order=order.turns.value,
        drift_before=drifts[0],
        drift_after=drifts[1],
    )


def _stages(frames: Sequence[pd.DataFrame], *, split: bool) -> tuple[Quantity, ...]:
    """The rows between wall and other: as fine as both sides are."""
    if split:
        return tuple(_quantity(row) for stage in finest_stages() for row in with_parts(stage))
    if not all(BCD.code in frame for frame in frames):
        return (_quantity(ABCD),)
    apart = [stage for stage in finest_stages() if stage.code not in BCD.instead_of]
    # The host's stages hold the making of bitmaps too, as b does where they are apart.
    return (
        *(_quantity(row) for stage in apart for row in with_parts(stage)),
        Quantity(BCD.code, f"{BUILD.name}, {BCD.name}"),
        *(_quantity(replace(row, part_of=BCD.code)) for row in (BUILD, BCD_SEND)),
    )


def _quantity(stage: Stage) -> Quantity:
    return Quantity(stage.code, stage.name, part_of=stage.part_of)


def _drift(frame: pd.DataFrame, places: Sequence[int]) -> Drift:
    """How the wall time of a side changes from run to run."""
    values = column_of(frame, WALL)
    if len(places) != len(values) or np.isnan(values).any():
        return Drift()
    return find_drift(values, np.array(places, dtype=np.float64))


def judge_times(rows: Sequence[Row], order: Order) -> list[Row]:
    """The wall time by itself, then its stages; parts are not judged."""
    wall, *rest = rows
    stages = {row.name: row.p_value for row in rest if row.part_of is None and row.p_value is not None}
    if wall.p_value is None:
        return list(rows)
    size = LEVEL if is_constant(wall) else size_of(wall.before.n, wall.after.n, order)
    adjusted = adjust_stages(wall.p_value, size, list(stages.values()))
    return with_verdicts(
        rows, {wall.name: wall.p_value, **dict(zip(stages, adjusted, strict=True))}, (FASTER, SLOWER)
    )


def _topology(frames: Sequence[pd.DataFrame], *, split: bool) -> Iterator[str]:
    """Where the stages of the two sides are not equally fine."""
    if not split and any(C.code in frame for frame in frames):
        yield "b, c and d are apart on one side only, so they are compared together"
    for name, frame in zip(("before", "after"), frames, strict=True):
        apart = int(frame[C.code].notna().sum()) if C.code in frame else 0
        if split and apart < len(frame):
            yield f"b, c and d are apart in {apart} of {format_things(len(frame), 'operation')} {name}"

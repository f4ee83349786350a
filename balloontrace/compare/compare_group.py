# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations of one kind and size, before and after: rows with ratios, intervals and verdicts.

The wall time is tested first, at 5 %. Where it changed, its stages are tested at 5 % together (Holm). Where
it did not, they are tested together at what the wall time's test leaves of its 5 %: ranks take few values,
so that 10 runs against 10 leave 0.7 %. So the table of a driver against itself claims something at most
once in 20 comparisons, and the wall time loses nothing to its stages. Counts are a family of their own.
Parts of stages have an interval and no verdict: they would cost the others their power. A count that is the
same in all runs of either side is no sample, and is judged by its own p value. Intervals are of each row
alone, so one of a stage or count that excludes 1 may come with `~`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from balloontrace.compare.drift import find_drift, is_found
from balloontrace.compare.replicates import Found
from balloontrace.compare.run_order import Order, Turns, find_order
from balloontrace.compare.significance import (
    FEWEST_FOR_INTERVAL,
    FEWEST_FOR_VERDICT,
    LEVEL,
    Evidence,
    adjust,
    adjust_stages,
    enough_for_interval,
    enough_for_verdict,
    order_of_measured,
    size_of,
    weigh,
)
from balloontrace.format.stages import ABCD, BCD, BCD_SEND, BUILD, OTHER, C, Stage, finest_stages, with_parts
from balloontrace.format.vocabulary import Kind
from balloontrace.results.comparison import (
    FASTER,
    FEWER,
    INDEPENDENT,
    MORE,
    PAIRED,
    SAME,
    SLOWER,
    UNDECIDED,
    WALL,
    Drift,
    Group,
    Row,
    Spread,
)
from balloontrace.units import format_count

_NS = "ns"
_BYTES = "B"


@dataclass(frozen=True, slots=True)
class _Quantity:
    """A row before it has numbers."""

    name: str
    label: str
    unit: str = _NS
    part_of: str | None = None


_WALL = _Quantity(WALL, "wall")
_COUNTS = (
    _Quantity("sends", "sends", ""),
    _Quantity("pages_per_send", "pages per send", "pages/send"),
    _Quantity("bytes_sent", "bytes sent", _BYTES),
    _Quantity("bytes_per_page", "bytes per page", "B/page"),
    _Quantity("records", "records sent", ""),
    _Quantity("bitmap_fill", "bitmap fill", "ratio"),
    _Quantity("pages_repeated", "pages named again", "pages"),
    _Quantity("pages_held_before", "pages the host had", "pages"),
    _Quantity("calls", "discard calls", ""),
    _Quantity("bytes_called", "bytes of calls", _BYTES),
    _Quantity("bytes_per_call", "bytes per call", _BYTES),
    _Quantity("failed_calls", "failed calls", ""),
    _Quantity("thp_splits", "huge pages split", ""),
)


def compare_group(
    kind: Kind, pages: int, before: Sequence[Found], after: Sequence[Found], *, judged: bool = True
) -> Group:
    """Compare the operations of one kind and size; unless `judged`, show their medians and ratios only."""
    sides = (before, after)
    frames = [_frame(side) for side in sides]
    order = find_order(*([each.replicate.started_realtime_ns for each in side] for side in sides))
    split = all(C.code in frame for frame in frames)
    stages = _stages(frames, split=split)
    times_asked = (_WALL, *stages, *map(_quantity, with_parts(OTHER)))
    weighed = {each: _row(each, frames, order, judged=judged) for each in (*times_asked, *_COUNTS)}
    times = _judge_times([weighed[each][0] for each in times_asked], order)
    counts = _judge_counts([weighed[each][0] for each in _COUNTS])
    drifts = [
        _drift(frame, places) for frame, places in zip(frames, (order.before, order.after), strict=True)
    ]
    explained = [each.label for each, (_, found) in weighed.items() if found.drift_explains]
    return Group(
        kind=kind,
        pages=pages,
        times=tuple(row for row in times if row.part_of is None or _says_something(row)),
        counts=tuple(counts),
        before=tuple(each.replicate for each in before),
        after=tuple(each.replicate for each in after),
        notes=(
            *_too_few(len(before), len(after)),
            *(_order_in_words(order, len(before), len(after), drifts, explained) if judged else ()),
            *_topology(frames, split=split),
            *_two_kinds((*times, *counts)),
        ),
        design=PAIRED if order.turns is Turns.PAIRS else INDEPENDENT,
        order=order.turns.value,
        drift_before=drifts[0],
        drift_after=drifts[1],
    )


def _frame(side: Sequence[Found]) -> pd.DataFrame:
    """One row a replicate, one column a quantity; NaN where it was not measured."""
    return pd.DataFrame([dict(each.replicate.values) for each in side])


def _stages(frames: Sequence[pd.DataFrame], *, split: bool) -> tuple[_Quantity, ...]:
    """The rows between wall and other: as fine as both sides are."""
    if split:
        return tuple(_quantity(row) for stage in finest_stages() for row in with_parts(stage))
    if not all(BCD.code in frame for frame in frames):
        return (_quantity(ABCD),)
    apart = [stage for stage in finest_stages() if stage.code not in BCD.instead_of]
    # The host's stages hold the making of bitmaps too, as b does where they are apart.
    return (
        *(_quantity(row) for stage in apart for row in with_parts(stage)),
        _Quantity(BCD.code, f"{BUILD.name}, {BCD.name}"),
        *(_quantity(replace(row, part_of=BCD.code)) for row in (BUILD, BCD_SEND)),
    )


def _quantity(stage: Stage) -> _Quantity:
    return _Quantity(stage.code, stage.name, part_of=stage.part_of)


def _row(
    quantity: _Quantity, frames: Sequence[pd.DataFrame], order: Order, *, judged: bool
) -> tuple[Row, Evidence]:
    columns = [_column(frame, quantity.name) for frame in frames]
    measured = [~np.isnan(column) for column in columns]
    values = [column[has].tolist() for column, has in zip(columns, measured, strict=True)]
    found = weigh(values[0], values[1], order_of_measured(order, [has.tolist() for has in measured]))
    if not judged:
        found = Evidence(found.ratio, None, None, None)
    row = Row(
        quantity.name,
        quantity.label,
        quantity.unit,
        quantity.part_of,
        _spread(values[0]),
        _spread(values[1]),
        ratio=found.ratio,
        ratio_low=found.low,
        ratio_high=found.high,
        p_value=found.p_value,
    )
    return row, found


def _column(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """The values of all replicates, NaN where not measured."""
    if name not in frame:
        return np.full(len(frame), np.nan)
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _drift(frame: pd.DataFrame, places: Sequence[int]) -> Drift:
    """How the wall time of a side changes from run to run."""
    values = _column(frame, WALL)
    if len(places) != len(values) or np.isnan(values).any():
        return Drift()
    return find_drift(values, np.array(places, dtype=np.float64))


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(0)
    return Spread(len(values), *map(_plain, (median(values), min(values), max(values))))


def _plain(value: float) -> float:
    """An integer where it is one, so that it is shown as one."""
    return int(value) if float(value).is_integer() else float(value)


def _judge_times(rows: Sequence[Row], order: Order) -> list[Row]:
    """The wall time by itself, then its stages; parts are not judged."""
    wall, *rest = rows
    stages = {row.name: row.p_value for row in rest if row.part_of is None and row.p_value is not None}
    if wall.p_value is None:
        return list(rows)
    size = LEVEL if _constant(wall) else size_of(wall.before.n, wall.after.n, order)
    adjusted = adjust_stages(wall.p_value, size, list(stages.values()))
    return _with_verdicts(
        rows, {wall.name: wall.p_value, **dict(zip(stages, adjusted, strict=True))}, (FASTER, SLOWER)
    )


def _judge_counts(rows: Sequence[Row]) -> list[Row]:
    """All that scatter as one family, the others each by itself."""
    alone = {row.name: row.p_value for row in rows if row.p_value is not None}
    family = {row.name: alone[row.name] for row in rows if row.name in alone and not _constant(row)}
    adjusted = dict(zip(family, adjust(list(family.values())), strict=True))
    return _with_verdicts(rows, {**alone, **adjusted}, (FEWER, MORE))


def _with_verdicts(rows: Sequence[Row], adjusted: dict[str, float], words: tuple[str, str]) -> list[Row]:
    """`words` are for less and for more."""
    return [row if row.part_of is not None else _verdict(row, adjusted.get(row.name), words) for row in rows]


def _verdict(row: Row, p_adjusted: float | None, words: tuple[str, str]) -> Row:
    if p_adjusted is None or row.before.median is None or row.after.median is None:
        return row
    # In pairs the ratio is of those; without one the medians tell the direction.
    change = row.after.median - row.before.median if row.ratio is None else row.ratio - 1
    verdict = UNDECIDED
    if enough_for_verdict(row.before.n, row.after.n):
        if _constant(row) and change == 0:
            verdict = SAME
        elif p_adjusted <= LEVEL and not row.contradicts_itself and change != 0:
            verdict = words[change > 0]
    return replace(row, p_adjusted=p_adjusted, verdict=verdict)


def _constant(row: Row) -> bool:
    """Whether neither side has different values."""
    return all(side.n > 0 and side.minimum == side.maximum for side in (row.before, row.after))


def _says_something(row: Row) -> bool:
    return any(side.maximum for side in (row.before, row.after))


def _two_kinds(rows: Sequence[Row]) -> Iterator[str]:
    """Of which rows the ratio lies outside its interval, and why."""
    labels = [row.label for row in rows if row.part_of is None and row.is_of_two_kinds]
    if labels:
        yield f"{', '.join(labels)}: the runs of one side fall into two groups, so medians and pairs disagree"


def _too_few(before: int, after: int) -> Iterator[str]:
    runs = f"{format_count(before)} before and {format_count(after)} after"
    enough = f"take {FEWEST_FOR_VERDICT} of each, or more"
    if before == after == 1:
        yield "one run each: no interval is possible"
    elif not enough_for_interval(before, after):
        yield f"{runs} are too few for 95 %: {enough}"
    elif not enough_for_verdict(before, after):
        yield f"{runs} are too few for a verdict: {enough}"


def _order_in_words(
    order: Order, before: int, after: int, drifts: Sequence[Drift], explained: Sequence[str]
) -> Iterator[str]:
    """How the sides followed each other, and what that means for the verdicts."""
    if min(before, after) < FEWEST_FOR_INTERVAL:
        return
    match order.turns:
        case Turns.PAIRS:
            alone = before + after - 2 * len(order.pairs)
            without = f"; {format_count(alone)} without a neighbour left over" if alone else ""
            yield f"made in turn: compared in {format_count(len(order.pairs))} pairs of neighbours{without}"
        case Turns.MIXED:
            yield (
                "the sides took turns, but one side began more pairs than the other: compared as two "
                "samples; before, after, after, before shows more"
            )
        case Turns.APART:
            yield _apart(order)
        case Turns.UNKNOWN:
            yield "when the runs were made is not known, so a drift of the machine cannot be excluded"
    for name, drift in zip(("before", "after"), drifts, strict=True):
        if is_found(drift):
            yield f"{name} gets {_change(drift)} from run to run (p {drift.p_value or 0:.2g})"
    if explained:
        yield (
            f"no verdict on {', '.join(dict.fromkeys(explained))}: the machine changed while the runs were "
            "made, and that drift explains the difference as well"
        )


def _apart(order: Order) -> str:
    earlier, later = "before", "after"
    if sum(order.before) / len(order.before) > sum(order.after) / len(order.after):
        earlier, later = later, earlier
    how = "all runs" if order.is_wholly_apart else "most runs"
    return (
        f"not made in turn: {how} {earlier} were made earlier than those {later}, so a drift of the machine "
        "can look like a difference"
    )


def _change(drift: Drift) -> str:
    percent = ((drift.factor_per_run or 1.0) - 1) * 100
    return f"{abs(percent):.2g} % {'slower' if percent > 0 else 'faster'}"


def _topology(frames: Sequence[pd.DataFrame], *, split: bool) -> Iterator[str]:
    """Where the stages of the two sides are not equally fine."""
    if not split and any(C.code in frame for frame in frames):
        yield "b, c and d are apart on one side only, so they are compared together"
    for name, frame in zip(("before", "after"), frames, strict=True):
        apart = int(frame[C.code].notna().sum()) if C.code in frame else 0
        if split and apart < len(frame):
            yield f"b, c and d are apart in {apart} of {len(frame)} operations {name}"

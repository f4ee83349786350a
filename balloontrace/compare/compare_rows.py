# SPDX-License-Identifier: GPL-2.0-or-later
"""Quantities of two sides into rows: medians with their ratio, interval, p value and verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from balloontrace.compare.run_order import Order
from balloontrace.compare.significance import (
    LEVEL,
    Evidence,
    adjust,
    enough_for_verdict,
    order_of_measured,
    weigh,
)
from balloontrace.results.comparison import SAME, UNDECIDED, Row, Spread


@dataclass(frozen=True, slots=True)
class Quantity:
    """A row before it has numbers."""

    name: str
    label: str
    unit: str = "ns"
    part_of: str | None = None


def to_frame(values: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """One row a replicate, one column a quantity; NaN where it was not measured."""
    return pd.DataFrame([dict(each) for each in values])


def compare_row(
    quantity: Quantity, frames: Sequence[pd.DataFrame], order: Order, *, judged: bool
) -> tuple[Row, Evidence]:
    """A row, and what its values prove; unless `judged`, its medians and ratio only."""
    columns = [column_of(frame, quantity.name) for frame in frames]
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


def column_of(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """The values of all replicates, NaN where not measured."""
    if name not in frame:
        return np.full(len(frame), np.nan)
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(0)
    return Spread(len(values), *map(_plain, (median(values), min(values), max(values))))


def _plain(value: float) -> float:
    """An integer where it is one, so that it is shown as one."""
    return int(value) if float(value).is_integer() else float(value)


def judge_family(rows: Sequence[Row], words: tuple[str, str]) -> list[Row]:
    """All that scatter as one family (Holm), the others each by itself; parts not at all.

    `words` are for less and for more.
    """
    alone = {row.name: row.p_value for row in rows if row.p_value is not None and row.part_of is None}
    family = {row.name: alone[row.name] for row in rows if row.name in alone and not is_constant(row)}
    adjusted = dict(zip(family, adjust(list(family.values())), strict=True))
    return with_verdicts(rows, {**alone, **adjusted}, words)


def with_verdicts(rows: Sequence[Row], adjusted: dict[str, float], words: tuple[str, str]) -> list[Row]:
    """`words` are for less and for more."""
    return [row if row.part_of is not None else _verdict(row, adjusted.get(row.name), words) for row in rows]


def _verdict(row: Row, p_adjusted: float | None, words: tuple[str, str]) -> Row:
    if p_adjusted is None or row.before.median is None or row.after.median is None:
        return row
    # In pairs the ratio is of those; without one the medians tell the direction.
    change = row.after.median - row.before.median if row.ratio is None else row.ratio - 1
    if not enough_for_verdict(row.before.n, row.after.n):
        # Four runs have an interval, and nothing is claimed either way.
        return replace(row, p_adjusted=p_adjusted, verdict=UNDECIDED if row.ratio_low is None else None)
    verdict = UNDECIDED
    if is_constant(row) and change == 0:
        verdict = SAME
    elif p_adjusted <= LEVEL and not row.contradicts_itself and change != 0 and not _holds_one(row):
        verdict = words[change > 0]
    judged = replace(row, p_adjusted=p_adjusted, verdict=verdict)
    return judged if verdict in words else _reach_one(judged)


def _holds_one(row: Row) -> bool:
    return row.ratio_low is not None and row.ratio_high is not None and row.ratio_low <= 1 <= row.ratio_high


def _reach_one(row: Row) -> Row:
    """The same with an interval that reaches to 1: with all tests of the table in mind 1 is not refused."""
    if row.ratio_low is None or row.ratio_high is None:
        return row
    return replace(row, ratio_low=min(row.ratio_low, 1.0), ratio_high=max(row.ratio_high, 1.0))


def is_constant(row: Row) -> bool:
    """Whether neither side has different values."""
    return all(side.n > 0 and side.minimum == side.maximum for side in (row.before, row.after))


def says_something(row: Row) -> bool:
    """Whether any run has more than 0."""
    return any(side.maximum for side in (row.before, row.after))

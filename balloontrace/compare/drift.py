# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the machine changed while the runs were made, and whether that explains what was found.

Kendall's tau shows a trend within a side, exactly for few runs. Von Neumann's ratio shows that neighbours are
more alike than others, as when a machine wanders. Where neither is seen in runs whose sides were not made in
turn, nothing is removed: that would hide a real difference. The threshold for a trend is low (both sides
together: 20 %), because one too small to be sure of can still fake a difference.

What is left without the drift is estimated in up to three ways, all of which must find a difference: with
one trend for both sides; with a trend for each, compared halfway between them; and, if the machine wanders,
with the random walk that the steps between neighbours suggest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit
from scipy.stats import kendalltau

from balloontrace.compare.paired_runs import Estimate
from balloontrace.results.comparison import Drift

_Values = NDArray[np.float64]

FEWEST_RUNS = 4
_SIDE_LEVEL, _COMMON_LEVEL, _WANDER_LEVEL = 0.05, 0.2, 0.01
_ROUNDING = 1e-9


def is_found(drift: Drift) -> bool:
    """Whether a trend is more than chance, for this side alone."""
    return drift.p_value is not None and drift.p_value <= _SIDE_LEVEL


def find_drift(values: _Values, places: _Values) -> Drift:
    """The trend of one side; nothing of fewer than 4 runs, or of values that are all the same."""
    if len(values) < FEWEST_RUNS or values.min() <= 0 or values.min() == values.max():
        return Drift()
    centred = places - places.mean()
    slope = float(centred @ np.log(values) / (centred @ centred))
    return Drift(math.exp(slope), float(kendalltau(places, values).pvalue))


def without_drift(
    before: _Values, after: _Values, places: Sequence[_Values], level: float
) -> Estimate | None:
    """The logarithm of the ratio with a drift taken out; None where no drift is suspected."""
    logs = [np.log(before), np.log(after)]
    wanders = _wanders(logs, places)
    if not wanders and not _has_trend(logs, places):
        return None
    ways = [*_fits(logs, places, level), *(_walk(logs, places, level) for _ in range(wanders))]
    surest = max(ways, key=lambda way: way.p_value)
    return Estimate(
        surest.middle, min(way.low for way in ways), max(way.high for way in ways), surest.p_value
    )


def _has_trend(logs: Sequence[_Values], places: Sequence[_Values]) -> bool:
    """Either side alone, or both together by the weighted sum of their normal scores (Stouffer)."""
    scores, weights = [], []
    for values, place in zip(logs, places, strict=True):
        if values.min() == values.max():
            continue
        found = kendalltau(place, values)
        if found.pvalue <= _SIDE_LEVEL:
            return True
        scores.append(math.copysign(-float(ndtri(found.pvalue / 2)), found.statistic))
        weights.append(len(values) ** 1.5)
    if not scores:
        return False
    together = abs(np.dot(scores, weights)) / math.sqrt(np.dot(weights, weights))
    return bool(together >= -float(ndtri(_COMMON_LEVEL / 2)))


def _steps(logs: Sequence[_Values], places: Sequence[_Values]) -> Iterator[tuple[_Values, _Values]]:
    """Of each side, in order of time: its steps from run to run, and its values around their mean."""
    for values, place in zip(logs, places, strict=True):
        ordered = values[np.argsort(place)]
        yield np.diff(ordered), ordered - ordered.mean()


def _wanders(logs: Sequence[_Values], places: Sequence[_Values]) -> bool:
    """Whether neighbours are more alike than chance makes them: von Neumann's ratio, of both sides."""
    of_sides = list(_steps(logs, places))
    total = sum(float(around @ around) for _, around in of_sides)
    if total <= _ROUNDING**2:
        return False
    ratio = sum(float(steps @ steps) for steps, _ in of_sides) / total
    count = sum(len(around) for _, around in of_sides)
    # Mean and variance of a sum of two such sides, for values without order.
    mean = 2 * (count - 2) / (count - 2) if count > 2 else 2.0
    return (mean - ratio) / math.sqrt(4 / count) > -float(ndtri(_WANDER_LEVEL))


def _fits(logs: Sequence[_Values], places: Sequence[_Values], level: float) -> Iterator[Estimate]:
    """The difference of the sides beside one trend, and beside two, halfway between the sides."""
    halfway = sum(float(place.mean()) for place in places) / 2
    values = np.concatenate(logs)
    place = np.concatenate(places) - halfway
    side = np.repeat([0.0, 1.0], [len(each) for each in logs])
    ones = np.ones(len(values))
    yield _fitted(np.column_stack([side, ones, place]), values, level)
    if len(values) > FEWEST_RUNS:
        yield _fitted(np.column_stack([side, ones, place, place * side]), values, level)


def _fitted(design: _Values, values: _Values, level: float) -> Estimate:
    """The first coefficient of least squares, by Student's t."""
    found, *_ = np.linalg.lstsq(design, values)
    rest = values - design @ found
    freedom = len(values) - design.shape[1]
    spread = max(float(rest @ rest) / freedom, (_ROUNDING * max(1.0, float(np.ptp(values)))) ** 2)
    error = math.sqrt(spread * float(np.linalg.pinv(design.T @ design)[0, 0]))
    return _estimate(float(found[0]), error, freedom, level)


def _walk(logs: Sequence[_Values], places: Sequence[_Values], level: float) -> Estimate:
    """The difference of means, were all that differs a random walk with the steps seen within the sides."""
    squares = [steps @ steps / max(1, len(steps)) for steps, _ in _steps(logs, places)]
    gaps = [np.ptp(place) / max(1, len(place) - 1) for place in places]
    per_run = float(np.mean([square / gap for square, gap in zip(squares, gaps, strict=True)]))
    weights = np.zeros(sum(map(len, logs)))
    for sign, place in zip((-1, 1), places, strict=True):
        weights[place.astype(np.intp)] = sign / len(place)
    # Var(sum w x) of a walk: each step is in all that follows it.
    after_each = np.cumsum(weights[::-1])[:-1]
    error = math.sqrt(per_run * float(after_each @ after_each))
    middle = float(logs[1].mean() - logs[0].mean())
    return _estimate(middle, max(error, _ROUNDING), len(weights) - 2, level)


def _estimate(middle: float, error: float, freedom: int, level: float) -> Estimate:
    reach = float(stdtrit(freedom, 1 - level / 2)) * error
    return Estimate(middle, middle - reach, middle + reach, 2 * float(stdtr(freedom, -abs(middle) / error)))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Sentences beside a comparison: how many runs, in which order, and rows that contradict themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from balloontrace.compare.drift import is_found
from balloontrace.compare.run_order import Order, Turns
from balloontrace.compare.significance import (
    FEWEST_FOR_INTERVAL,
    FEWEST_FOR_VERDICT,
    enough_for_interval,
    enough_for_verdict,
)
from balloontrace.results.comparison import Drift, Row
from balloontrace.units import format_count


def name_two_kinds(rows: Sequence[Row]) -> Iterator[str]:
    """Of which rows the ratio lies outside its interval, and why."""
    labels = [row.label for row in rows if row.part_of is None and row.is_of_two_kinds]
    if labels:
        yield f"{', '.join(labels)}: the runs of one side fall into two groups, so medians and pairs disagree"


def name_too_few(before: int, after: int) -> Iterator[str]:
    """What so many runs on each side are not enough for."""
    runs = f"{format_count(before)} before and {format_count(after)} after"
    enough = f"take {FEWEST_FOR_VERDICT} of each, or more"
    if before == after == 1:
        yield "one run each: no interval is possible"
    elif not enough_for_interval(before, after):
        yield f"{runs} are too few for 95 %: {enough}"
    elif not enough_for_verdict(before, after):
        yield f"{runs} are too few for a verdict: {enough}"


def describe_order(
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

# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparisons of made-up runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from runs import HOST_TIMES, Setup, in_turn, make_runs, scatter, side

from balloontrace.compare.make_comparison import compare
from balloontrace.results.comparison import Comparison, Group, Row


def compared(before: Setup, after: Setup, runs: tuple[int, int] = (10, 10)) -> Comparison:
    """Made in turn where there are as many on each side; else in no known order."""
    numbers: tuple[Sequence[int], Sequence[int]] = ((), ())
    if runs[0] == runs[1]:
        numbers = in_turn(runs[0])
    sides = (
        make_runs(before, scatter(runs[0]), numbers[0]),
        make_runs(after, scatter(runs[1], shift=3), numbers[1]),
    )
    return compare(side("before", sides[0]), side("after", sides[1]))


def only_group(comparison: Comparison) -> Group:
    (group,) = comparison.groups
    return group


def row(group: Group, name: str) -> Row:
    (found,) = [each for each in (*group.times, *group.counts) if each.name == name]
    return found


PAIR = Setup(mib=80, host_times=HOST_TIMES)


@functools.cache
def typical() -> Comparison:
    """Stock against patched, six runs and five, one of them not compared, and something to warn of."""
    patched = Setup(
        patched=True, changes={"boundaries": {"fill": "fill_balloon", "build": "set_page_bitmap"}}
    )
    numbers = in_turn(6)
    before = make_runs(Setup(), scatter(6), numbers[0]) + make_runs(Setup(mib=8), [1], [20])
    after = make_runs(patched, scatter(5, shift=2), numbers[1][:5])
    return compare(side("stock", before), side("patched", after))


@functools.cache
def both_sides() -> Comparison:
    slow = replace(PAIR, host_times=replace(HOST_TIMES, call=1000))
    before, after = make_runs(PAIR, scatter(5)), make_runs(slow, scatter(5), range(5, 10))
    return compare(side("before", before), side("after", after))

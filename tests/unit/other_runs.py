# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings that also report, hint, run out of memory and answer statistics, as sides of a comparison."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import synthetic
from flows import Flow
from other_work import poll
from page_hinting import SETTINGS, migration_spans
from page_reporting import Orders, cycle_spans
from runs import in_turn
from synthetic_host import REALTIME_NS

from balloontrace.analysis.make_report import analyse
from balloontrace.compare.make_comparison import compare
from balloontrace.compare.recordings import Recordings
from balloontrace.format.recording import read_recording
from balloontrace.results.comparison import Comparison
from balloontrace.results.report import Report

RUN_NS = 10**10
S = 10**9


@dataclass(frozen=True)
class Others:
    """What a recording has; `cycles` are the blocks of the one report of each."""

    cycles: Sequence[Orders] = ()
    migrations: int = 0
    oom_calls: int = 0
    polls: int = 0
    inflates: bool = False


ALL = Others(({9: 3, 10: 29}, {9: 7}, {}), migrations=1, oom_calls=2, polls=3, inflates=True)


def make_other_run(others: Others, number: int = 0, *, name: str = "run", **changes: object) -> Report:
    """One recording analysed, made at its number's place in time."""
    stream = io.BytesIO(other_recording(others, number, **changes))
    return analyse(replace(read_recording(stream), label=f"{name}-{number}.bt"))


def other_recording(others: Others, number: int = 0, **changes: object) -> bytes:
    """The same as it would be in a file."""
    clock_ns = S + number * RUN_NS
    flow = Flow(clock_ns=clock_ns)
    if others.inflates or others.oom_calls:
        flow.resize(4096)
    for orders in others.cycles:
        flow.now += S // 10
        flow.spans += cycle_spans(flow.now, *([orders] if orders else []))
    for _ in range(others.migrations):
        flow.now += S // 10
        flow.spans += migration_spans(flow.now)
    for _ in range(others.oom_calls):
        flow.now += S // 10
        flow.oom(256)
    for _ in range(others.polls):
        flow.now += S // 10
        poll(flow)
    started = {"monotonic_ns": clock_ns - S // 10, "realtime_ns": REALTIME_NS + clock_ns}
    end = {"ended": {"monotonic_ns": clock_ns + 2 * S}}
    described = {"started": started, "page_hinting": SETTINGS, **changes}
    return synthetic.recording_bytes(flow, changes=described, end=end)


def other_side(name: str, others: Sequence[Others], numbers: Sequence[int]) -> Recordings:
    """A recording for each, at these places in time."""
    runs = [make_other_run(each, at, name=name) for each, at in zip(others, numbers, strict=True)]
    return Recordings(name, tuple(runs))


def scattered(count: int, extra: int = 0) -> list[Others]:
    """All of it, with blocks, calls and polls that scatter; `extra` blocks of order 10 in each."""
    return [
        replace(
            ALL,
            cycles=({9: 3 + number % 4, 10: 29 + extra}, {9: 7}, {}),
            oom_calls=2 + number % 3,
            polls=3 + number % 2,
        )
        for number in range(count)
    ]


@functools.cache
def with_others() -> Comparison:
    """Six runs a side made in turn; AFTER reports more."""
    before, after = in_turn(6)
    return compare(
        other_side("before", scattered(6), before), other_side("after", scattered(6, extra=30), after)
    )

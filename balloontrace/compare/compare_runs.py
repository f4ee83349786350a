# SPDX-License-Identifier: GPL-2.0-or-later
"""Page reporting, hinting, out of memory and statistics of whole recordings, before and after.

A run is a recording. Times are one family (Holm at 5 %), counts another. How long a recording is, and parts
of rows, have an interval and no verdict. Times for each GiB are there where amounts differ: else they say
what the times say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from balloontrace.compare.compare_rows import Quantity, compare_row, judge_family, says_something, to_frame
from balloontrace.compare.comparison_notes import describe_order, name_too_few, name_two_kinds
from balloontrace.compare.measured_runs import ORDERS, FoundRun, find_run, is_whole
from balloontrace.compare.run_order import Order, Turns, find_order
from balloontrace.results.comparison import (
    FASTER,
    FEWER,
    HINT,
    INDEPENDENT,
    MORE,
    OF_RECORDINGS,
    OOM,
    PAIRED,
    REPORT,
    SLOWER,
    STATISTICS,
    Drift,
    RunGroup,
)
from balloontrace.results.report import Report
from balloontrace.units import format_things

_PER_GIB = "_per_gib"
_RECORDED = Quantity("recorded_ns", "recorded for")


def _amounts(word: str) -> tuple[Quantity, ...]:
    return Quantity("pages", f"pages {word}", "pages"), Quantity("bytes", "in bytes", "B", "pages")


def _times(*quantities: tuple[str, str]) -> tuple[Quantity, ...]:
    """Each with the same for a GiB."""
    return tuple(
        quantity
        for name, label in quantities
        for quantity in (
            Quantity(name, label),
            Quantity(f"{name}{_PER_GIB}", f"{label} per GiB", "ns/GiB"),
        )
    )


_TIMES: Mapping[str, tuple[Quantity, ...]] = {
    REPORT: _times(
        ("worker_ns", "worker"),
        ("transport_ns", "transport"),
        ("host_c_ns", "host's c"),
        ("host_d_ns", "host's d"),
    ),
    HINT: (Quantity("wall_ns", "until all are back"), Quantity("sending_ns", "sending")),
    OOM: _times(("calls_ns", "time")),
    STATISTICS: (
        Quantity("answer_p50_ns", "to answer, median"),
        Quantity("answer_max_ns", "to answer, at most"),
        Quantity("collecting_ns", "collecting"),
    ),
}
_COUNTS: Mapping[str, tuple[Quantity, ...]] = {
    REPORT: (
        Quantity("reports", "reports", ""),
        Quantity("failed", "failed reports", ""),
        Quantity("cycles", "cycles", ""),
        *_amounts("reported"),
        Quantity("bytes_per_minute", "reported a minute", "B/min"),
        Quantity("blocks", "blocks", ""),
        *(Quantity(f"blocks.order_{order}", f"of order {order}", "", "blocks") for order in range(ORDERS)),
        Quantity("pages_again", "reported again", "pages"),
        Quantity("again_ratio", "share of it", "ratio", "pages_again"),
    ),
    HINT: (
        Quantity("migrations", "migrations", ""),
        Quantity("commands", "commands", ""),
        Quantity("blocks", "blocks", ""),
        *_amounts("hinted"),
        Quantity("bytes_per_s", "rate of sending", "B/s"),
        Quantity("pages_taken_early", "to the shrinker", "pages"),
    ),
    OOM: (
        Quantity("operations", "times", ""),
        Quantity("calls", "calls", ""),
        *_amounts("given back"),
    ),
    STATISTICS: (Quantity("polls", "polls", ""), Quantity("answers", "answers", "")),
}

# Rows that say nothing where all runs have 0.
_MAY_LACK = frozenset(["failed", *(f"blocks.order_{order}" for order in range(ORDERS))])


@dataclass(frozen=True, slots=True)
class _Side:
    """The runs of one side that count, and how many recordings do not, by the reason."""

    runs: tuple[FoundRun, ...]
    left_out: Mapping[str, int]


def compare_runs(
    before: Sequence[Report], after: Sequence[Report], wanted: Iterable[str] = OF_RECORDINGS
) -> tuple[RunGroup, ...]:
    """What either side has besides inflates and deflates, of each sort that is wanted."""
    groups = (_compare(what, before, after) for what in wanted)
    return tuple(group for group in groups if group is not None)


def _compare(what: str, before: Sequence[Report], after: Sequence[Report]) -> RunGroup | None:
    sides = [_runs(what, reports) for reports in (before, after)]
    shared = {run.identity for run in sides[0].runs} & {run.identity for run in sides[1].runs} - {""}
    kept = [_without(side, shared) for side in sides]
    judged = all(side.runs for side in kept) or not shared
    sides = kept if judged else sides
    if not any(run.happened for side in sides for run in side.runs):
        return None
    runs = [[each.run for each in side.runs] for side in sides]
    frames = [to_frame([run.values for run in side]) for side in runs]
    order = find_order(*([run.started_realtime_ns for run in side] for side in runs))
    amounts = {run.values.get("pages") for side in runs for run in side}
    times = [each for each in _TIMES[what] if len(amounts) > 1 or not each.name.endswith(_PER_GIB)]
    weighed = {
        each: compare_row(each, frames, order, judged=judged) for each in (_RECORDED, *times, *_COUNTS[what])
    }
    found = {each: row for each, (row, _) in weighed.items() if row.before.n or row.after.n}
    recorded = [replace(found[each], p_value=None) for each in (_RECORDED,) if each in found]
    rows = [
        *recorded,
        *judge_family([found[each] for each in times if each in found], (FASTER, SLOWER)),
    ]
    counts = judge_family([found[each] for each in _COUNTS[what] if each in found], (FEWER, MORE))
    explained = [
        each.label for each, (_, evidence) in weighed.items() if evidence.drift_explains and each != _RECORDED
    ]
    sizes = len(runs[0]), len(runs[1])
    return RunGroup(
        what=what,
        times=tuple(rows),
        counts=tuple(row for row in counts if row.name not in _MAY_LACK or says_something(row)),
        before=tuple(runs[0]),
        after=tuple(runs[1]),
        notes=(
            *_left_out(sides),
            *_unmeasured(sides),
            *([] if judged else ["the same recordings are on both sides, which proves nothing"]),
            *(name_too_few(*sizes) if all(sizes) else ()),
            *(describe_order(order, *sizes, (Drift(), Drift()), explained) if judged else ()),
            *name_two_kinds((*rows, *counts)),
        ),
        design=_design(order),
        order=order.turns.value,
    )


def _design(order: Order) -> str:
    return PAIRED if order.turns is Turns.PAIRS else INDEPENDENT


_OF_MANY = {"that is a copy": "that are copies", "that is on both sides": "that are on both sides"}


def _runs(what: str, reports: Iterable[Report]) -> _Side:
    """Each run once; sums of a recording with a part missing are of nothing in particular."""
    runs: list[FoundRun] = []
    known: set[str] = set()
    left_out = {"with a part missing": 0, "that is a copy": 0}
    for report in reports:
        found = find_run(what, report)
        if found is None:
            continue
        if not is_whole(report):
            left_out["with a part missing"] += 1
        elif found.identity and found.identity in known:
            left_out["that is a copy"] += 1
        else:
            known.add(found.identity)
            runs.append(found)
    return _Side(tuple(runs), left_out)


def _without(side: _Side, shared: set[str]) -> _Side:
    kept = tuple(run for run in side.runs if run.identity not in shared)
    return _Side(kept, {**side.left_out, "that is on both sides": len(side.runs) - len(kept)})


def _left_out(sides: Sequence[_Side]) -> Iterator[str]:
    for name, side in zip(("before", "after"), sides, strict=True):
        for reason, count in side.left_out.items():
            if count:
                many = _OF_MANY.get(reason, reason)
                recordings = format_things(count, f"recording {reason}", f"recordings {many}")
                yield f"left out of {name}: {recordings}"


def _unmeasured(sides: Sequence[_Side]) -> Iterator[str]:
    for name, side in zip(("before", "after"), sides, strict=True):
        if not side.runs:
            yield f"not measured {name}"


def has_both(group: RunGroup) -> bool:
    """Whether there is something on each side to compare."""
    return bool(group.before and group.after)

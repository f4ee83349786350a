# SPDX-License-Identifier: GPL-2.0-or-later
"""An operation as time passed: its size, target, waits, shortages, pauses and stages."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.clockwork import Clockwork
from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.guest_readings import MEM_AVAILABLE, Reading
from balloontrace.analysis.operations import FoundOperation
from balloontrace.analysis.picture_part import Part
from balloontrace.analysis.picture_stages import spread_over_time, time_stages
from balloontrace.analysis.work_items import NOT_MEASURED
from balloontrace.format.stages import OTHER
from balloontrace.format.vocabulary import Function, Kind, SpanFlag
from balloontrace.results.operation import Operation
from balloontrace.results.pictures import (
    BALLOON_SIZE,
    PAGES_MOVED,
    PAGES_TOLD,
    PAUSE_MEDIANS,
    PAUSE_SHARE,
    Available,
    Curve,
    Pause,
    Stretch,
    Target,
    TimeLine,
)

CURVE_COLUMNS = 720
STAGE_COLUMNS = 180

_LISTED_PAUSES = 5
_LISTED_SHORTAGES = 100
_STEPS_FOR_PAUSES = 32


def draw_up_time_line(part: Part, shown: Operation, readings: Sequence[Reading] = ()) -> TimeLine:
    """All that the picture of an operation against time shows."""
    found, wall_ns = part.found, part.found.end_ns - part.found.start_ns
    steps = _steps(part, shown)
    clocks = time_stages(part, {row.stage for row in shown.stages if row.total_ns is not None})
    edges = part.edges(STAGE_COLUMNS)
    return TimeLine(
        number=part.index + 1,
        wall_ns=wall_ns,
        curve=None if steps is None else _curve(steps, part.edges(CURVE_COLUMNS)),
        targets=_targets(part, steps),
        waits=_waits(part, wall_ns // CURVE_COLUMNS),
        shortages_ns=_shortages(part),
        pauses=_pauses(steps, clocks, found),
        stages=spread_over_time(clocks, edges),
        moved_pages=None if steps is None else _moved(steps, edges, found.kind),
        available=_available(readings, found),
    )


def _available(readings: Sequence[Reading], found: FoundOperation) -> tuple[Available, ...]:
    """Memory over the operation; nothing without a reading on either side of it."""
    known = [
        (reading.at_ns, reading.memory_bytes[MEM_AVAILABLE])
        for reading in readings
        if MEM_AVAILABLE in reading.memory_bytes
    ]
    times_ns = [at_ns for at_ns, _ in known]
    first, behind = bisect_right(times_ns, found.start_ns) - 1, bisect_left(times_ns, found.end_ns)
    if first < 0 or behind == len(known):
        return ()
    inside = known[first : behind + 1]
    together = -(-len(inside) // CURVE_COLUMNS)
    # The least of neighbours where there are more than can be seen, but for the first and the last.
    groups = [inside[start : start + together] for start in range(1, len(inside) - 1, together)]
    chosen = (inside[0], *(min(group, key=itemgetter(1)) for group in groups), inside[-1])
    return tuple(
        Available(min(max(at_ns, found.start_ns), found.end_ns) - found.start_ns, size_bytes)
        for at_ns, size_bytes in chosen
    )


@dataclass(frozen=True, slots=True)
class Steps:
    """A step function: `pages[i]` from `at_ns[i]` on; `before_pages` until then, None when not known."""

    what: str
    at_ns: Column
    pages: Column
    before_pages: int | None

    def at(self, times_ns: Column) -> tuple[Column, Mask]:
        """Its value at some times, and where that is known."""
        which = np.searchsorted(self.at_ns, times_ns, side="right")
        first = self.before_pages if self.before_pages is not None else 0
        values = np.concatenate([np.array([first], dtype=np.int64), self.pages])[which]
        return values, np.asarray((which > 0) | (self.before_pages is not None))


def _steps(part: Part, shown: Operation) -> Steps | None:
    """The balloon's size as the driver counts it, or where sends are finer, as they tell."""
    items, rows, sends = part.evidence.operations.items, part.items, part.sends
    counted = rows[items.actual_pages[rows] != NOT_MEASURED]
    before = part.found.actual_before_pages
    sent = _pages_of_sends(part.evidence.spans, sends, shown)
    if len(counted) and (sent is None or len(counted) >= len(sends)):
        order = np.argsort(items.end_ns[counted], kind="stable")
        counted = counted[order]
        return Steps(BALLOON_SIZE, items.end_ns[counted], items.actual_pages[counted], before)
    if sent is None or not len(sends):
        return None
    ends_ns = part.evidence.spans.end_ns[sends]
    order = np.argsort(ends_ns, kind="stable")
    told = np.cumsum(sent[order])
    if before is None:
        return Steps(PAGES_MOVED, ends_ns[order], told, 0)
    sizes = before + part.found.kind.direction * told
    if (sizes < 0).any():  # it was told of more than it held: pages twice
        return Steps(PAGES_MOVED, ends_ns[order], told, 0)
    return Steps(PAGES_TOLD, ends_ns[order], sizes, before)


def _pages_of_sends(spans: Spans, sends: NDArray[np.intp], shown: Operation) -> Column | None:
    """Pages that each send named for the first time; None where one does not say."""
    if spans.has(SpanFlag.PAGES)[sends].all():
        return spans.int64("pages")[sends]
    carried = shown.payload_sends
    if carried is None or None in carried.new_pages:
        return None
    by_start = dict(zip(carried.start_ns, carried.new_pages, strict=True))
    found = [by_start.get(start_ns) for start_ns in spans.int64("start_ns")[sends].tolist()]
    known = [pages for pages in found if pages is not None]
    return np.array(known, dtype=np.int64) if len(known) == len(found) else None


def _curve(steps: Steps, edges: Column) -> Curve:
    firsts, known = steps.at(edges)
    low, high = firsts[:-1].copy(), firsts[:-1].copy()
    inside = (steps.at_ns >= edges[0]) & (steps.at_ns <= edges[-1])
    pages = steps.pages[inside]
    column = np.searchsorted(edges, steps.at_ns[inside], side="right") - 1
    column = np.clip(column, 0, len(low) - 1)
    # Where it was not known before, the first value in a column is all there is.
    touched = np.zeros(len(low), dtype=np.bool_)
    touched[column] = True
    low[touched & ~known[:-1]] = np.iinfo(np.int64).max
    high[touched & ~known[:-1]] = np.iinfo(np.int64).min
    np.minimum.at(low, column, pages)
    np.maximum.at(high, column, pages)
    return Curve(
        steps.what,
        len(steps.at_ns),
        _optional(firsts[:-1], known[:-1]),
        _optional(low, known[:-1] | touched),
        _optional(high, known[:-1] | touched),
        int(steps.pages[-1]),
    )


def _optional(values: Column, known: Mask) -> tuple[int | None, ...]:
    return tuple(
        value if there else None for value, there in zip(values.tolist(), known.tolist(), strict=True)
    )


def _moved(steps: Steps, edges: Column, kind: Kind) -> tuple[int | None, ...]:
    """Progress in each column; a step at the very end counts in the last one."""
    values, known = steps.at(edges)
    way = 1 if steps.what == PAGES_MOVED else kind.direction
    return _optional(way * np.diff(values), known[:-1] & known[1:])


def _targets(part: Part, steps: Steps | None) -> tuple[Target, ...]:
    """The size asked for as the work items read it; none where the curve is of something else."""
    if steps is not None and steps.what == PAGES_MOVED:
        return ()
    items = part.evidence.operations.items
    rows = part.items[items.target_pages[part.items] != NOT_MEASURED]
    if not len(rows):
        return ()
    targets = items.target_pages[rows]
    changes = np.flatnonzero(np.append(True, targets[1:] != targets[:-1]))
    # Until the first work item has read it, it has been the target all the same.
    from_ns = np.where(changes == 0, 0, items.start_ns[rows][changes] - part.found.start_ns)
    return tuple(Target(*row) for row in zip(from_ns.tolist(), targets[changes].tolist(), strict=True))


def _waits(part: Part, nearly_ns: int) -> tuple[Stretch, ...]:
    """Work items that got too few pages, those less than `nearly_ns` apart as one."""
    items = part.evidence.operations.items
    rows = part.items[items.short[part.items]]
    if not len(rows):
        return ()
    starts_ns, ends_ns = items.start_ns[rows] - part.found.start_ns, items.end_ns[rows] - part.found.start_ns
    firsts = np.flatnonzero(np.append(True, starts_ns[1:] - ends_ns[:-1] > nearly_ns))
    lasts = np.append(firsts[1:], len(rows)) - 1
    columns = (np.maximum(starts_ns[firsts], 0), ends_ns[lasts], lasts - firsts + 1)
    return tuple(Stretch(*row) for row in zip(*(column.tolist() for column in columns), strict=True))


def _shortages(part: Part) -> tuple[int, ...]:
    spans, nesting, found = part.evidence.spans, part.evidence.operations.nesting, part.found
    which = spans.of(Function.VIRTIO_BALLOON_OOM_NOTIFY) & (nesting.device == found.device)
    start_ns = spans.int64("start_ns")[which]
    inside = start_ns[(start_ns >= found.start_ns) & (start_ns <= found.end_ns)] - found.start_ns
    return tuple(inside[:_LISTED_SHORTAGES].tolist())


def _pauses(
    steps: Steps | None, clocks: Mapping[str, Clockwork], found: FoundOperation
) -> tuple[Pause, ...] | None:
    """The longest times between two steps, as PAUSE_SHARE and PAUSE_MEDIANS have it, in order of time."""
    if steps is None or len(steps.at_ns) < _STEPS_FOR_PAUSES:
        return None
    times_ns = np.concatenate([np.array([found.start_ns]), steps.at_ns])
    gaps_ns = np.diff(times_ns)
    least_ns = max(PAUSE_SHARE * (found.end_ns - found.start_ns), PAUSE_MEDIANS * float(np.median(gaps_ns)))
    longest = np.argsort(-gaps_ns, kind="stable")[:_LISTED_PAUSES]
    chosen = np.sort(longest[gaps_ns[longest] >= least_ns])
    return tuple(
        Pause(
            int(times_ns[index] - found.start_ns),
            int(times_ns[index + 1] - found.start_ns),
            _mostly(clocks, times_ns[index : index + 2]),
        )
        for index in chosen.tolist()
    )


def _mostly(clocks: Mapping[str, Clockwork], bounds_ns: Column) -> str:
    """The stage that most of the time between two times went to."""
    spent = {stage: float(np.diff(clock.until(bounds_ns))[0]) for stage, clock in clocks.items()}
    spent[OTHER.code] = float(bounds_ns[1] - bounds_ns[0]) - sum(spent.values())
    return max(spent, key=lambda stage: spent[stage])

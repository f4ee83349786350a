# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report was made of into the numbers its pictures show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.group_statistics import distributions, floor_log2
from balloontrace.analysis.make_report import Examined
from balloontrace.analysis.nesting import NO_SPAN, look_up
from balloontrace.analysis.operations import FoundOperation, Operations, operation_of_spans
from balloontrace.analysis.page_sets import PageSet
from balloontrace.analysis.stages import HostTimes
from balloontrace.analysis.work_items import NOT_MEASURED
from balloontrace.format.stages import ABCD, BACK, BCD, BUILD, OTHER, TO_HOST, A, B, C, D
from balloontrace.format.vocabulary import Function, Kind, SpanFlag
from balloontrace.results.pictures import (
    BALLOON_SIZE,
    PAGES_MOVED,
    PAGES_TOLD,
    PAUSE_MEDIANS,
    PAUSE_SHARE,
    Curve,
    Histogram,
    PageMap,
    Pause,
    Pictures,
    StageOverTime,
    Stretch,
    Target,
    TimeLine,
)
from balloontrace.results.report import Operation, longest

MOST_OPERATIONS = 12
CURVE_COLUMNS = 720
STAGE_COLUMNS = 180
MOST_CELLS = 4096
ROW_CELLS = 64

_LISTED_PAUSES = 5
_LISTED_SHORTAGES = 100
_STEPS_FOR_PAUSES = 32

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What a guest's report was made of. `pages` are those each operation named, if its payloads tell."""

    spans: Spans
    operations: Operations
    host: HostTimes | None
    pages: Sequence[PageSet | None]


def depict(examined: Examined) -> Pictures:
    """Pictures of the MOST_OPERATIONS longest operations and of all calls; there are none of a host alone."""
    if examined.guest is None:
        return Pictures()
    guest, shown = examined.guest, examined.report.operations
    times = examined.both.times if examined.both else None
    evidence = _Evidence(guest.spans, guest.operations, times, guest.carried.pages)
    indices = [operation.number - 1 for operation in longest(shown, MOST_OPERATIONS)]
    of_spans = operation_of_spans(evidence.spans, evidence.operations)
    return Pictures(
        time_lines=tuple(
            _time_line(_Part(evidence, index, of_spans == index), shown[index]) for index in indices
        ),
        histograms=tuple(_histograms(evidence.spans)),
        page_maps=tuple(
            map_pages(index + 1, pages)
            for index in indices
            if (pages := evidence.pages[index]) is not None and len(pages.starts)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One operation, and which spans are of its work items."""

    evidence: _Evidence
    index: int
    own: Mask

    @property
    def found(self) -> FoundOperation:
        return self.evidence.operations.found[self.index]

    @property
    def items(self) -> NDArray[np.intp]:
        """Rows of its work items."""
        return np.flatnonzero(self.evidence.operations.item_operation == self.index)

    @property
    def sends(self) -> NDArray[np.intp]:
        """Indices of the spans that are its sends."""
        return np.flatnonzero(self.evidence.operations.send_operation == self.index)

    def edges(self, columns: int) -> Column:
        """Where columns of equal width begin, and the last one ends."""
        found = self.found
        steps = np.arange(columns + 1, dtype=np.int64)
        # Not (wall * steps) // columns: that overflows after 150 days.
        width, rest = divmod(found.end_ns - found.start_ns, columns)
        return found.start_ns + width * steps + rest * steps // columns


@dataclass(frozen=True, slots=True)
class _Clockwork:
    """Time that went to something, as a function of time: straight lines between `at_ns`, sorted."""

    at_ns: Floats
    spent_ns: Floats

    @classmethod
    def of(cls, starts_ns: Column, ends_ns: Column, shares: Floats | None = None) -> _Clockwork:
        """Of intervals, which may overlap; of interval i only `shares[i]` counts, everywhere in it alike."""
        share = np.ones(len(starts_ns)) if shares is None else shares
        at_ns = np.concatenate([starts_ns, ends_ns])
        order = np.argsort(at_ns, kind="stable")
        at_ns = at_ns[order]
        slopes = np.cumsum(np.concatenate([share, -share])[order])
        spent_ns = np.zeros(len(at_ns))
        spent_ns[1:] = np.cumsum(slopes[:-1] * np.diff(at_ns))
        return cls(at_ns.astype(np.float64), spent_ns)

    def until(self, times_ns: Column) -> Floats:
        if not len(self.at_ns):
            return np.zeros(len(times_ns))
        return np.interp(times_ns.astype(np.float64), self.at_ns, self.spent_ns)


def _time_line(part: _Part, shown: Operation) -> TimeLine:
    found, wall_ns = part.found, part.found.end_ns - part.found.start_ns
    steps = _steps(part, shown)
    clocks = _stage_clocks(part, {row.stage for row in shown.stages if row.total_ns is not None})
    edges = part.edges(STAGE_COLUMNS)
    return TimeLine(
        number=part.index + 1,
        wall_ns=wall_ns,
        curve=None if steps is None else _curve(steps, part.edges(CURVE_COLUMNS)),
        targets=_targets(part, steps),
        waits=_waits(part, wall_ns // CURVE_COLUMNS),
        shortages_ns=_shortages(part),
        pauses=_pauses(steps, clocks, found),
        stages=_stages_over_time(clocks, edges),
        moved_pages=None if steps is None else _moved(steps, edges, found.kind),
    )


@dataclass(frozen=True, slots=True)
class _Steps:
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


def _steps(part: _Part, shown: Operation) -> _Steps | None:
    """The balloon's size as the driver counts it, or where sends are finer, as they tell."""
    items, rows, sends = part.evidence.operations.items, part.items, part.sends
    counted = rows[items.actual_pages[rows] != NOT_MEASURED]
    before = part.found.actual_before_pages
    sent = _pages_of_sends(part.evidence.spans, sends, shown)
    if len(counted) and (sent is None or len(counted) >= len(sends)):
        order = np.argsort(items.end_ns[counted], kind="stable")
        counted = counted[order]
        return _Steps(BALLOON_SIZE, items.end_ns[counted], items.actual_pages[counted], before)
    if sent is None or not len(sends):
        return None
    ends_ns = part.evidence.spans.end_ns[sends]
    order = np.argsort(ends_ns, kind="stable")
    told = np.cumsum(sent[order])
    if before is None:
        return _Steps(PAGES_MOVED, ends_ns[order], told, 0)
    sizes = before + part.found.kind.direction * told
    if (sizes < 0).any():  # it was told of more than it held: pages twice
        return _Steps(PAGES_MOVED, ends_ns[order], told, 0)
    return _Steps(PAGES_TOLD, ends_ns[order], sizes, before)


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


def _curve(steps: _Steps, edges: Column) -> Curve:
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


def _moved(steps: _Steps, edges: Column, kind: Kind) -> tuple[int | None, ...]:
    """Progress in each column; a step at the very end counts in the last one."""
    values, known = steps.at(edges)
    way = 1 if steps.what == PAGES_MOVED else kind.direction
    return _optional(way * np.diff(values), known[:-1] & known[1:])


def _targets(part: _Part, steps: _Steps | None) -> tuple[Target, ...]:
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


def _waits(part: _Part, nearly_ns: int) -> tuple[Stretch, ...]:
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


def _shortages(part: _Part) -> tuple[int, ...]:
    spans, nesting, found = part.evidence.spans, part.evidence.operations.nesting, part.found
    which = spans.of(Function.VIRTIO_BALLOON_OOM_NOTIFY) & (nesting.device == found.device)
    start_ns = spans.int64("start_ns")[which]
    inside = start_ns[(start_ns >= found.start_ns) & (start_ns <= found.end_ns)] - found.start_ns
    return tuple(inside[:_LISTED_SHORTAGES].tolist())


def _stage_clocks(part: _Part, stages: set[str]) -> dict[str, _Clockwork]:
    """The stages that the operation's table shows, but for `other`, in order; what is left is that."""
    spans, operations = part.evidence.spans, part.evidence.operations
    nesting, sends = operations.nesting, part.sends
    starts_ns, ends_ns = spans.int64("start_ns"), spans.end_ns
    bodies_ns, stands_in = _bodies(part)
    sent = _Clockwork.of(starts_ns[sends], ends_ns[sends])
    in_body = sends[(nesting.body[sends] != NO_SPAN) | look_up(stands_in, nesting.work[sends], none=False)]
    bitmaps = np.flatnonzero(part.own & (nesting.bitmap == np.arange(len(spans))))
    in_bitmap = sends[nesting.bitmap[sends] != NO_SPAN]
    build = _less(_Clockwork.of(starts_ns[bitmaps], ends_ns[bitmaps]), spans, in_bitmap)
    allocate = _less(_Clockwork.of(*bodies_ns), spans, in_body)
    if BUILD.code in stages:
        allocate = _Clockwork(*_subtract(allocate, build))
    if ABCD.code in stages:
        return {ABCD.code: allocate}
    clocks = {A.code: allocate}
    if BUILD.code in stages:
        clocks[BUILD.code] = build
    if C.code not in stages:
        return {**clocks, BCD.code: sent}
    return {**clocks, **dict(_host_clocks(part, stages))}


def _bodies(part: _Part) -> tuple[tuple[Column, Column], Mask]:
    """When pages were allocated or released, and by span, for which work items something stands in for that.

    Where the work item stands in, it begins by reading the target, which is not part of it.
    """
    spans, operations = part.evidence.spans, part.evidence.operations
    items, nesting, rows = operations.items, operations.nesting, part.items
    which = part.own & spans.of(Function.FILL_BALLOON, Function.LEAK_BALLOON) & (nesting.oom == NO_SPAN)
    bodies = np.flatnonzero(which)
    alone = rows[~np.isin(items.span[rows], nesting.work[bodies])]
    stands_in = np.zeros(len(spans), dtype=np.bool_)
    stands_in[items.span[alone]] = True
    start_ns = items.start_ns[alone]
    return (
        np.concatenate([spans.int64("start_ns")[bodies], start_ns + items.config_in_body_ns[alone]]),
        np.concatenate([spans.end_ns[bodies], start_ns + items.body_ns[alone]]),
    ), stands_in


def _less(whole: _Clockwork, spans: Spans, without: NDArray[np.intp]) -> _Clockwork:
    """`whole` without the time of some spans inside it."""
    inner = _Clockwork.of(spans.int64("start_ns")[without], spans.end_ns[without])
    return _Clockwork(*_subtract(whole, inner))


def _subtract(whole: _Clockwork, inner: _Clockwork) -> tuple[Floats, Floats]:
    at_ns = np.sort(np.concatenate([whole.at_ns, inner.at_ns]))
    times = at_ns.astype(np.int64)
    return at_ns, whole.until(times) - inner.until(times)


def _host_clocks(part: _Part, stages: set[str]) -> Iterator[tuple[str, _Clockwork]]:
    """Each send in its parts. Within a send, which is shorter than a column as a rule, they are spread."""
    host, spans, sends = part.evidence.host, part.evidence.spans, part.sends
    assert host is not None  # stages that only the host's side tells are there
    start_ns, duration_ns = spans.int64("start_ns")[sends], spans.int64("duration_ns")[sends]
    served_ns, calls_ns = host.served_ns[sends], host.calls_ns[sends]
    parts: dict[str, Column] = {}
    if TO_HOST.code in stages and host.to_host_ns is not None and host.back_ns is not None:
        parts |= {TO_HOST.code: host.to_host_ns[sends], BACK.code: host.back_ns[sends]}
    else:
        parts[B.code] = duration_ns - served_ns
    parts |= {C.code: served_ns - calls_ns, D.code: calls_ns}
    for stage, part_ns in parts.items():
        yield stage, _Clockwork.of(start_ns, start_ns + duration_ns, part_ns / np.maximum(duration_ns, 1))


def _stages_over_time(clocks: Mapping[str, _Clockwork], edges: Column) -> tuple[StageOverTime, ...]:
    """Each stage's part of each column; rounded so that its sum stays right, and `other` is the rest."""
    rest = np.diff(edges)
    shown = []
    for stage, clock in clocks.items():
        ns = np.diff(np.rint(clock.until(edges)).astype(np.int64))
        ns = np.clip(ns, 0, rest)
        rest = rest - ns
        shown.append(StageOverTime(stage, tuple(ns.tolist())))
    return (*shown, StageOverTime(OTHER.code, tuple(rest.tolist())))


def _pauses(
    steps: _Steps | None, clocks: Mapping[str, _Clockwork], found: FoundOperation
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


def _mostly(clocks: Mapping[str, _Clockwork], bounds_ns: Column) -> str:
    """The stage that most of the time between two times went to."""
    spent = {stage: float(np.diff(clock.until(bounds_ns))[0]) for stage, clock in clocks.items()}
    spent[OTHER.code] = float(bounds_ns[1] - bounds_ns[0]) - sum(spent.values())
    return max(spent, key=lambda stage: spent[stage])


def _histograms(spans: Spans) -> Iterator[Histogram]:
    """Of each function that has calls with a duration; where only entries are seen there is none."""
    durations_ns = spans.int64("duration_ns")
    for function in Function:
        taken_ns = durations_ns[spans.of(function)]
        if not taken_ns.any():
            continue
        (spread,) = distributions(taken_ns, np.zeros(len(taken_ns), dtype=np.int64), 1)
        buckets = np.bincount(floor_log2(np.maximum(taken_ns, 1)))
        yield Histogram(
            function=function.symbol,
            calls=spread.count,
            p50_ns=spread.p50_ns or 0,
            p90_ns=spread.p90_ns or 0,
            p99_ns=spread.p99_ns or 0,
            max_ns=spread.max_ns or 0,
            buckets=tuple(buckets.tolist()),
        )


def map_pages(number: int, pages: PageSet) -> PageMap:
    """A set of pages that is not empty in MOST_CELLS cells at most, whole rows of ROW_CELLS."""
    span = pages.span
    assert span is not None
    first_pfn, last_pfn = span
    cell_pages = 1
    while True:
        row_pages = cell_pages * ROW_CELLS
        begin, end = first_pfn // row_pages * row_pages, (last_pfn // row_pages + 1) * row_pages
        if (end - begin) // cell_pages <= MOST_CELLS:
            break
        cell_pages *= 2
    edges = np.arange(begin, end + 1, cell_pages, dtype=np.int64)
    counts = pages.count_in(edges[:-1], edges[1:])
    lengths = pages.lengths.astype(np.float64)
    weighted = np.diff(_Clockwork.of(pages.starts, pages.ends, lengths).until(edges))
    return PageMap(
        number,
        begin,
        cell_pages,
        ROW_CELLS,
        tuple(counts.tolist()),
        tuple(
            total / count if count else None
            for total, count in zip(weighted.tolist(), counts.tolist(), strict=True)
        ),
    )

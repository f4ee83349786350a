# SPDX-License-Identifier: GPL-2.0-or-later
"""Two sets of analysed recordings into a comparison: what changed, and whether the data can tell.

Operations of one kind and size are compared with each other, each being one replicate. The wall time and the
stages that make it up are one family of hypotheses, the counts are another; within a family p values are
adjusted (Holm), so that where nothing changed each of the two tables claims something at most once in 20
comparisons. Parts of stages have an interval and no verdict: they would cost the others their power. A
count that is the same in all runs of either side is no sample, and is judged by its own p value. Intervals
are of each row alone, so one that excludes 1 may come with `~`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import pandas as pd

from balloontrace.comparison import (
    COMPARISON_VERSION,
    FASTER,
    FEWER,
    MORE,
    SAME,
    SLOWER,
    UNDECIDED,
    WALL,
    Comparison,
    Difference,
    Group,
    LeftOut,
    Method,
    Row,
    Side,
    Spread,
)
from balloontrace.differences import find_differences, find_group_differences, lost_events
from balloontrace.errors import BalloontraceError
from balloontrace.evidence import LEVEL, adjust, enough_for_interval, smallest_p_value, weigh
from balloontrace.replicates import SEND_PART, Found, find_replicates
from balloontrace.results import DEFLATE, INFLATE, Report
from balloontrace.stages import (
    STAGE_A,
    STAGE_B,
    STAGE_BCD,
    STAGE_BUILD,
    STAGE_C,
    STAGE_D,
    STAGE_OTHER,
    STAGE_UNSPLIT,
)
from balloontrace.units import format_count, format_pages_as_bytes

METHOD = Method(
    confidence=1 - LEVEL,
    interval="all ratios that neither test refuses, from the ratios of each run after to each run before",
    test="exact Mann-Whitney and Brunner-Munzel, two-sided; the larger p value counts",
    correction="Holm over the wall time and its stages, and over the counts; not over parts of stages",
)

ENOUGH_RUNS = 5
"""Of each side: the least that lets all six rows of a table of both sides get a verdict."""

_NS = "ns"
_BYTES = "B"


@dataclass(frozen=True, slots=True)
class Recordings:
    """One side's recordings, analysed: those of guests, each with its host's where there is one."""

    given: str
    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True)
class _Quantity:
    """A row before it has numbers."""

    name: str
    label: str
    unit: str = _NS
    part_of: str | None = None


_WALL = _Quantity(WALL, "wall")
_UNSPLIT = (
    _Quantity(STAGE_A, "allocate or release"),
    _Quantity("a.extend", "memory for bitmaps", part_of=STAGE_A),
    _Quantity(STAGE_BCD, "build, send..madvise"),
    _Quantity(STAGE_BUILD, "build", part_of=STAGE_BCD),
    _Quantity(SEND_PART, "send..madvise", part_of=STAGE_BCD),
)
_SPLIT = (
    *_UNSPLIT[:2],
    _Quantity(STAGE_B, "send"),
    _Quantity(STAGE_BUILD, "build", part_of=STAGE_B),
    _Quantity("b.to_host", "guest to host", part_of=STAGE_B),
    _Quantity("b.back", "host to guest", part_of=STAGE_B),
    _Quantity(STAGE_C, "translate"),
    _Quantity(STAGE_D, "madvise"),
)
_SENDS_UNTRACED = (_Quantity(STAGE_UNSPLIT, "allocate..madvise"),)
_OTHER = (
    _Quantity(STAGE_OTHER, "outside the stages"),
    _Quantity("other.config", "reading the target", part_of=STAGE_OTHER),
    _Quantity("other.work_item", "rest of work item (actual written)", part_of=STAGE_OTHER),
    _Quantity("other.requeue", "between work items (re-queue)", part_of=STAGE_OTHER),
    _Quantity("other.interrupt", "interrupt to first work item", part_of=STAGE_OTHER),
    _Quantity("other.rest", "remaining", part_of=STAGE_OTHER),
)
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


class ComparisonError(BalloontraceError):
    """Two sets of recordings hold nothing that could be compared."""


def compare(before: Recordings, after: Recordings, kinds: Sequence[str] = (INFLATE, DEFLATE)) -> Comparison:
    """Compare all operations of the same kind and size; only those of `kinds`.

    ComparisonError when there are none, or when hosts were recorded on one side only.
    """
    sides = (before, after)
    _require_same_sides(before, after)
    found = [_replicates(side, kinds) for side in sides]
    common = [key for key in _keys(found[0].counting) if key in _keys(found[1].counting)]
    if not common:
        raise ComparisonError(_nothing_common(sides, found, kinds))
    chosen = [
        [[each for each in side.counting if (each.kind, each.pages) == key] for side in found]
        for key in common
    ]
    differences = find_differences(before.reports, after.reports)
    for (kind, pages), each in zip(common, chosen, strict=True):
        differences += find_group_differences(f"{kind} of {format_pages_as_bytes(pages)}", *each)
    return Comparison(
        comparison_version=COMPARISON_VERSION,
        before=_describe(before, common, found[0]),
        after=_describe(after, common, found[1]),
        groups=tuple(_group(kind, pages, *each) for (kind, pages), each in zip(common, chosen, strict=True)),
        differences=tuple(differences),
        left_out=tuple(_left_out("before", found[0], common)) + tuple(_left_out("after", found[1], common)),
        warnings=(*_copies(sides, found), *_warnings(sides, differences)),
        method=METHOD,
    )


@dataclass(frozen=True, slots=True)
class _Replicates:
    """The operations of one side: those that count, and the others with the reason."""

    counting: tuple[Found, ...]
    others: tuple[tuple[str, int, str], ...]


def _replicates(side: Recordings, kinds: Sequence[str]) -> _Replicates:
    counting: list[Found] = []
    others = []
    for report in side.reports:
        found, refused = find_replicates(report)
        counting += [each for each in found if each.kind in kinds]
        others += [(each.recording, each.operation, each.reason) for each in refused if each.kind in kinds]
    return _Replicates(tuple(counting), tuple(others))


def _keys(found: Iterable[Found]) -> list[tuple[str, int]]:
    """Kinds and sizes, inflates first and small ones first."""
    return sorted({(each.kind, each.pages) for each in found}, key=lambda key: (key[0] != INFLATE, key[1]))


def _require_same_sides(before: Recordings, after: Recordings) -> None:
    """ComparisonError unless hosts were recorded everywhere, or nowhere."""
    hosts = [[report.host is not None for report in side.reports] for side in (before, after)]
    if len({host for side in hosts for host in side}) < 2:
        return
    for side, flags in zip((before, after), hosts, strict=True):
        if len(set(flags)) > 1:
            alone = next(report.header.recording for report in side.reports if report.host is None)
            raise ComparisonError(
                f"{side.given} has a host's recording for some of its guest's and none for {alone}; "
                "--guest-only compares the guests' alone"
            )
    names = ("of the guest alone", "of guest and host")
    words = [names[flags[0]] for flags in hosts]
    raise ComparisonError(
        f"{before.given} is {words[0]} and {after.given} is {words[1]}; "
        "--guest-only compares the guests' alone"
    )


def _nothing_common(
    sides: tuple[Recordings, Recordings], found: Sequence[_Replicates], kinds: Sequence[str]
) -> str:
    """Why no operation has its like on the other side."""
    for side, each in zip(sides, found, strict=True):
        if not each.counting:
            wanted = f"complete {kinds[0]}" if len(kinds) == 1 else "complete operation"
            reason = f": {each.others[0][2]} ({each.others[0][0]})" if each.others else ""
            return f"{side.given} holds no {wanted} to compare{reason}"
    held = [
        " and ".join(f"{kind}s of {format_pages_as_bytes(pages)}" for kind, pages in _keys(each.counting)[:4])
        for each in found
    ]
    return (
        f"no operation of the same kind and size is on both sides: {sides[0].given} holds {held[0]}, "
        f"{sides[1].given} {held[1]}"
    )


def _describe(side: Recordings, common: Sequence[tuple[str, int]], found: _Replicates) -> Side:
    guests = [report.header for report in side.reports]
    costs = [each.own_cost for report in side.reports for each in (report, report.host) if each is not None]
    return Side(
        given=side.given,
        recordings=tuple(header.recording for header in guests),
        host_recordings=tuple(
            dict.fromkeys(report.host.header.recording for report in side.reports if report.host)
        ),
        labels=_different(header.label for header in guests),
        driver_kinds=_different(header.driver_kind for header in guests),
        kernel_releases=_different(header.machine.kernel_release for header in guests),
        operations=sum((each.kind, each.pages) in common for each in found.counting),
        events_lost=lost_events(side.reports),
        events_seen=_sum(report.events_seen for report in side.reports),
        bpf_time_ns=_sum(None if cost is None else cost.bpf_time_ns for cost in costs),
        cpu_ns=_sum(None if cost is None else cost.cpu_ns for cost in costs),
    )


def _different(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))


def _sum(values: Iterable[int | None]) -> int | None:
    listed = list(values)
    known = [value for value in listed if value is not None]
    return sum(known) if known and len(known) == len(listed) else None


def _left_out(name: str, found: _Replicates, common: Sequence[tuple[str, int]]) -> Iterator[LeftOut]:
    """The operations of a side that were not compared, by recording and reason."""
    others = [
        *found.others,
        *(
            (
                each.replicate.recording,
                each.replicate.operation,
                "the other side has none of its kind and size",
            )
            for each in found.counting
            if (each.kind, each.pages) not in common
        ),
    ]
    reasons: dict[tuple[str, str], list[int]] = {}
    for recording, operation, reason in others:
        reasons.setdefault((recording, reason), []).append(operation)
    for (recording, reason), operations in reasons.items():
        yield LeftOut(name, recording, tuple(operations), reason)


def _copies(sides: Sequence[Recordings], found: Sequence[_Replicates]) -> Iterator[str]:
    """What would make a run look like several: the same recording under more than one name."""
    for side, each in zip(sides, found, strict=True):
        runs = [one.run for one in each.counting if one.run is not None]
        copies = len(runs) - len(set(runs))
        if copies:
            operations = "operation is" if copies == 1 else "operations are"
            yield (
                f"{side.given}: {format_count(copies)} {operations} the same run as another: "
                "copies prove nothing"
            )


def _warnings(sides: Sequence[Recordings], differences: Sequence[Difference]) -> Iterator[str]:
    """What speaks against the comparison: unexpected differences, then what is wrong with recordings."""
    yield from (each.text for each in differences if not each.expected)
    found: dict[str, list[str]] = {}
    for report in (report for side in sides for report in side.reports):
        for warning in (*report.warnings, *_disagreements(report)):
            found.setdefault(warning, []).append(report.header.recording)
    for warning, recordings in found.items():
        more = f" and {format_count(len(recordings) - 1)} more" if len(recordings) > 1 else ""
        yield f"{recordings[0]}{more}: {warning}"


def _disagreements(report: Report) -> Iterator[str]:
    """Counts that an independent source contradicts."""
    for check in report.checks:
        if check.agrees is False:
            counts = f"{format_count(check.spans)} in spans, {format_count(check.independent)}"
            yield f"{check.name} is counted differently: {counts} by {check.source}"


def _group(kind: str, pages: int, before: Sequence[Found], after: Sequence[Found]) -> Group:
    """Compare the operations of one kind and size."""
    sides = (before, after)
    frames = [_frame(side) for side in sides]
    split = all(STAGE_C in frame for frame in frames)
    stages = _stages(frames, split=split)
    times = _judge([_row(quantity, frames) for quantity in (_WALL, *stages, *_OTHER)], (FASTER, SLOWER))
    counts = _judge([_row(quantity, frames) for quantity in _COUNTS], (FEWER, MORE))
    return Group(
        kind=kind,
        pages=pages,
        times=tuple(row for row in times if row.part_of is None or _says_something(row)),
        counts=tuple(counts),
        before=tuple(each.replicate for each in before),
        after=tuple(each.replicate for each in after),
        notes=(*_notes(times, frames, split=split), *_two_kinds((*times, *counts))),
    )


def _frame(side: Sequence[Found]) -> pd.DataFrame:
    """One row a replicate, one column a quantity; NaN where it was not measured."""
    return pd.DataFrame([dict(each.replicate.values) for each in side])


def _stages(frames: Sequence[pd.DataFrame], *, split: bool) -> tuple[_Quantity, ...]:
    """The rows between wall and other: as fine as both sides are."""
    if split:
        return _SPLIT
    if not all(STAGE_BCD in frame for frame in frames):
        return _SENDS_UNTRACED
    return _UNSPLIT


def _row(quantity: _Quantity, frames: Sequence[pd.DataFrame]) -> Row:
    values = [_values(frame, quantity.name) for frame in frames]
    found = weigh(*values)
    return Row(
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


def _values(frame: pd.DataFrame, name: str) -> list[float]:
    return frame[name].dropna().tolist() if name in frame else []


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(0)
    return Spread(len(values), *map(_plain, (median(values), min(values), max(values))))


def _plain(value: float) -> float:
    """An integer where it is one, so that it is shown as one."""
    return int(value) if float(value).is_integer() else float(value)


def _judge(rows: Sequence[Row], words: tuple[str, str]) -> list[Row]:
    """Give the rows that are no parts their verdict; `words` are for less and for more."""
    family = {
        row.name: row.p_value
        for row in rows
        if row.part_of is None and row.p_value is not None and not _constant(row)
    }
    adjusted = dict(zip(family, adjust(list(family.values())), strict=True))
    return [
        row if row.part_of is not None else _verdict(row, adjusted.get(row.name, row.p_value), words)
        for row in rows
    ]


def _verdict(row: Row, p_adjusted: float | None, words: tuple[str, str]) -> Row:
    if p_adjusted is None or row.before.median is None or row.after.median is None:
        return row
    verdict = UNDECIDED
    if _constant(row) and row.before.median == row.after.median:
        verdict = SAME
    elif p_adjusted <= LEVEL and not row.contradicts_itself and row.before.median != row.after.median:
        verdict = words[row.after.median > row.before.median]
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
        yield f"{', '.join(labels)}: the runs of a side are of two kinds, so that medians and pairs disagree"


def _notes(times: Sequence[Row], frames: Sequence[pd.DataFrame], *, split: bool) -> Iterator[str]:
    """What the data cannot tell, and why."""
    before, after = map(len, frames)
    runs = f"{format_count(before)} before and {format_count(after)} after"
    judged = sum(row.part_of is None and row.p_value is not None for row in times)
    enough = f"take {ENOUGH_RUNS} of each, or more"
    if before == after == 1:
        yield "one run each: no interval is possible"
    elif not enough_for_interval(before, after):
        yield f"{runs} are too few for 95 %: {enough}"
    elif smallest_p_value(before, after) * judged > LEVEL:
        yield f"{runs} are too few for a verdict: {enough}"
    if not split and any(STAGE_C in frame for frame in frames):
        yield "b, c and d are apart on one side only, so they are compared together"
    for name, frame in zip(("before", "after"), frames, strict=True):
        apart = int(frame[STAGE_C].notna().sum()) if STAGE_C in frame else 0
        if split and apart < len(frame):
            yield f"b, c and d are apart in {apart} of {len(frame)} operations {name}"

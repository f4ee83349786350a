# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host's memory did: which memory was discarded, whether it became free, and what came back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Line, Section, Table, words
from balloontrace.results.host_memory import DiscardPeriod, Freed, HostRegion, TakenBack
from balloontrace.results.host_side import HostSide
from balloontrace.units import NOT_MEASURED, format_bytes, format_count

_NAME_COLUMNS = 36
_LISTED_REGIONS = 8
_LISTED_PERIODS = 12


def describe_host_memory(host: HostSide) -> list[Section]:
    """The regions that calls named; and, where no operation tells it, what each period of calls freed."""
    alone = host.pairing is None
    return [_regions(host.regions), _periods(host.periods) if alone else []]


def describe_memory_of(freed: Freed | None, taken: TakenBack | None) -> Iterator[Item]:
    """What the host has to say of one operation: remarks below its table."""
    for each in (freed, taken):
        if each is not None and each.sentence is not None:
            yield Item(each.sentence)


def _regions(regions: Sequence[HostRegion]) -> Section:
    if not regions:
        return []
    rows = [
        (
            _kind(each),
            numbers.size(each.bytes),
            numbers.size(each.resident_before_bytes),
            numbers.size(each.huge_before_bytes),
            numbers.size(each.resident_after_bytes),
            numbers.size(each.huge_after_bytes),
        )
        for each in regions[:_LISTED_REGIONS]
    ]
    names = ("memory discarded", "size", "before", "huge", "after", "huge")
    more = len(regions) - _LISTED_REGIONS
    return [
        Table(names, rows, "lrrrrr", {0: _NAME_COLUMNS}),
        *([Line(f"and {format_count(more)} more regions")] if more > 0 else []),
    ]


def _kind(region: HostRegion) -> str:
    pages = f", {format_bytes(region.page_bytes)} pages" if "hugetlb" in region.kind else ""
    return f"{region.kind}{pages}{', locked' if region.locked else ''} {region.name or ''}".strip()


def _periods(periods: Sequence[DiscardPeriod]) -> Section:
    """Rows for the longest, and a sentence for each of them."""
    if not periods:
        return []
    by_length = sorted(periods, key=lambda each: each.started_ns - each.ended_ns)[:_LISTED_PERIODS]
    shown = sorted(by_length, key=lambda each: each.started_ns)
    first_ns = periods[0].started_ns
    rows = [
        (
            str(number),
            numbers.duration(each.started_ns - first_ns),
            numbers.duration(each.ended_ns - each.started_ns),
            each.what,
            numbers.count(each.buffers),
            numbers.size(each.freed.asked_bytes if each.freed else None),
            str(each.freed.verdict) if each.freed else NOT_MEASURED,
            numbers.count(each.taken_back.faults if each.taken_back else None),
        )
        for number, each in enumerate(shown, 1)
    ]
    names = ("#", "after", "took", "the process", "buffers", "asked", "verdict", "faults then")
    found: Section = [Table(names, rows, "rrrlrrlr")]
    if len(periods) > len(shown):
        found = [
            *found,
            Line(f"{format_count(len(periods) - len(shown))} shorter ones: --format csv has them"),
        ]
    return [*found, *(item for number, each in enumerate(shown, 1) for item in _said(number, each))]


def _said(number: int, period: DiscardPeriod) -> Iterator[Item]:
    for item in describe_memory_of(period.freed, period.taken_back):
        yield Item(words("{}: {}", str(number), item.text))

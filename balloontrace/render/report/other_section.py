# SPDX-License-Identifier: GPL-2.0-or-later
"""What drivers did besides their work items, and the queue of statistics, in words."""

from __future__ import annotations

from collections.abc import Iterator

from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Line, Section, Text, words
from balloontrace.results.other_operation import (
    COMPACTION,
    RESTORE,
    OtherOperation,
    StatisticsQueue,
    busiest,
)
from balloontrace.results.report import Report
from balloontrace.units import format_count

_LISTED = 20


def describe_others(report: Report) -> Section:
    """An item for each of the busiest ones; nothing where there were none."""
    others = report.other_operations
    if not others:
        return []
    shown = busiest(others, _LISTED)
    begun_ns = report.header.started_monotonic_ns or others[0].started_ns
    items = [Item(_other(each, begun_ns)) for each in shown]
    of = f", the {_LISTED} busiest of {format_count(len(others))}" if len(others) > len(shown) else ""
    return [Line(f"Other operations, which no target asked for{of}:"), *items]


def _other(other: OtherOperation, begun_ns: int) -> Text:
    """`out of memory of virtio0 after 1.20 s, 303 calls of ... in 1.10 s: 303 MiB given back; ...`."""
    busy = words("in {}", numbers.duration(other.calls_ns))
    if other.wall_ns > other.calls_ns:
        busy = words("{} of {}", busy, numbers.duration(other.wall_ns))
    return words(
        "{} of {} after {}, {} {}: {}{}",
        other.what,
        other.device,
        numbers.duration(max(0, other.started_ns - begun_ns)),
        numbers.things(other.calls, f"call of {other.function}", f"calls of {other.function}"),
        busy,
        _moved(other),
        _stood(other),
    )


def _moved(other: OtherOperation) -> Text:
    if other.what == RESTORE:
        return ""
    if other.what != COMPACTION:
        return words("{} given back; ", numbers.pages(other.pages))
    if not other.failed:
        return words("{} moved; ", numbers.pages(other.pages))
    return words("{} moved, {} moved nothing; ", numbers.pages(other.pages), numbers.count(other.failed))


def _stood(other: OtherOperation) -> Text:
    before = _of_target(other.size_before_pages, other.target_before_pages)
    after = _of_target(other.size_after_pages, other.target_after_pages)
    if before == after:
        return words("{} before and after", before)
    return words("{} before, {} after", before, after)


def _of_target(size_pages: int | None, target_pages: int | None) -> Text:
    return words("{} of target {}", numbers.pages(size_pages), numbers.pages(target_pages))


def describe_statistics(report: Report) -> Section:
    """A line for each balloon that was asked."""
    return [Line(_statistics(each)) for each in report.statistics if each.polls or each.answers]


def _statistics(queue: StatisticsQueue) -> Text:
    return words("Statistics of {}: {}", queue.device, tuple(_asked(queue)))


def _asked(queue: StatisticsQueue) -> Iterator[str]:
    yield from words("{}", numbers.things(queue.polls, "poll"))
    if queue.answer_p50_ns is not None:
        answered = words(
            ", answered in {} (median), {} at most, the last time {}",
            numbers.duration(queue.answer_p50_ns),
            numbers.duration(queue.answer_max_ns),
            numbers.duration(queue.last_answer_ns),
        )
        yield from answered
    if queue.answers is not None:
        yield from words(
            "; {} collected in {}",
            numbers.things(queue.answers, "answer"),
            numbers.duration(queue.collecting_ns),
        )

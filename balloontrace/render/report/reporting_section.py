# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page reporting for people: how much, in what blocks, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator

from balloontrace.render import numbers
from balloontrace.render.blocks import Line, Number, Section, Text, words
from balloontrace.results.page_reporting import PageReporting
from balloontrace.units import NOT_MEASURED, format_count


def describe_reporting(reporting: PageReporting | None) -> Section:
    """Four lines at most; nothing where reports were not traced."""
    return [] if reporting is None else list(_lines(reporting))


def _lines(reporting: PageReporting) -> Iterator[Line]:
    yield Line(
        words(
            "Page reporting: {} in {}, {}, {}{}",
            numbers.things(reporting.reports, "report"),
            numbers.things(reporting.cycles, "cycle"),
            numbers.things(reporting.blocks, "block"),
            numbers.pages(reporting.pages),
            _by_order(reporting),
        )
    )
    if reporting.reports or reporting.cycles:
        yield Line(
            words(
                "worker {}, transport {}; {} a minute; {}",
                numbers.duration(reporting.worker_ns),
                numbers.duration(reporting.transport_ns),
                numbers.pages(reporting.pages_per_minute),
                _in_force(reporting),
            )
        )
    if reporting.pages_again is not None:
        yield Line(
            words(
                "reported again: {} ({}), in {} of {}",
                numbers.pages(reporting.pages_again),
                numbers.share(reporting.again_ratio),
                numbers.count(reporting.cycles_again),
                numbers.things(reporting.cycles, "cycle"),
            )
        )
    if reporting.host_d_ns is not None:
        yield Line(
            words(
                "of which on the host c {}, d {}",
                numbers.duration(reporting.host_c_ns),
                numbers.duration(reporting.host_d_ns),
            )
        )
    if reporting.failed:
        yield Line(words("{} failed", numbers.things(reporting.failed, "report")))


def _by_order(reporting: PageReporting) -> str:
    """`: 25 of order 9, 201 of order 10`."""
    listed = [f"{format_count(each.blocks)} of order {each.order}" for each in reporting.orders]
    return f": {', '.join(listed)}" if listed else ""


def _in_force(reporting: PageReporting) -> Text:
    """From which order on, and how long after."""
    order = NOT_MEASURED if reporting.from_order is None else str(reporting.from_order)
    delay = NOT_MEASURED if reporting.delay_ms is None else f"{format_count(reporting.delay_ms)} ms"
    return words(
        "from order {} on, delay {}",
        Number(order, reporting.from_order, ""),
        Number(delay, reporting.delay_ms, "ms"),
    )

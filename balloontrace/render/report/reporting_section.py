# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page reporting for people: how much, in what blocks, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator

from balloontrace.render import numbers
from balloontrace.render.blocks import Line, Number, Section, Table, Text, words
from balloontrace.results.page_reporting import PageReporting
from balloontrace.units import NOT_MEASURED, format_bytes, format_count

_NAMES = {
    "reports": "reports",
    "pages": "pages",
    "bytes": "memory",
    "worker_ns": "worker",
    "transport_ns": "transport",
    "host_c_ns": "host's c",
    "host_d_ns": "host's d",
    "pages_again": "pages again",
}
_FEW = 10


def describe_reporting(reporting: PageReporting | None) -> Section:
    """Some lines, and a table of what was reported in total, a minute and a cycle; nothing if not traced."""
    if reporting is None:
        return []
    return [*_lines(reporting), *([quantity_table(reporting)] if reporting.reports else [])]


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
        yield Line(words("{}{}", _in_force(reporting), _empty_cycles(reporting)))
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
    if reporting.failed:
        yield Line(words("{} failed", numbers.things(reporting.failed, "report")))


def quantity_table(reporting: PageReporting) -> Table:
    """What was reported: in total, for each minute, and the cycles' smallest, median and largest."""
    rows = [
        (
            _NAMES[each.name],
            *(
                value_of(value, each.unit)
                for value in (
                    each.total, each.per_minute, each.cycle_min, each.cycle_median, each.cycle_max
                )
            ),
        )
        for each in reporting.quantities
    ]  # fmt: skip
    return Table(("reporting", "total", "a minute", "a cycle: min", "median", "max"), rows, "lrrrrr")


def value_of(value: float | None, unit: str) -> Number:
    """A number in the unit it is meant for; counts of less than ten with a decimal where they have one."""
    match unit:
        case _ if value is None:
            return Number(NOT_MEASURED, None)
        case "ns":
            return numbers.duration(value)
        case "B":
            return Number(format_bytes(value), value, unit)
        case _ if value < _FEW and not float(value).is_integer():
            return Number(f"{value:.1f}", value, unit)
        case _:
            return Number(format_count(round(value)), value, unit)


def _empty_cycles(reporting: PageReporting) -> Text:
    """Cycles find nothing to report where all that is free was reported before."""
    empty = sum(not cycle.reports for cycle in reporting.each_cycle)
    return words("; {} without a report", numbers.things(empty, "cycle")) if empty else ""


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

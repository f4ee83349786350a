# SPDX-License-Identifier: GPL-2.0-or-later
"""All pictures of a report's page, under the names that its template knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from markupsafe import Markup

from balloontrace.render.report.histogram_svg import draw_buckets, draw_run_lengths
from balloontrace.render.report.page_map_svg import draw_page_map
from balloontrace.render.report.time_line_svg import draw_time_line
from balloontrace.render.stage_bars import Bar, draw_bars, segments_of
from balloontrace.results.operation import Operation, Total, longest
from balloontrace.results.pictures import Pictures, TimeLine
from balloontrace.results.report import Report
from balloontrace.units import format_duration_ns, format_pages_as_bytes

# More than these would bury the page.
DRAWN_OPERATIONS = 40


def draw_all(report: Report, pictures: Pictures) -> dict[str, object]:
    """The pictures, and those of their numbers that the words beside them say."""
    lines = {line.number: line for line in pictures.time_lines}
    drawn = longest(report.operations, DRAWN_OPERATIONS)
    calls = report.host.calls if report.host else ()
    return {
        "drawn": drawn,
        "overview": _draw_overview(drawn) if len(drawn) > 1 else None,
        "bars": {operation.number: _draw_operation(operation) for operation in drawn},
        "total_bars": {total.kind: _draw_total(total) for total in report.totals},
        "lines": lines,
        "time_lines": {number: _draw_time_line(report, line) for number, line in lines.items()},
        "maps": {each.number: each for each in pictures.page_maps},
        "page_maps": {each.number: draw_page_map(f"map-{each.number}", each) for each in pictures.page_maps},
        "run_lengths": dict(_draw_run_lengths(report.operations)),
        "histograms": pictures.histograms,
        "latencies": dict(_draw_latencies([(each.function, each.buckets) for each in pictures.histograms])),
        "host_latencies": dict(_draw_latencies([(each.call, each.buckets) for each in calls])),
    }


def _draw_operation(operation: Operation) -> Markup:
    bar = Bar("", operation.wall_ns, segments_of(operation.stages))
    return draw_bars(f"stages-{operation.number}", f"Stages of operation {operation.number}", [bar])


def _draw_total(total: Total) -> Markup:
    bar = Bar("", total.wall_ns, segments_of(total.stages))
    return draw_bars(f"stages-{total.kind}", f"Stages of all {total.kind} operations", [bar])


def _draw_overview(operations: Iterable[Operation]) -> Markup:
    bars = [
        Bar(
            f"{operation.number} {operation.kind} of {format_pages_as_bytes(operation.pages)}: "
            f"{format_duration_ns(operation.wall_ns)}",
            operation.wall_ns,
            segments_of(operation.stages),
        )
        for operation in operations
    ]
    return draw_bars("stages-overview", "Stages of all operations", bars)


def _draw_time_line(report: Report, line: TimeLine) -> Markup:
    return draw_time_line(f"time-{line.number}", report.operations[line.number - 1].kind, line)


def _draw_latencies(histograms: list[tuple[str, tuple[int, ...]]]) -> Iterator[tuple[str, Markup]]:
    """A picture of each by its name, all in the same bounds: what is further to the right takes longer."""
    used = [index for _, buckets in histograms for index, count in enumerate(buckets) if count]
    if not used:
        return
    # A single bucket would be as wide as the page.
    bounds = (max(0, min(used) - 1), max(max(used) + 2, min(used) + 8))
    for name, buckets in histograms:
        if any(buckets):
            title = f"How long calls of {name} took"
            yield name, draw_buckets(f"latency-{name}", title, buckets, bounds, _from_ns)


def _from_ns(bucket: int) -> str:
    return format_duration_ns(1 << bucket)


def _draw_run_lengths(operations: Iterable[Operation]) -> Iterator[tuple[int, Markup]]:
    for operation in operations:
        payload = operation.payload
        if payload is not None and payload.distinct.run_orders:
            pages = {each.order: each.pages for each in payload.distinct.run_orders}
            title = f"Pages by the length of their run, operation {operation.number}"
            columns = [pages.get(order, 0) for order in range(max(pages) + 1)]
            yield operation.number, draw_run_lengths(f"runs-{operation.number}", title, columns)

# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as one HTML page for people: pictures and tables in a file that needs no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from balloontrace.render.blocks_html import unbroken
from balloontrace.render.html_page import render_page
from balloontrace.render.report.balloons_section import describe_balloons
from balloontrace.render.report.host_section import describe_host
from balloontrace.render.report.pictures_svg import (
    draw_buckets,
    draw_page_map,
    draw_run_lengths,
    draw_time_line,
    segments_of,
)
from balloontrace.render.report.recording_section import (
    describe_checks,
    describe_cost,
    describe_outside,
    loss_table,
    probe_table,
)
from balloontrace.render.report.sections import (
    describe_operation,
    describe_total,
    explain_no_operation,
    operation_table,
)
from balloontrace.render.stage_bars import Bar, draw_bars
from balloontrace.results.operation import Operation, StageRow, Total, longest
from balloontrace.results.pictures import Pictures, TimeLine
from balloontrace.results.recording_header import Header
from balloontrace.results.report import Report
from balloontrace.units import NS_PER_S, format_count, format_duration_ns, format_pages_as_bytes

# More than these would bury the page; CSV and JSON hold all of them.
LISTED_OPERATIONS = 200
DRAWN_OPERATIONS = 40


def render_html(report: Report, pictures: Pictures) -> str:
    """The whole page of a report."""
    lines = {line.number: line for line in pictures.time_lines}
    drawn = longest(report.operations, DRAWN_OPERATIONS)
    host = report.host
    return render_page(
        "report.html",
        report=report,
        title=_title(report),
        headline=_headline(report),
        no_operation=explain_no_operation(report),
        balloons=describe_balloons(report.balloons),
        checks=describe_checks(report.checks),
        outside=describe_outside(report),
        totals={total.kind: describe_total(total, whole=True) for total in report.totals},
        described={
            operation.number: describe_operation(operation, whole=True)
            for operation in report.operations
            if operation.number in lines
        },
        host_sections=describe_host(host) if host else [],
        probe_table=probe_table,
        loss_table=loss_table,
        cost=describe_cost,
        operation_table=operation_table(longest(report.operations, LISTED_OPERATIONS), lines),
        operations_caption=_operations_caption(report),
        started=_started(report.header),
        host_started=_started(host.header) if host else None,
        detailed=[operation for operation in report.operations if operation.number in lines],
        drawn=drawn,
        overview=_draw_overview(drawn) if len(drawn) > 1 else None,
        bars={operation.number: _draw_operation(operation) for operation in drawn},
        total_bars={total.kind: _draw_total(total) for total in report.totals},
        lines=lines,
        time_lines={number: _draw_time_line(report, line) for number, line in lines.items()},
        maps={each.number: each for each in pictures.page_maps},
        page_maps={each.number: draw_page_map(f"map-{each.number}", each) for each in pictures.page_maps},
        run_lengths=dict(_draw_run_lengths(report.operations)),
        histograms=pictures.histograms,
        latencies=dict(_draw_latencies([(each.function, each.buckets) for each in pictures.histograms])),
        host_latencies=dict(
            _draw_latencies([(each.call, each.buckets) for each in (host.calls if host else ())])
        ),
        why_no_payload=_first_with(report.not_measured, "what sends named"),
        stage_names=stage_names,
    )


def stage_names(stages: Iterable[StageRow]) -> dict[str, str]:
    """What the stages of a table are called."""
    return {row.stage: row.name for row in stages}


def _title(report: Report) -> str:
    words = [Path(report.header.recording).name]
    if report.operations:
        first = report.operations[0]
        size, wall = format_pages_as_bytes(first.pages), format_duration_ns(first.wall_ns)
        words.append(f"{first.kind} of {size} in {wall}")
    more = f" and {len(report.operations) - 1} more" if len(report.operations) > 1 else ""
    return f"balloontrace: {', '.join(words)}{more}"


def _headline(report: Report) -> str:
    if report.header.is_of_host:
        return "What the host did"
    if not report.operations:
        return "The balloon did not move" if report.pages_moved == 0 else "No operation"
    if len(report.operations) == 1:
        operation = report.operations[0]
        size, wall = format_pages_as_bytes(operation.pages), format_duration_ns(operation.wall_ns)
        return f"{operation.kind.capitalize()} of {unbroken(size)} in {unbroken(wall)}"
    return " and ".join(
        f"{format_count(total.operations)} {total.kind}{'s' if total.operations > 1 else ''}"
        for total in report.totals
    )


def _operations_caption(report: Report) -> str:
    count = len(report.operations)
    if count <= LISTED_OPERATIONS:
        return "Operations"
    return f"Operations, the {LISTED_OPERATIONS} longest of {format_count(count)}: --format csv has them all"


def _started(header: Header) -> str | None:
    seconds = (header.started_realtime_ns or 0) // NS_PER_S
    # Later than the year 9999 datetime gives up; no clock says that.
    if not 0 < seconds < 253_402_300_800:
        return None
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


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


def _first_with(sentences: Iterable[str], start: str) -> str | None:
    return next((sentence for sentence in sentences if sentence.startswith(start)), None)

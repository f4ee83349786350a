# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as one HTML page for people: pictures and tables in a file that needs no other."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path

from balloontrace.render.blocks_html import unbroken
from balloontrace.render.html_page import render_page
from balloontrace.render.report.balloons_section import describe_balloons
from balloontrace.render.report.guest_cost_section import describe_guest_cost
from balloontrace.render.report.hinting_section import describe_hinting
from balloontrace.render.report.host_section import describe_host
from balloontrace.render.report.operations_section import (
    describe_operation,
    describe_total,
    describe_why,
    explain_no_operation,
    operation_table,
)
from balloontrace.render.report.other_section import describe_others, describe_statistics
from balloontrace.render.report.page_pictures import draw_all
from balloontrace.render.report.recording_section import (
    describe_checks,
    describe_cost,
    describe_outside,
    loss_table,
    probe_table,
)
from balloontrace.render.report.reporting_section import describe_reporting
from balloontrace.render.report.sections import started_at
from balloontrace.render.report.what_if_section import describe_what_if
from balloontrace.results.operation import StageRow, longest
from balloontrace.results.pictures import Pictures
from balloontrace.results.report import Report
from balloontrace.units import format_count, format_duration_ns, format_pages_as_bytes

# More than these would bury the page; CSV and JSON hold all of them.
LISTED_OPERATIONS = 200
# Of each operation, at the top of the page; the others are in its own section.
_SENTENCES = 2


def render_html(report: Report, pictures: Pictures) -> str:
    """The whole page of a report."""
    detailed = {line.number for line in pictures.time_lines}
    return render_page(
        "report.html",
        report=report,
        title=_title(report),
        headline=_headline(report),
        started=started_at(report.header),
        host_started=started_at(report.host.header) if report.host else None,
        detailed=[operation for operation in report.operations if operation.number in detailed],
        why_no_payload=_first_with(report.not_measured, "what sends named"),
        stage_names=stage_names,
        **_described(report, detailed),
        **draw_all(report, pictures),
    )


def _described(report: Report, detailed: Container[int]) -> dict[str, object]:
    """What the other formats for people say as well."""
    return {
        "no_operation": explain_no_operation(report),
        "balloons": describe_balloons(report.balloons),
        "operation_table": operation_table(longest(report.operations, LISTED_OPERATIONS), detailed),
        "operations_caption": _operations_caption(report),
        "totals": {total.kind: describe_total(total, whole=True) for total in report.totals},
        "described": {
            operation.number: describe_operation(operation, whole=True)
            for operation in report.operations
            if operation.number in detailed
        },
        "what_if": {operation.number: describe_what_if(operation) for operation in report.operations},
        "host_sections": describe_host(report.host) if report.host else [],
        "why": describe_why(report.operations, most=_SENTENCES),
        "others": [
            section
            for section in (
                *describe_guest_cost(report.operations),
                describe_others(report),
                describe_statistics(report),
                describe_reporting(report.page_reporting),
                describe_hinting(report.page_hinting),
            )
            if section
        ],
        "outside": describe_outside(report),
        "checks": describe_checks(report.checks),
        "probe_table": probe_table,
        "loss_table": loss_table,
        "cost": describe_cost,
    }


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


def _first_with(sentences: Iterable[str], start: str) -> str | None:
    return next((sentence for sentence in sentences if sentence.startswith(start)), None)

# SPDX-License-Identifier: GPL-2.0-or-later
"""A report for people: human units, "-" where nothing was measured; as text it fits 80 columns."""

from __future__ import annotations

from datetime import UTC, datetime

from balloontrace.render.blocks import Line, Section, Title, words
from balloontrace.render.report.balloons_section import describe_balloons
from balloontrace.render.report.guest_cost_section import describe_guest_cost
from balloontrace.render.report.hinting_section import describe_hinting
from balloontrace.render.report.host_section import describe_host
from balloontrace.render.report.machine_section import describe_machine
from balloontrace.render.report.operations_section import describe_details, describe_operations, describe_why
from balloontrace.render.report.other_section import describe_others, describe_statistics
from balloontrace.render.report.recording_section import (
    describe_checks,
    describe_cost,
    describe_losses,
    describe_outside,
)
from balloontrace.render.report.reporting_section import describe_reporting
from balloontrace.results.recording_header import Header
from balloontrace.results.report import Report
from balloontrace.units import (
    NS_PER_S,
    format_things,
)


def describe_report(report: Report) -> list[Section]:
    """The whole report; sections with nothing in them are those that do not apply."""
    of_guest = not report.header.is_of_host
    return [
        _header(report),
        [Line(f"WARNING: {sentence}") for sentence in report.warnings],
        describe_balloons(report.balloons),
        describe_operations(report) if of_guest else [],
        describe_why(report.operations),
        *describe_details(report),
        *describe_guest_cost(report.operations),
        describe_others(report),
        describe_statistics(report),
        describe_reporting(report.page_reporting),
        describe_hinting(report.page_hinting),
        *(describe_host(report.host) if report.host else []),
        describe_outside(report),
        describe_checks(report.checks),
        describe_losses(report) if of_guest else [],
        [Line(words("Cost of recording: {}", describe_cost(report.own_cost, report.header)))]
        if report.own_cost
        else [],
        [Line(f"Not measured: {sentence}") for sentence in report.not_measured],
    ]


def _header(report: Report) -> Section:
    header, machine = report.header, report.header.machine
    who = " ".join(part for part in (machine.kernel_release, machine.architecture) if part)
    parts = [
        f"{header.label or machine.hostname or 'unnamed machine'} ({header.side or 'side unknown'})",
        f"Linux {who}" if who else "",
        f"{header.driver_kind} driver" if header.driver_kind else "",
        *(f"{device.name} [{', '.join(device.features)}]" for device in header.devices),
    ]
    lines = [
        "; ".join(part for part in parts if part),
        describe_machine(machine),
        f"{_started(header)}{_ended(report)}"
        + ("" if header.is_of_host else f"; {format_things(report.spans, 'span')}"),
        *(f"boundary of {stage}: {function}" for stage, function in header.boundaries.items()),
    ]
    which = f"Recording {header.recording}"
    if report.host is not None and not header.is_of_host and not report.host.complete:
        which += f" with {report.host.header.recording}"  # either may be cut; the warnings say which
    title = which + ("" if report.complete else ", INCOMPLETE")
    return [Title(title), *(Line(line) for line in lines if line)]


def _started(header: Header) -> str:
    started = started_at(header)
    return f"recorded {started}; " if started else ""


def started_at(header: Header) -> str | None:
    """`2026-11-22 14:24:18 UTC`, where the recording says so."""
    seconds = (header.started_realtime_ns or 0) // NS_PER_S
    # Later than the year 9999 datetime gives up; no clock says that.
    if not 0 < seconds < 253_402_300_800:
        return None
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _ended(report: Report) -> str:
    return f"ended: {report.ended}" if report.ended else "end unknown"

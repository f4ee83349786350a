# SPDX-License-Identifier: GPL-2.0-or-later
"""The events of one or both sides on one time line: the guest's clock, or the host's where that is alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from balloontrace.analysis.guest_side import GuestEvents
from balloontrace.analysis.make_report import Examined
from balloontrace.export.event_rows import loss_fields
from balloontrace.export.time_line_guest import guest_process
from balloontrace.export.time_line_host import BatchTimes, batch_times, host_process
from balloontrace.format.vocabulary import Side
from balloontrace.results.recording_header import Header
from balloontrace.results.report import Report
from balloontrace.results.time_line import Timeline


def build_timeline(examined: Examined) -> Timeline:
    """All slices, instants and counters; slices are made while they are gone through.

    RecordingError for a recording whose calls overlap in more ways than threads can.
    """
    report, guest, host = examined.report, examined.guest, examined.host
    times = None if host is None else batch_times(host.batches, examined.both, guest)
    origin_ns = _origin_ns(report.header, guest, times)
    processes = []
    if guest is not None:
        processes.append(guest_process(report, guest, examined.both, origin_ns))
    if host is not None and times is not None:
        processes.append(host_process(host, times, examined.both, origin_ns))
    clock = f"{report.header.clock or 'clock'} of the {report.header.side or Side.GUEST}"
    return Timeline(tuple(processes), clock, origin_ns, _about(report))


def _origin_ns(header: Header, guest: GuestEvents | None, times: BatchTimes | None) -> int:
    """The earliest moment there is, so that none is negative."""
    moments = [] if header.started_monotonic_ns is None else [header.started_monotonic_ns]
    if guest is not None and len(guest.spans):
        moments.append(int(guest.spans.int64("start_ns")[0]))
    if times is not None and len(times.start_ns):
        moments.append(int(times.start_ns.min()))
    return min(moments, default=0)


def _about(report: Report) -> Mapping[str, object]:
    """What the report says beside what happened: where from, what was lost, its cost, how clocks match."""
    left_out = {"operations", "totals", "outside", "checks", "other_operations"}
    described = dataclasses.asdict(dataclasses.replace(report, operations=(), totals=(), other_operations=()))
    described["losses"] = [loss_fields(loss) for loss in report.losses]
    if report.host is not None:
        described["host"]["losses"] = [loss_fields(loss) for loss in report.host.losses]
    return {name: value for name, value in described.items() if name not in left_out}

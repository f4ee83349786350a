# SPDX-License-Identifier: GPL-2.0-or-later
"""A report for people: human units, "-" where nothing was measured; as text it fits 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from balloontrace.format.stages import find_stage
from balloontrace.render.blocks import Item, Line, Section, Table, Title
from balloontrace.render.blocks_text import NAME_COLUMNS, clip
from balloontrace.render.report.balloons_section import describe_balloons
from balloontrace.render.report.host_section import describe_host
from balloontrace.render.report.machine_section import describe_machine
from balloontrace.render.report.payload_section import describe_bitmaps, describe_payload
from balloontrace.results.report import Check, Header, Operation, OwnCost, Report, StageRow, Total, longest
from balloontrace.units import (
    NOT_MEASURED,
    NS_PER_S,
    format_bytes,
    format_count,
    format_duration_ns,
    format_pages_as_bytes,
    format_rate,
    format_share,
    format_things,
)

# More than these would bury the totals; CSV and JSON hold all of them.
_LISTED_OPERATIONS = 40
_DETAILED_OPERATIONS = 6

_PROBE_COLUMNS = 25


def describe_report(report: Report) -> list[Section]:
    """The whole report; sections with nothing in them are those that do not apply."""
    of_guest = not report.header.is_of_host
    return [
        _header(report),
        [Line(f"WARNING: {sentence}") for sentence in report.warnings],
        describe_balloons(report.balloons),
        _operations(report) if of_guest else [],
        *_details(report),
        *(describe_host(report.host) if report.host else []),
        _outside(report),
        _checks(report.checks),
        _losses(report) if of_guest else [],
        [Line(f"Cost of recording: {describe_cost(report.own_cost, of_host=report.header.is_of_host)}")]
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
    seconds = (header.started_realtime_ns or 0) // NS_PER_S
    # Later than the year 9999 datetime gives up; no clock says that.
    if not 0 < seconds < 253_402_300_800:
        return ""
    return f"recorded {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC; "


def _ended(report: Report) -> str:
    return f"ended: {report.ended}" if report.ended else "end unknown"


def explain_no_operation(report: Report) -> str:
    """What it means that a guest's report has no operation."""
    if report.pages_unseen:
        return "pages moved, and none of their operations is in this recording."
    if report.pages_moved == 0:
        return "the balloon did not move while this was recorded."
    if report.pages_moved:
        return "what moved belongs to none."
    return "none is in this recording; whether the balloon moved is not known."


def _operations(report: Report) -> Section:
    operations = report.operations
    if not operations:
        return [Line(f"No operation: {explain_no_operation(report)}")]
    rows = [
        (
            str(operation.number),
            operation.device,
            operation.kind,
            format_count(operation.pages),
            format_pages_as_bytes(operation.pages),
            format_duration_ns(operation.wall_ns),
            format_rate(operation.rate_bytes_per_s),
            operation.outcome or NOT_MEASURED,
        )
        for operation in longest(operations, _LISTED_OPERATIONS)
    ]
    names = ("#", "device", "kind", "pages", "size", "wall", "rate", "outcome")
    more = len(operations) - len(rows)
    hint = (
        [Line(f"{len(rows)} longest, {format_count(more)} shorter: --format csv has them all")]
        if more
        else []
    )
    return [Table(names, rows, "rllrrrrl", {1: NAME_COLUMNS}), *hint]


def _details(report: Report) -> list[Section]:
    """Stage tables: of each operation while they are few, and of each kind that occurred more than once."""
    shown = report.operations if len(report.operations) <= _DETAILED_OPERATIONS else ()
    sections = [section for operation in shown for section in _operation(operation)]
    return sections + [_total(total) for total in report.totals if total.operations > 1 or not shown]


def _operation(operation: Operation) -> list[Section]:
    way = f"{format_pages_as_bytes(operation.actual_before_pages)} to "
    way += format_pages_as_bytes(operation.actual_after_pages)
    title = (
        f"Operation {operation.number}: {operation.kind} of {clip(operation.device)}, {way} "
        f"(target {format_pages_as_bytes(operation.target_pages)}), {format_things(operation.sends, 'send')}"
    )
    sentences = [*operation.verdict, *([describe_bitmaps(operation.bitmap)] if operation.bitmap else [])]
    payload = [] if operation.payload is None else describe_payload(operation.number, operation.payload)
    listed = [Item(sentence) for sentence in sentences]
    return [[Title(title), _stages(operation.stages), *listed], *payload]


def _total(total: Total) -> Section:
    title = (
        f"All {format_things(total.operations, f'{total.kind} operation')}: "
        f"{format_pages_as_bytes(total.pages)} in {format_duration_ns(total.wall_ns)}, "
        f"{format_rate(total.rate_bytes_per_s)}, {format_things(total.sends, 'send')}"
    )
    return [Title(title), _stages(total.stages)]


def _stages(stages: Iterable[StageRow]) -> Table:
    rows = [
        (
            _short_name(stage),
            stage.where.short,
            NOT_MEASURED if stage.count is None else str(stage.count),
            format_duration_ns(stage.total_ns),
            format_share(stage.share).replace(" ", ""),
            format_duration_ns(stage.p50_ns),
            format_duration_ns(stage.p90_ns),
            format_duration_ns(stage.p99_ns),
            format_duration_ns(stage.max_ns),
        )
        for stage in stages
        if stage.part_of is None or stage.total_ns
    ]
    return Table(("stage", "where", "n", "total", "share", "p50", "p90", "p99", "max"), rows, "llrrrrrrr")


def _short_name(row: StageRow) -> str:
    stage = find_stage(row.stage)
    return f"{row.stage} {row.name}" if stage is None else stage.short_for(row.name, row.part_of)


def _outside(report: Report) -> Section:
    rows = [
        (each.what, format_count(each.calls), format_count(each.pages), format_duration_ns(each.total_ns))
        for each in report.outside
    ]
    return [Table(("outside of operations", "calls", "pages", "total"), rows, "lrrr")] if rows else []


def _checks(checks: Sequence[Check]) -> Section:
    words = {True: "yes", False: "NO", None: "not measured"}
    rows = [
        (
            check.name,
            format_count(check.spans),
            format_count(check.independent),
            check.source,
            words[check.agrees],
        )
        for check in checks
    ]
    names = ("pages, counted twice", "in spans", "other count", "from", "agree")
    notes = [Item(f"{check.name}: {check.note}") for check in checks if check.note]
    return [Table(names, rows, "lrrll"), *notes] if rows else []


def _losses(report: Report) -> Section:
    if report.events_lost is None:
        return [Line("Losses: not known.")]
    rows = [
        (
            loss.function,
            *map(
                format_count,
                (
                    loss.entries,
                    loss.unmatched_returns,
                    loss.lost,
                    loss.no_state,
                    loss.overwritten,
                    loss.missed,
                ),
            ),
        )
        for loss in report.losses
    ]
    title = f"Lost: {format_count(report.events_lost)} of {format_things(report.events_seen, 'event')}."
    names = ("probe", "calls", "unmatched", "no room", "no state", "no return", "missed")
    return [Title(title), Table(names, rows, "lrrrrrr", {0: _PROBE_COLUMNS})]


def describe_cost(cost: OwnCost, *, of_host: bool) -> str:
    """What recording cost, as one sentence without its subject."""
    return (
        f"BPF {describe_bpf(cost, of_host=of_host)}; CPU {format_duration_ns(cost.cpu_ns)} "
        f"(and {format_duration_ns(cost.setup_cpu_ns)} to set up); memory at most "
        f"{format_bytes(cost.peak_memory_bytes)} (setting up {format_bytes(cost.setup_peak_memory_bytes)}); "
        f"{format_count(cost.wakeups)} wake-ups; {format_bytes(cost.bytes_written)} written"
    )


def describe_bpf(cost: OwnCost, *, of_host: bool) -> str:
    """What the BPF programs cost, and of how many of their runs that is known."""
    least = "at least " if cost.bpf_never_timed and cost.bpf_time_ns is not None else ""
    most = "at most " if of_host else ""
    never = f", none of {', '.join(cost.bpf_never_timed)}" if cost.bpf_never_timed else ""
    count = len(cost.bpf_not_counted)
    without = f"; without {count} program{'s' * (count != 1)} whose runs are not counted" if count else ""
    return (
        f"{least}{format_duration_ns(cost.bpf_time_ns)} in {format_count(cost.bpf_runs)} runs "
        f"({most}{format_count(cost.bpf_timed_runs)} of them timed{never}{without})"
    )

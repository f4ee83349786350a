# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording into its report: operations, their stages, checks of the counts, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from balloontrace.analysis.balloon_sizes import SENDS
from balloontrace.analysis.bitmap_windows import measure_bitmap_use
from balloontrace.analysis.both_sides import BothSides, Reports, join, window_of
from balloontrace.analysis.columns import Spans
from balloontrace.analysis.guest_readings import Reading, add_costs, parse_readings
from balloontrace.analysis.guest_side import (
    GuestEvents,
    GuestRecording,
    Sizes,
    find_events,
    measure_sizes,
    read_guest,
    recorded_for_ns,
)
from balloontrace.analysis.host_kicks import find_silent_queues, with_kicks
from balloontrace.analysis.host_memory import operations_of_batches
from balloontrace.analysis.host_sentences import name_what_is_known
from balloontrace.analysis.host_side import HostRecording, analyse_host
from balloontrace.analysis.matching import OtherPairError
from balloontrace.analysis.metadata import is_of_host
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.analysis.operations import Operations
from balloontrace.analysis.other_buffers import with_files
from balloontrace.analysis.other_operations import find_other_operations
from balloontrace.analysis.page_count_checks import check_counts, check_pairs, check_reports, check_sizes
from balloontrace.analysis.payloads_of_operations import Carried
from balloontrace.analysis.processes import choose_parts, is_of_many, list_vms, vm_name
from balloontrace.analysis.report_losses import events_lost, events_seen, missing_batches
from balloontrace.analysis.report_not_measured import find_not_measured
from balloontrace.analysis.report_operations import describe_operations, sum_up
from balloontrace.analysis.report_page_hinting import measure_hinting
from balloontrace.analysis.report_page_reporting import measure_reporting
from balloontrace.analysis.report_warnings import warn_of_guest
from balloontrace.analysis.reporting_cycles import host_of_reports
from balloontrace.analysis.send_series import possible_times
from balloontrace.analysis.stages import StageTables
from balloontrace.analysis.statistics_queue import measure_statistics
from balloontrace.analysis.what_if import CallsOfHost, imagine_other_formats, measure_calls
from balloontrace.errors import RecordingError, UsageError
from balloontrace.format.recording import Recording
from balloontrace.format.vocabulary import REPORTING_BIT, Function, Side
from balloontrace.results.operation import Operation
from balloontrace.results.report import SCHEMA_VERSION, Check, Report
from balloontrace.units import format_things


@dataclass(frozen=True, slots=True)
class Examined:
    """A report with the single events it was made of; of a side that was not recorded, None."""

    report: Report
    guest: GuestEvents | None
    host: HostRecording | None
    both: BothSides | None
    readings: tuple[Reading, ...] = ()


def analyse(recording: Recording, host_recording: Recording | None = None) -> Report:
    """Everything the report shows of a guest's recording, or of a host's, or of both together.

    RecordingError when a recording's own description makes no sense, or when two do not belong together.
    """
    return examine(recording, host_recording).report


def examine(
    recording: Recording, host_recording: Recording | None = None, *, vm: str | None = None
) -> Examined:
    """The same, with the single events. Errors as `analyse`.

    Of a host's recording of many VMs, that one which served the guest, or is called as the pattern `vm` says.
    A recording of one process has to be of that VM too; UsageError where there is no host's recording.
    """
    sides = [recording] if host_recording is None else [recording, host_recording]
    many = [each for each in sides if is_of_many(each)]
    if many:
        guest = next((each for each in sides if each is not many[0]), None)
        return _examine_one_of(many[0], choose_parts(many[0], vm), guest)
    hosts = [each for each in sides if is_of_host(each)]
    if vm is not None:
        if not hosts:
            raise UsageError(
                f"--vm names a VM in a recording of its host, and {recording.label} is of a guest"
            )
        choose_parts(hosts[0], vm)
    guests = [each for each in sides if not is_of_host(each)]
    if len(hosts) > 1 or len(guests) > 1:
        raise RecordingError(
            f"both recordings are of a {Side.HOST if hosts else Side.GUEST}: "
            "give one of a guest and one of its host"
        )
    host = analyse_host(hosts[0]) if hosts else None
    if guests:
        try:
            return _analyse_guest(guests[0], host)
        except RecordingError as error:
            damaged = [f"{each.label} is damaged ({each.damage[0]})" for each in sides if each.damage]
            if host is None or not damaged:
                raise
            # What is gone may be all that keeps them from being matched.
            raise RecordingError(f"{' and '.join(damaged)}: {error}") from error
    assert host is not None  # for one of both there is
    return Examined(_report_of_host(host), None, host, None)


def _examine_one_of(whole: Recording, parts: Sequence[Recording], guest: Recording | None) -> Examined:
    """The only one of `parts`, or the one that served the guest. RecordingError where there is none such."""
    if guest is None:
        if len(parts) > 1:
            raise RecordingError(
                f"{whole.label} is of {len(parts)} VMs: report and export take --vm for one of "
                f"{list_vms(parts)}"
            )
        return examine(parts[0])
    found = []
    for part in parts:
        # Without a buffer there is nothing to agree with.
        if part.batches or len(parts) == 1:
            try:
                found.append((vm_name(part), examine(guest, part)))
            except RecordingError:
                if len(parts) == 1:
                    raise
    if not found:
        raise RecordingError(f"no VM of {whole.label} served the balloon of {guest.label}: {list_vms(parts)}")
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise RecordingError(
            f"{guest.label} agrees with several VMs of {whole.label}: choose by --vm: {names}"
        )
    return found[0][1]


def _report_of_host(host: HostRecording) -> Report:
    """A report of the host's side alone: no operation can be seen from there."""
    return Report(
        schema_version=SCHEMA_VERSION,
        header=host.header,
        complete=host.side.complete,
        ended=host.side.ended,
        spans=0,
        events_lost=host.side.events_lost,
        events_seen=host.calls_seen,
        spans_missing=missing_batches(host.side, host.batches),
        warnings=host.warnings,
        operations=(),
        totals=(),
        outside=(),
        checks=(),
        losses=(),
        not_measured=("operations, a and b: that takes a recording of the guest too", *host.not_measured),
        own_cost=host.side.own_cost,
        host=host.side,
    )


def _analyse_guest(recording: Recording, host: HostRecording | None) -> Examined:
    """A guest's recording, with the host's times of each send if there is one."""
    guest = read_guest(recording)
    events = find_events(guest)
    spans, operations, carried = events.spans, events.operations, events.carried
    both = None if host is None else _join(guest, events, host)
    tables = StageTables(
        spans, operations, sends_traced=events.sends_traced, host=both.times if both else None,
        allocation=guest.allocation,
    )  # fmt: skip
    shown = describe_operations(
        operations,
        tables.of_operations(),
        measure_bitmap_use(spans, operations),
        carried,
        guest.header,
        guest.traced,
    )
    if both is not None:
        shown = tuple(
            replace(operation, served=served) for operation, served in zip(shown, both.served, strict=True)
        )
        shown = _with_host_memory(shown, operations, host, both)
    shown = _with_other_formats(shown, carried, _calls_of_host(operations, host, both))
    readings = parse_readings(recording)
    shown = add_costs(shown, readings, guest.header.machine.page_size_bytes)
    sizes = measure_sizes(guest, events)
    recorded_ns = recorded_for_ns(guest, spans)
    report = Report(
        schema_version=SCHEMA_VERSION,
        header=guest.header,
        complete=guest.is_whole and events.is_whole and (host is None or host.side.complete),
        ended=guest.end.reason if guest.end else None,
        spans=len(spans),
        events_lost=events_lost(guest.losses),
        events_seen=events_seen(guest.losses),
        spans_missing=_spans_missing(guest, host),
        pages_moved=sizes.unseen.moved.pages if sizes.unseen else None,
        pages_unseen=sizes.unseen.pages if sizes.unseen else None,
        driver_gaps=guest.gaps,
        warnings=warn_of_guest(guest, events, sizes, host.warnings if host else ()),
        operations=shown,
        totals=sum_up(shown, tables.of_kinds()),
        outside=guest.summed.added_to(operations.outside),
        checks=_checks(guest, events, sizes, host, both),
        losses=guest.losses,
        not_measured=find_not_measured(guest, events, host, both),
        own_cost=guest.end.own_cost if guest.end else None,
        host=replace(
            host.side,
            pairing=both.pairing,
            others=with_files(both.reports.others, host.files),
            queues=both.reports.queues,
        )
        if host and both
        else None,
        balloons=sizes.balloons,
        other_operations=find_other_operations(sizes.balloons, sizes.watched),
        statistics=measure_statistics(sizes.balloons, sizes.watched, guest.traced),
        page_reporting=measure_reporting(
            guest, events, recorded_ns, _host_ns(spans, host, both),
            host_of_reports(spans, host.batches, both) if host and both else None,
        ),
        page_hinting=measure_hinting(guest, spans, operations.nesting),
        recorded_ns=recorded_ns,
    )  # fmt: skip
    return Examined(report, events, host, both, readings)


def _calls_of_host(
    operations: Operations, host: HostRecording | None, both: BothSides | None
) -> Sequence[CallsOfHost | None]:
    """What is known of the host's calls for each operation."""
    if host is None or both is None:
        return [None] * len(operations.found)
    return measure_calls(both, operations, host.batches, host.side)


def _with_other_formats(
    shown: Sequence[Operation], carried: Carried, calls: Sequence[CallsOfHost | None]
) -> tuple[Operation, ...]:
    """The operations with what their pages would have taken in other formats."""
    return tuple(
        replace(operation, what_if=imagine_other_formats(operation, pages, of_host))
        for operation, pages, of_host in zip(shown, carried.pages, calls, strict=True)
    )


def _with_host_memory(
    shown: tuple[Operation, ...], operations: Operations, host: HostRecording | None, both: BothSides
) -> tuple[Operation, ...]:
    """Operations with what they freed on the host, and what it took back."""
    if host is None:
        return shown
    of_batch = operations_of_batches(both.send_of_batch, operations.send_operation)
    found = host.memory.of_operations(of_batch, [operation.pages for operation in shown])
    return tuple(
        replace(
            operation,
            freed=freed,
            taken_back=taken,
            verdict=(
                *operation.verdict,
                *name_what_is_known(freed, taken, operation.wall_ns, operation.pages),
            ),
        )
        for operation, (freed, taken) in zip(shown, found, strict=True)
    )


def _reports_of(guest: GuestRecording) -> Reports:
    """Whether its page reports are in the recording, or were made and are not."""
    traced = Function.VIRTBALLOON_FREE_PAGE_REPORT in guest.traced
    has_any = any(REPORTING_BIT in device.feature_bits for device in guest.header.devices)
    return Reports(traced=traced, untraced=has_any and not traced)


def _host_ns(
    spans: Spans, host: HostRecording | None, both: BothSides | None
) -> tuple[int | None, int | None]:
    """C and d of all page reports."""
    return both.reports.times_ns(spans, host.batches) if host and both else (None, None)


def _spans_missing(guest: GuestRecording, host: HostRecording | None) -> int | None:
    """Spans and batches that were recorded and are not in the files; None where nobody counted."""
    batches = (missing_batches(host.side, host.batches) if host else None) or 0
    return sum(guest.missing.values()) + batches if guest.losses else None


def _checks(
    guest: GuestRecording,
    events: GuestEvents,
    sizes: Sizes,
    host: HostRecording | None,
    both: BothSides | None,
) -> tuple[Check, ...]:
    """What was counted twice."""
    new_pages = events.carried.new_pages
    counted = check_counts(
        events.spans, sizes.moves, events.operations, guest.header, guest.traced, guest.vmstats, new_pages,
        guest.summed.moved_pages,
    )  # fmt: skip
    return (
        *counted,
        *check_sizes(sizes.balloons, sizes.watched, sizes.told, events.operations),
        *(check_pairs(both.pairing) if both else ()),
        *(check_reports(events.spans, both.reports, host.batches) if host and both else ()),
    )


def _what_is_gone(guest: GuestRecording, host: HostRecording) -> Iterator[str]:
    """Sends and buffers without which others have no partner."""
    sends = {function.symbol for function in SENDS}
    lost = sum(loss.events_lost or 0 for loss in guest.losses if loss.function in sends)
    buffers_lost = sum(loss.lost or 0 for loss in host.side.losses)
    missing = sum(guest.missing.get(function, 0) for function in SENDS)
    buffers_missing = missing_batches(host.side, host.batches)
    keep = "lost while it was recorded; a larger --buffer keeps them"
    if lost:
        yield f"{format_things(lost, 'send of the guest was', 'sends of the guest were')} {keep}"
    if buffers_lost:
        served = ("buffer that the host served was", "buffers that the host served were")
        yield f"{format_things(buffers_lost, *served)} {keep}"
    if missing:
        sends_are = format_things(missing, "send of the guest is", "sends of the guest are")
        yield f"{sends_are} missing from the file"
    if buffers_missing:
        buffers_are = format_things(buffers_missing, "buffer of the host is", "buffers of the host are")
        yield f"{buffers_are} missing from the file"


def _join(guest: GuestRecording, events: GuestEvents, host: HostRecording) -> BothSides:
    """The host's times of each send. RecordingError when the recordings do not belong together."""
    spans, header, end = events.spans, guest.header, guest.end
    last_ns = int(spans.end_ns.max()) if len(spans) else 0
    host_last_ns = int(host.batches.int64("last_return_ns").max()) if len(host.batches) else 0
    windows = (
        window_of(header, end.ended_monotonic_ns if end else None, last_ns),
        window_of(host.header, host.end.ended_monotonic_ns if host.end else None, host_last_ns),
    )
    try:
        both = join(
            spans,
            events.operations,
            events.carried.pages_of_sends,
            host.batches,
            windows,
            host.guest_memory,
            summed_sends=guest.summed.sends,
            cost=host.cost,
            reports=_reports_of(guest),
            period_ns=host.side.sample_period_ns,
        )
    except OtherPairError:
        raise
    except RecordingError:
        gone = "; ".join(_what_is_gone(guest, host))
        if not gone:
            raise
        raise RecordingError(f"the recordings cannot be matched: {gone}") from None
    queues = with_kicks(both.reports.queues, host.kicks)
    silent = find_silent_queues(
        host.kicks, host.batches, np.flatnonzero(both.send_of_batch != NO_SPAN),
        spans, events.operations.nesting.device, both.clock, windows,
    )  # fmt: skip
    reports = replace(both.reports, queues=(*queues, *silent))
    return replace(both, times=possible_times(both.times, spans), reports=reports)

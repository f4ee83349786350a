# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recording of a guest tells, before it is put into a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from balloontrace.analysis.allocation_parts import Parts, take_parts
from balloontrace.analysis.balloon_sizes import (
    SENDS,
    Moves,
    Told,
    Watched,
    describe_balloon,
    find_moves,
    sizes_without_doubt,
    tell_sizes,
    watch,
)
from balloontrace.analysis.columns import Payloads, Spans, decode_payloads, decode_spans
from balloontrace.analysis.metadata import (
    End,
    parse_balloons,
    parse_driver_gaps,
    parse_end,
    parse_header,
    parse_vmstat,
    texts,
)
from balloontrace.analysis.operations import Operations, find_operations
from balloontrace.analysis.page_count_checks import find_pages_unseen
from balloontrace.analysis.payloads_of_operations import Carried, measure_payloads
from balloontrace.analysis.record_table import Recorded
from balloontrace.analysis.report_losses import find_losses, find_traced, missing_spans
from balloontrace.analysis.reported_again import NamedReports, name_reports
from balloontrace.analysis.summed_migrations import Summed, find_summed
from balloontrace.analysis.work_items import UNKNOWN_AT_START, AtStart
from balloontrace.format.balloon_size import kernel_page_in_pages
from balloontrace.format.guest_layout import parse_payload_layout, parse_span_layout
from balloontrace.format.moved_pages import Unseen
from balloontrace.format.recording import Recording
from balloontrace.format.vocabulary import DEFLATE_ON_OOM_BIT, Function
from balloontrace.results.balloon import Balloon
from balloontrace.results.recorder import Loss
from balloontrace.results.recording_header import DriverGap, Header

MOST_BALLOONS = 64


@dataclass(frozen=True, slots=True)
class GuestRecording:
    """What a guest's recording says of itself, and its spans as they are in the file."""

    recording: Recording
    header: Header
    end: End | None
    decoded: Spans
    allocation: Parts
    losses: tuple[Loss, ...]
    traced: frozenset[Function]
    missing: Mapping[Function, int]
    summed: Summed
    gaps: tuple[DriverGap, ...]

    @property
    def vmstats(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """/proc/vmstat before and after."""
        return parse_vmstat(self.recording.metadata), self.end.vmstat if self.end else {}

    @property
    def is_whole(self) -> bool:
        """Whether it ended as it should, and all of it is there."""
        return self.recording.complete and (self.end is None or self.end.clean is not False)


@dataclass(frozen=True, slots=True)
class GuestEvents:
    """What a guest's recording holds, decoded, and the operations found in it.

    `allocation` are parts of stage a, where they were told apart.
    """

    spans: Spans
    operations: Operations
    payloads: Payloads
    carried: Carried
    reports: NamedReports
    allocation: Parts
    sends_traced: bool

    @property
    def is_whole(self) -> bool:
        """Whether no span had to be left out."""
        return not (self.spans.damaged or self.spans.contradictory or self.spans.beyond)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is known of balloons at both ends, and of pages that moved; `left_out` counts other balloons."""

    moves: Moves | None
    told: tuple[Told, Told]
    watched: Sequence[Watched]
    balloons: tuple[Balloon, ...]
    left_out: int
    unseen: Unseen | None


def read_guest(recording: Recording) -> GuestRecording:
    """RecordingError where its own description makes no sense."""
    header = parse_header(recording)
    end = parse_end(recording.end)
    decoded = decode_spans(
        recording.spans,
        parse_span_layout(recording.metadata.get("span_layout")),
        Recorded(header.started_monotonic_ns, end.ended_monotonic_ns if end else None),
    )
    losses = find_losses(recording, end)
    traced = find_traced(header, decoded, losses)
    calls, allocation = take_parts(decoded, traced, texts(recording.metadata.get("parts_of_a")))
    return GuestRecording(
        recording,
        header,
        end,
        calls,
        allocation,
        losses,
        traced,
        missing_spans(decoded, losses),
        find_summed(losses),
        parse_driver_gaps(recording),
    )


def recorded_for_ns(guest: GuestRecording, spans: Spans) -> int | None:
    """How long it was recorded; of one that was cut off, until its last call."""
    started_ns = guest.header.started_monotonic_ns
    ended_ns = guest.end.ended_monotonic_ns if guest.end else None
    if ended_ns is None and len(spans):
        ended_ns = int(spans.end_ns.max())
    return None if started_ns is None or ended_ns is None else max(0, ended_ns - started_ns)


def captures(guest: GuestRecording) -> bool:
    """Whether payloads were captured."""
    return guest.recording.metadata.get("capture") == "payload"


def find_events(guest: GuestRecording) -> GuestEvents:
    """The operations, and what their sends carried."""
    changed = Function.VIRTBALLOON_CHANGED
    unit_pages = kernel_page_in_pages(guest.header.machine.page_size_bytes) or 1
    operations = find_operations(
        guest.decoded,
        gaps=guest.gaps,
        interrupts_traced=changed in guest.traced and not guest.missing.get(changed),
        unit_pages=unit_pages,
        at_start=_find_at_start(guest),
        callers_seen=_sees_callers(guest),
    )
    payloads = decode_payloads(
        guest.recording.payloads, parse_payload_layout(guest.recording.metadata.get("payload_layout"))
    )
    carried = measure_payloads(operations.spans, operations, payloads, sends_unseen=bool(guest.summed))
    reports = name_reports(operations.spans, payloads, unit_pages)
    return GuestEvents(
        operations.spans, operations, payloads, carried, reports, guest.allocation,
        sends_traced=bool(SENDS & guest.traced),
    )  # fmt: skip


def _sees_callers(guest: GuestRecording) -> bool:
    """Whether all calls are there inside which leak_balloon runs while the driver stays."""
    callers = [Function.UPDATE_BALLOON_SIZE_FUNC]
    if any(DEFLATE_ON_OOM_BIT in device.feature_bits for device in guest.header.devices):
        callers.append(Function.VIRTIO_BALLOON_OOM_NOTIFY)
    names = {caller.symbol for caller in callers}
    lost = any(loss.events_lost for loss in guest.losses if loss.function in names)
    return guest.traced.issuperset(callers) and not lost and not any(map(guest.missing.get, callers))


def _find_at_start(guest: GuestRecording) -> AtStart:
    """What balloons began from, read with probes attached; nothing where a work item escaped those."""
    work, started_ns = Function.UPDATE_BALLOON_SIZE_FUNC, guest.header.started_monotonic_ns
    losses = [loss for loss in guest.losses if loss.function == work.symbol]
    all_seen = [(loss.events_lost, loss.unmatched_returns or 0) for loss in losses] == [(0, 0)]
    if not all_seen or guest.missing.get(work) or guest.gaps or started_ns is None:
        return UNKNOWN_AT_START
    return AtStart(started_ns, sizes_without_doubt(_told_at_start(guest), guest.header))


def _told_at_start(guest: GuestRecording) -> Told:
    return tell_sizes(guest.header, parse_balloons(guest.recording.metadata), guest.vmstats[0])


def measure_sizes(guest: GuestRecording, events: GuestEvents) -> Sizes:
    """Every balloon at both ends of the recording, and what moved without being seen."""
    header, end, vmstats = guest.header, guest.end, guest.vmstats
    spans, operations = events.spans, events.operations
    moves = find_moves(spans, operations.nesting, guest.traced)
    start_told = _told_at_start(guest)
    end_told = tell_sizes(header, end.balloons if end else (), vmstats[1], start_told)
    sized = list(end_told.sizes)[:MOST_BALLOONS]
    watched = [watch(name, header, end_told, operations, moves) for name in sized]
    return Sizes(
        moves,
        (start_told, end_told),
        watched,
        tuple(
            describe_balloon(name, start_told, end_told, each)
            for name, each in zip(sized, watched, strict=True)
        ),
        len(end_told.sizes) - len(sized),
        find_pages_unseen(spans, moves, operations, header, vmstats[0], end),
    )

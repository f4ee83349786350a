# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording into its report: operations, their stages, checks of the counts, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from balloontrace.analysis.balloon_sizes import (
    SENDS,
    describe_balloon,
    find_moves,
    pages_of_sends_known,
    tell_sizes,
    watch,
)
from balloontrace.analysis.bitmap_windows import measure_bitmap_use
from balloontrace.analysis.both_sides import BothSides, join, window_of
from balloontrace.analysis.columns import (
    Payloads,
    Recorded,
    Spans,
    decode_counters,
    decode_payloads,
    decode_spans,
)
from balloontrace.analysis.explanations import explain
from balloontrace.analysis.group_statistics import sums
from balloontrace.analysis.host_side import HostRecording, analyse_host
from balloontrace.analysis.metadata import (
    End,
    is_of_host,
    parse_balloons,
    parse_driver_gaps,
    parse_end,
    parse_header,
    parse_vmstat,
)
from balloontrace.analysis.nesting import UNKNOWN_DEVICE
from balloontrace.analysis.operations import (
    MOST_OPERATIONS,
    NO_OPERATION,
    FoundOperation,
    Operations,
    find_operations,
)
from balloontrace.analysis.page_count_checks import check_counts, check_pairs, check_sizes, find_pages_unseen
from balloontrace.analysis.payloads_of_operations import Carried, measure_payloads
from balloontrace.analysis.stages import NOT_SERVED, StageTables, possible_times
from balloontrace.errors import RecordingError
from balloontrace.format.balloon_size import kernel_page_in_pages
from balloontrace.format.guest_layout import parse_counters_layout, parse_payload_layout, parse_span_layout
from balloontrace.format.moved_pages import Unseen, describe_unseen
from balloontrace.format.recording import Recording
from balloontrace.format.vocabulary import DriverKind, Function, Kind, Side, Status, untraced_features
from balloontrace.results.report import (
    SCHEMA_VERSION,
    BitmapUse,
    DriverGap,
    Header,
    HostSide,
    Loss,
    Operation,
    Probe,
    Report,
    StageRow,
    Total,
)
from balloontrace.units import format_count, format_duration_ns, format_things, rate_bytes_per_s

_LISTED = 8
_MOST_BALLOONS = 64

# Their calls are part of a work item's span, and other devices share them: neither loss nor gain shows there.
_COUNTED_ONLY = (Function.CONFIG_GET, Function.CONFIG_SET)


@dataclass(frozen=True, slots=True)
class GuestEvents:
    """What a guest's recording holds, decoded, and the operations found in it."""

    spans: Spans
    operations: Operations
    payloads: Payloads
    carried: Carried


@dataclass(frozen=True, slots=True)
class Examined:
    """A report with the single events it was made of; of a side that was not recorded, None."""

    report: Report
    guest: GuestEvents | None
    host: HostRecording | None
    both: BothSides | None


def analyse(recording: Recording, host_recording: Recording | None = None) -> Report:
    """Everything the report shows of a guest's recording, or of a host's, or of both together.

    RecordingError when a recording's own description makes no sense, or when two do not belong together.
    """
    return examine(recording, host_recording).report


def examine(recording: Recording, host_recording: Recording | None = None) -> Examined:
    """The same, with the single events. Errors as `analyse`."""
    sides = [recording] if host_recording is None else [recording, host_recording]
    hosts = [each for each in sides if is_of_host(each)]
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


def _report_of_host(host: HostRecording) -> Report:
    """A report of the host's side alone: no operation can be seen from there."""
    return Report(
        schema_version=SCHEMA_VERSION,
        header=host.header,
        complete=host.side.complete,
        ended=host.side.ended,
        spans=0,
        events_lost=host.side.events_lost,
        events_seen=sum(calls.calls for calls in host.side.calls),
        spans_missing=_missing_batches(host.side),
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
    header = parse_header(recording)
    end = parse_end(recording.end)
    decoded = decode_spans(
        recording.spans,
        parse_span_layout(recording.metadata.get("span_layout")),
        Recorded(header.started_monotonic_ns, end.ended_monotonic_ns if end else None),
    )
    losses = _losses(recording, end)
    traced = _traced(header, decoded, losses)
    missing = _missing_spans(decoded, losses)
    changed = Function.VIRTBALLOON_CHANGED
    gaps = parse_driver_gaps(recording)
    operations = find_operations(
        decoded,
        gaps=gaps,
        interrupts_traced=changed in traced and not missing.get(changed),
        unit_pages=kernel_page_in_pages(header.machine.page_size_bytes) or 1,
    )
    spans = operations.spans
    payloads = decode_payloads(
        recording.payloads, parse_payload_layout(recording.metadata.get("payload_layout"))
    )
    carried = measure_payloads(spans, operations, payloads)
    both = None if host is None else _join(spans, operations, carried, host, header, end)
    if both is not None:
        both = replace(both, times=possible_times(both.times, spans))
    tables = StageTables(
        spans, operations, sends_traced=bool(SENDS & traced), host=both.times if both else None
    )
    shown = _operations(
        operations, tables.of_operations(), measure_bitmap_use(spans, operations), carried, header, traced
    )
    if both is not None:
        shown = tuple(
            replace(operation, served=served) for operation, served in zip(shown, both.served, strict=True)
        )
    moves = find_moves(spans, operations.nesting, traced)
    vmstats = parse_vmstat(recording.metadata), end.vmstat if end else {}
    start_told = tell_sizes(header, parse_balloons(recording.metadata), vmstats[0])
    end_told = tell_sizes(header, end.balloons if end else (), vmstats[1], start_told)
    sized = list(end_told.sizes)[:_MOST_BALLOONS]
    watched = [watch(name, header, end_told, spans, operations.nesting, moves) for name in sized]
    balloons = [
        describe_balloon(name, start_told, end_told, each) for name, each in zip(sized, watched, strict=True)
    ]
    lost, seen = _events_lost(losses), _events_seen(losses)
    unseen = find_pages_unseen(spans, moves, operations, header, vmstats[0], end)
    batches_missing = (_missing_batches(host.side) if host else None) or 0
    report = Report(
        schema_version=SCHEMA_VERSION,
        header=header,
        complete=_is_whole(recording, spans, end) and (host is None or host.side.complete),
        ended=end.reason if end else None,
        spans=len(spans),
        events_lost=lost,
        events_seen=seen,
        spans_missing=sum(missing.values()) + batches_missing if losses else None,
        pages_moved=unseen.moved.pages if unseen else None,
        pages_unseen=unseen.pages if unseen else None,
        driver_gaps=gaps,
        warnings=(
            # The damage before what it cost; else nothing is to be read before what is not there.
            *recording.damage,
            *_unseen_warnings(unseen, seen, lost, missing, gaps),
            *_warnings(recording, end, spans),
            *(_describe_gap(gap, header) for gap in gaps),
            *_balloon_warnings(len(end_told.sizes) - len(sized)),
            *_payload_warnings(payloads, losses, carried.left_out),
            *(host.warnings if host else ()),
            *_missing_warnings(sum(missing.values())),
            *_loss_warnings(losses, lost),
        ),
        operations=shown,
        totals=_totals(shown, tables.of_kinds()),
        outside=operations.outside,
        checks=(
            *check_counts(spans, moves, operations, header, traced, vmstats, carried.new_pages),
            *check_sizes(balloons, watched, (start_told, end_told), operations),
            *(check_pairs(both.pairing) if both else ()),
        ),
        losses=losses,
        not_measured=(
            *_not_measured(spans, header, operations, traced, end, both),
            *_untraced(header, with_host=host is not None),
            *(host.not_measured if host else ()),
            *_payloads_not_measured(recording, payloads, operations),
        ),
        own_cost=end.own_cost if end else None,
        host=replace(host.side, pairing=both.pairing) if host and both else None,
        balloons=tuple(balloons),
    )
    return Examined(report, GuestEvents(spans, operations, payloads, carried), host, both)


def _is_whole(recording: Recording, spans: Spans, end: End | None) -> bool:
    """Whether a guest's recording ended as it should, and all of it is there."""
    left_out = spans.damaged or spans.contradictory or spans.beyond
    return recording.complete and not left_out and (end is None or end.clean is not False)


def _join(
    spans: Spans,
    operations: Operations,
    carried: Carried,
    host: HostRecording,
    header: Header,
    end: End | None,
) -> BothSides:
    """The host's times of each send. RecordingError when the recordings do not belong together."""
    last_ns = int(spans.end_ns.max()) if len(spans) else 0
    host_last_ns = int(host.batches.int64("last_return_ns").max()) if len(host.batches) else 0
    windows = (
        window_of(header, end.ended_monotonic_ns if end else None, last_ns),
        window_of(host.header, host.end.ended_monotonic_ns if host.end else None, host_last_ns),
    )
    try:
        return join(
            spans,
            operations,
            carried.pages_of_sends,
            host.batches,
            windows,
            splits_counted=host.side.thp_splits is not None,
        )
    except RecordingError:
        lost = sum(loss.lost or 0 for loss in host.side.losses)
        if not lost:
            raise
        buffers = format_things(lost, "buffer that the host served was", "buffers that the host served were")
        raise RecordingError(
            f"the recordings cannot be matched: {buffers} lost "
            "while it was recorded; a larger --buffer keeps them"
        ) from None


def _operations(
    operations: Operations,
    tables: Sequence[tuple[StageRow, ...]],
    bitmaps: Sequence[BitmapUse | None],
    carried: Carried,
    header: Header,
    traced: frozenset[Function],
) -> tuple[Operation, ...]:
    """The found operations with everything that is summed up over their work items."""
    items, count = operations.items, len(operations.found)
    rows = np.flatnonzero(operations.item_operation != NO_OPERATION)
    operation = operations.item_operation[rows]
    waited_ns = items.end_ns - items.start_ns - items.send_ns - items.config_ns
    columns = (
        np.bincount(operation, minlength=count),
        sums(items.pages[rows], operation, count),
        sums(items.pages_known[rows].astype(np.int64), operation, count),
        sums(items.sends[rows], operation, count),
        sums(items.short[rows].astype(np.int64), operation, count),
        sums(np.where(items.short, waited_ns, 0)[rows], operation, count),
    )
    names = {device.index: device.name for device in header.devices if device.index is not None}
    if len(header.devices) == 1:
        names[UNKNOWN_DEVICE] = header.devices[0].name
    summed = zip(*(column.tolist() for column in columns), strict=True)
    shown = (
        _operation(number, found, table, bitmap, names, traced, each)
        for number, (found, table, bitmap, each) in enumerate(
            zip(operations.found, tables, bitmaps, summed, strict=True), start=1
        )
    )
    return tuple(
        replace(operation, payload=statistics, payload_sends=sends)
        for operation, statistics, sends in zip(shown, carried.statistics, carried.sends, strict=True)
    )


def _operation(
    number: int,
    found: FoundOperation,
    rows: tuple[StageRow, ...],
    bitmap: BitmapUse | None,
    names: Mapping[int, str],
    traced: frozenset[Function],
    summed: tuple[int, ...],
) -> Operation:
    work_items, known_pages, items_known, sends, short_work_items, short_ns = summed
    # Of some of its work items: at least so many, which "not measured" says. Of none: nothing is known.
    pages = known_pages if items_known else None
    ooms_traced = Function.VIRTIO_BALLOON_OOM_NOTIFY in traced
    wall_ns = found.end_ns - found.start_ns
    return Operation(
        number=number,
        device=device_name(found.device, names),
        kind=found.kind,
        outcome=found.outcome,
        started_ns=found.start_ns,
        wall_ns=wall_ns,
        pages=pages,
        target_pages=found.targets_pages[-1] if found.targets_pages else None,
        targets_pages=found.targets_pages,
        actual_before_pages=found.actual_before_pages,
        actual_after_pages=found.actual_after_pages,
        rate_bytes_per_s=rate_bytes_per_s(pages, wall_ns),
        sends=sends if SENDS & traced else None,
        work_items=work_items,
        starts_at="interrupt" if found.interrupt_ns is not None else "work item",
        started_before_recording=found.started_before_recording,
        short_work_items=short_work_items,
        short_ns=short_ns,
        oom_notifications=found.oom_notifications if ooms_traced else None,
        oom_pages=found.oom_pages if ooms_traced else None,
        verdict=explain(found, rows, short_work_items, short_ns, bitmap),
        stages=rows,
        bitmap=bitmap,
    )


def device_name(index: int, names: Mapping[int, str]) -> str:
    """What the kernel calls the device of this index."""
    return names.get(index, "unknown device" if index == UNKNOWN_DEVICE else f"virtio{index}")


def _totals(
    shown: Sequence[Operation], rows_of_kind: Mapping[Kind, tuple[StageRow, ...]]
) -> tuple[Total, ...]:
    """The operations of each kind that occurred, summed up."""
    return tuple(
        _total(kind, [operation for operation in shown if operation.kind == kind], rows_of_kind[kind])
        for kind in Kind
        if kind in rows_of_kind
    )


def _total(kind: Kind, chosen: Sequence[Operation], rows: tuple[StageRow, ...]) -> Total:
    counts = [operation.pages for operation in chosen]
    # Of some of them only: the rate would be of fewer pages than the time.
    pages = None if None in counts else sum(count or 0 for count in counts)
    wall_ns = sum(operation.wall_ns for operation in chosen)
    sends = [operation.sends for operation in chosen]
    return Total(
        kind=kind,
        operations=len(chosen),
        pages=pages,
        wall_ns=wall_ns,
        rate_bytes_per_s=rate_bytes_per_s(pages, wall_ns),
        sends=None if None in sends else sum(count or 0 for count in sends),
        stages=rows,
    )


def _losses(recording: Recording, end: End | None) -> tuple[Loss, ...]:
    """Losses per function: from the end record, else from the last counters written before it was cut."""
    if end is not None and end.losses:
        return end.losses
    if recording.counters is None:
        return ()
    rows, _ = decode_counters(
        recording.counters, parse_counters_layout(recording.metadata.get("counters_layout"))
    )
    return tuple(
        Loss(
            function.symbol,
            entries=row.get("entries"),
            returns=row.get("returns"),
            unmatched_returns=row.get("unmatched_returns"),
            lost=row.get("lost"),
            no_state=row.get("no_state"),
            overwritten=row.get("overwritten"),
        )
        for function in Function
        if function not in _COUNTED_ONLY and function < len(rows) and any((row := rows[function]).values())
    )


def _events_lost(losses: Sequence[Loss]) -> int | None:
    known = [loss.events_lost for loss in _of_calls(losses) if loss.events_lost is not None]
    return sum(known) if known else None


def _events_seen(losses: Sequence[Loss]) -> int | None:
    known = [loss.entries for loss in _of_calls(losses) if loss.entries is not None]
    return sum(known) if known else None


def _of_calls(losses: Sequence[Loss]) -> list[Loss]:
    """Losses of spans; that a payload is lost makes no time and no count wrong."""
    return [loss for loss in losses if loss.function != Function.PAYLOAD.symbol]


def _missing_spans(spans: Spans, losses: Sequence[Loss]) -> dict[Function, int]:
    """Spans that were handed over while recording, by the counters, and are not in the file."""
    present = np.bincount(spans.columns["function"], minlength=max(Function) + 1)
    known = {function.symbol: function for function in Function}
    return {
        function: max(0, _spans_made(loss) - int(present[function]))
        for loss in _of_calls(losses)
        if (function := known.get(loss.function)) is not None
    }


def _spans_made(loss: Loss) -> int:
    """Where no return is probed the entry makes the span, else the return of an entry that was seen."""
    calls = loss.entries if loss.returns is None else loss.returns - (loss.unmatched_returns or 0)
    return (calls or 0) - (loss.lost or 0)


def _missing_batches(side: HostSide) -> int | None:
    """The same of batches; None where the recording does not say how many there were."""
    made = [
        loss.entries - (loss.lost or 0)
        for loss in side.losses
        if loss.function == "batches" and loss.entries is not None
    ]
    return max(0, made[0] - side.batches) if made else None


def _traced(header: Header, spans: Spans, losses: Sequence[Loss]) -> frozenset[Function]:
    """Functions that were attached, by the metadata, or else that evidently left something."""
    attached = {probe.function for probe in header.probes if probe.status == Status.ATTACHED}
    counted = {loss.function for loss in losses if loss.entries}
    present = set(np.unique(spans.columns["function"]).tolist())
    return frozenset(
        function for function in Function if function.symbol in attached | counted or int(function) in present
    )


def _unseen_warnings(
    unseen: Unseen | None,
    seen: int | None,
    lost: int | None,
    missing: Mapping[Function, int],
    gaps: Sequence[DriverGap],
) -> list[str]:
    """How many pages moved that the recording does not have, and why."""
    if unseen is None or not unseen.pages:
        return []
    if any(missing.values()):
        reason = "their spans are missing from the file"
    elif lost:
        reason = f"{format_things(lost, 'event was', 'events were')} lost"
    elif not seen:
        reason = "no probe fired (balloontrace doctor says why)"
    elif any(gap.reattached for gap in gaps):
        reason = "they moved before probes were attached again to the driver"
    else:
        reason = "the probes did not see them (balloontrace doctor says what disarms probes)"
    return [describe_unseen(unseen, reason)]


def _warnings(recording: Recording, end: End | None, spans: Spans) -> list[str]:
    """What keeps the recording from being whole, beside damage."""
    sentences = [*recording.notes]
    if spans.damaged:
        damaged = format_things(spans.damaged, "record")
        sentences.append(f"{damaged} could not be decoded or have impossible values; they were left out")
    if spans.contradictory:
        contradictory = format_things(spans.contradictory, "record contradicts", "records contradict")
        sentences.append(
            f"{contradictory} others (calls that overlap, parts that are longer than the whole); "
            "they were left out"
        )
    if spans.beyond:
        sentences.append(
            f"more than {format_count(MOST_OPERATIONS)} operations: "
            f"the {format_things(spans.beyond, 'record')} from the next one on were left out"
        )
    if spans.unknown:
        unknown = format_things(spans.unknown, "record is", "records are")
        sentences.append(f"{unknown} of functions this version does not know")
    if end is None:
        sentences.append("the recording has no end record: it was cut off, and what came after is unknown")
    elif end.clean is False:
        sentences.append(f"the recording did not end normally: {end.reason or 'no reason is given'}")
    return sentences


def _describe_gap(gap: DriverGap, header: Header) -> str:
    """When the driver was away, counted from the start of the recording, and what that means."""

    def when(time_ns: int) -> str:
        return format_duration_ns(max(0, time_ns - (header.started_monotonic_ns or 0)))

    devices = ", ".join(gap.devices) or "the balloon"
    gone_ns = gap.gone_ns if gap.gone_ns is not None else gap.last_seen_ns
    since = f"from {when(gone_ns)} after the start" if gone_ns is not None else "at some time"
    if gap.back_ns is None:
        return f"{devices} had no driver {since} on: it did not come back"
    back = when(gap.back_ns)
    traced = (
        "probes were attached again then, and what moved before was not seen"
        if gap.reattached
        else "probes stayed attached"
    )
    if gap.gone_ns is None:
        return f"{devices} lost its driver and was bound again before {back} after the start; {traced}"
    return f"{devices} had no driver {since} to {back}; {traced}"


def _balloon_warnings(left_out: int) -> list[str]:
    if not left_out:
        return []
    return [
        f"the sizes of {format_things(left_out, 'balloon')} behind the first {_MOST_BALLOONS} were left out"
    ]


def _payload_warnings(payloads: Payloads, losses: Sequence[Loss], left_out: int) -> list[str]:
    """What of the captured payloads is not there. The counts are of pieces of 1 KiB."""
    sentences = []
    lost = sum(loss.lost or 0 for loss in losses if loss.function == Function.PAYLOAD.symbol)
    if lost:
        pieces = format_things(lost, "piece of payloads was", "pieces of payloads were")
        sentences.append(f"{pieces} lost: what they named is not known")
    if left_out:
        sentences.append(
            f"the payloads of {format_things(left_out, 'send')} were left out: they name more runs of pages, "
            "or belong to more operations, than are examined"
        )
    if payloads.damaged:
        sentences.append(f"{format_things(payloads.damaged, 'piece')} of payloads could not be decoded")
    return sentences


def _payloads_not_measured(recording: Recording, payloads: Payloads, operations: Operations) -> list[str]:
    """Why it is not known what sends named, where it is not."""
    if payloads.found or not operations.nesting.send.any():
        return []
    if recording.metadata.get("capture") == "payload":
        return ["what sends named: the driver has no type information; record --layout tells where it lies"]
    return ["what sends named: record --capture payload keeps it"]


def _missing_warnings(missing: int) -> list[str]:
    if not missing:
        return []
    gone = format_things(missing, "recorded span is", "recorded spans are")
    return [f"{gone} not in the file, so times and counts are too low"]


def _loss_warnings(losses: Sequence[Loss], lost: int | None) -> list[str]:
    if not lost:
        return []
    places = [
        f"{loss.function} {format_count(loss.events_lost)}" for loss in _of_calls(losses) if loss.events_lost
    ]
    gone = format_things(lost, "event was", "events were")
    return [f"{gone} lost, so times and counts are too low: {', '.join(places)}"]


def _not_measured(
    spans: Spans,
    header: Header,
    operations: Operations,
    traced: frozenset[Function],
    end: End | None,
    both: BothSides | None,
) -> tuple[str, ...]:
    """What the report cannot show, and why."""
    sentences = []
    if both is None:
        sentences.append("b, c and d apart: that takes a recording of the host too")
    else:
        sentences += _unsplit(operations, both)
    if not SENDS & traced:
        sentences.append("sends, and b+c+d: tell_host was not traced")
    elif not pages_of_sends_known(spans, operations.nesting):
        sentences.append(
            "pages of a send: the driver has no type information; pages of operations are how far the "
            "balloon's size moved, without the first work item of the recording"
        )
    if not operations.items.config_measured.any() and len(operations.items):
        sentences.append("reading the target: its probe was not attached")
    if not operations.items.measured.any() and len(operations.items):
        sentences.append("targets and outcomes: the target was not seen being read")
    missing = [probe for probe in header.probes if probe.status not in (Status.ATTACHED, Status.NOT_NEEDED)]
    stand_ins = _stand_ins(header.probes)
    sentences += [_missing_probe(probe, stand_ins.get(probe.function)) for probe in missing]
    if end is None or end.own_cost is None:
        sentences.append("the tool's own cost: it is written at the end of a recording")
    return tuple(sentences)


def _untraced(header: Header, *, with_host: bool) -> Iterator[str]:
    """Pages that went to the host in ways that no probe shows."""
    names: dict[tuple[str, str], list[str]] = {}
    for device in header.devices:
        for found in untraced_features(device.feature_bits, patched=header.driver_kind == DriverKind.PATCHED):
            names.setdefault(found, []).append(device.name)
    for (word, feature), devices in names.items():
        listed = " and ".join(devices[:_LISTED])
        yield f"{word}: {listed} offers it ({feature}), and it is not traced"
        if with_host and word.endswith("reporting"):
            yield (
                f"reports of free pages on the host: {listed} makes them, so some of its buffers and calls "
                "may be reports and belong to no operation"
            )


def _unsplit(operations: Operations, both: BothSides) -> list[str]:
    """Which operations the host's side does not split, and why the ways of b are not shown apart."""
    served = both.times.served_ns != NOT_SERVED
    of = operations.send_operation
    alone = np.unique(of[(of != NO_OPERATION) & ~served])
    sentences = []
    if len(alone):
        listed = ", ".join(str(index + 1) for index in alone[:_LISTED].tolist())
        more = f" and {len(alone) - _LISTED} more" if len(alone) > _LISTED else ""
        sentences.append(
            f"b, c and d apart of operation {listed}{more}: not every one of its sends was seen being served"
        )
    if not both.pairing.clocks_known:
        bound = format_duration_ns(both.pairing.clock_error_ns)
        sentences.append(f"the ways to the host and back: the clocks are known to {bound} only")
    return sentences


def _stand_ins(probes: Sequence[Probe]) -> Mapping[str, str]:
    """For each function that was not attached itself the first that was attached in its place."""
    found: dict[str, str] = {}
    for probe in probes:
        if probe.status == Status.ATTACHED:
            for name in (probe.stands_in_for or "").split(", "):
                found.setdefault(name, probe.function)
    return found


def _missing_probe(probe: Probe, stand_in: str | None) -> str:
    sentence = f"{probe.function}: {probe.status or 'not attached'}"
    if stand_in is not None:
        return f"{sentence}; {stand_in} stands in for it"
    return f"{sentence} ({probe.note})" if probe.note else sentence

# SPDX-License-Identifier: GPL-2.0-or-later
"""The events of one or both sides on one time line: the guest's clock, or the host's where that is alone.

In a damaged recording two calls of one thread may overlap without one being inside the other. Then the later
one goes to another track of that thread, so that the slices of a track always nest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.both_sides import BothSides
from balloontrace.analysis.columns import Batches, Column, Spans
from balloontrace.analysis.guest_side import GuestEvents
from balloontrace.analysis.host_side import HostRecording
from balloontrace.analysis.make_report import Examined
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.analysis.operations import NO_OPERATION, FoundOperation, Operations
from balloontrace.analysis.report_operations import device_name
from balloontrace.analysis.work_items import NOT_MEASURED
from balloontrace.errors import RecordingError
from balloontrace.export.event_rows import BATCH_COLUMNS, SPAN_COLUMNS, batch_values, loss_fields, span_values
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES, BatchFlag, Function, Side
from balloontrace.results.operation import Operation
from balloontrace.results.other_operation import OtherOperation
from balloontrace.results.recording_header import Header
from balloontrace.results.report import Report
from balloontrace.results.time_line import Arguments, Counter, Instant, Process, Slice, Timeline, Track
from balloontrace.units import rate_bytes_per_s

Rows = NDArray[np.intp]

_MIB_BYTES = 1 << 20
_RATES = 200  # points of the rate in one operation, at most
_CHUNK_ROWS = 1 << 14
_MOST_LANES = 64
_MOST_TRACKS = 4096
_NO_ARROW = 0

_INSTANTS = {
    int(Function.VIRTBALLOON_CHANGED): "configuration change",
    int(Function.VIRTIO_BALLOON_OOM_NOTIFY): "out of memory",
    int(Function.STATS_REQUEST): "statistics asked for",
}
# What a thread is named after: the first of these that it ran.
_ROLES = (
    (Function.UPDATE_BALLOON_SIZE_FUNC, "balloon work"),
    (Function.VIRTIO_BALLOON_OOM_NOTIFY, "out of memory"),
    (Function.VIRTBALLOON_MIGRATEPAGE, "page compaction"),
    (Function.VIRTBALLOON_FREEZE, "freeze"),
    (Function.VIRTBALLOON_RESTORE, "restore"),
    (Function.VIRTBALLOON_REMOVE, "removal"),
    (Function.LEAK_BALLOON, "release of pages"),
    (Function.UPDATE_BALLOON_STATS_FUNC, "statistics"),
    (Function.PAGE_REPORTING_PROCESS, "page reporting"),
    (Function.REPORT_FREE_PAGE_FUNC, "page hinting"),
)


def build_timeline(examined: Examined) -> Timeline:
    """All slices, instants and counters; slices are made while they are gone through.

    RecordingError for a recording whose calls overlap in more ways than threads can.
    """
    report, guest, host = examined.report, examined.guest, examined.host
    times = None if host is None else _batch_times(host.batches, examined.both, guest)
    origin_ns = _origin_ns(report.header, guest, times)
    processes = []
    if guest is not None:
        processes.append(_guest_process(report, guest, examined.both, origin_ns))
    if host is not None and times is not None:
        processes.append(_host_process(host, times, examined.both, origin_ns))
    clock = f"{report.header.clock or 'clock'} of the {report.header.side or Side.GUEST}"
    return Timeline(tuple(processes), clock, origin_ns, _about(report))


@dataclass(frozen=True, slots=True)
class _BatchTimes:
    """When each batch began and ended, and its calls, in ns of the time line's clock."""

    start_ns: Column
    first_call_ns: Column
    last_return_ns: Column
    end_ns: Column


def _batch_times(batches: Batches, both: BothSides | None, guest: GuestEvents | None) -> _BatchTimes:
    """A batch whose kick or completion was not seen begins with its first call, or ends with its last."""

    def shown(name: str) -> Column:
        host_ns = batches.int64(name)
        return host_ns if both is None else both.guest_ns(host_ns)

    first_ns, last_ns = shown("first_call_ns"), shown("last_return_ns")
    if batches.sampled:  # no more of the calls is known than instants inside them
        first_ns, last_ns = np.minimum(first_ns, last_ns), np.maximum(first_ns, last_ns)
    start_ns = np.where(batches.has(BatchFlag.KICK_SEEN), shown("kick_ns"), first_ns)
    if both is not None and guest is not None and len(guest.spans):
        # No kick comes before its send: that it seems to, by a rounded nanosecond, is the clocks' error.
        paired = both.send_of_batch != NO_SPAN
        sent_ns = guest.spans.int64("start_ns")[both.send_of_batch]
        start_ns = np.where(paired, np.maximum(start_ns, sent_ns), start_ns)
    first_ns = np.maximum(first_ns, start_ns)
    last_ns = np.maximum(last_ns, first_ns)
    done_ns = np.where(batches.has(BatchFlag.DONE_SEEN), shown("done_ns"), last_ns)
    return _BatchTimes(start_ns, first_ns, last_ns, np.maximum(done_ns, last_ns))


def _origin_ns(header: Header, guest: GuestEvents | None, times: _BatchTimes | None) -> int:
    """The earliest moment there is, so that none is negative."""
    moments = [] if header.started_monotonic_ns is None else [header.started_monotonic_ns]
    if guest is not None and len(guest.spans):
        moments.append(int(guest.spans.int64("start_ns")[0]))
    if times is not None and len(times.start_ns):
        moments.append(int(times.start_ns.min()))
    return min(moments, default=0)


# ---- the guest ----


def _guest_process(report: Report, guest: GuestEvents, both: BothSides | None, origin_ns: int) -> Process:
    spans, header = guest.spans, report.header
    arrows = _arrows_of_sends(spans, both)
    began_ns = (header.started_monotonic_ns or origin_ns) - origin_ns
    instants = (Instant("recording began", began_ns, _flat_losses(report)), *_instants(spans, origin_ns))
    who = header.label or header.machine.hostname or "unnamed machine"
    return Process(
        f"guest: {who}",
        (
            *_operation_tracks(report.operations, origin_ns),
            *_other_tracks(report.other_operations, origin_ns),
            *_thread_tracks(spans, arrows, origin_ns),
        ),
        tuple(instants),
        tuple(_counters(guest.operations, header, origin_ns)),
    )


def _flat_losses(report: Report) -> Arguments:
    """What a viewer should know of a recording without opening its file."""
    return {
        "recording": report.header.recording,
        "complete": report.complete,
        "ended": report.ended or "unknown",
        "events_lost": "unknown" if report.events_lost is None else report.events_lost,
        "spans_missing": "unknown" if report.spans_missing is None else report.spans_missing,
        "warnings": "; ".join(report.warnings) or "none",
    }


def _instants(spans: Spans, origin_ns: int) -> Iterator[Instant]:
    moments = np.flatnonzero(np.isin(spans.columns["function"], list(_INSTANTS)))
    for first in range(0, len(moments), _CHUNK_ROWS):
        rows = moments[first : first + _CHUNK_ROWS]
        functions, start_ns = spans.int64("function")[rows].tolist(), spans.int64("start_ns")[rows].tolist()
        values = zip(*span_values(spans, rows), strict=True)
        for function, at_ns, each in zip(functions, start_ns, values, strict=True):
            yield Instant(_INSTANTS[function], at_ns - origin_ns, _span_arguments(each))


def _operation_tracks(operations: Sequence[Operation], origin_ns: int) -> Iterator[Track]:
    """One track a device; operations of a device follow each other."""
    described = [(each, str(each.kind), _operation_arguments(each)) for each in operations]
    return _tracks_of_devices("operations", described, origin_ns)


def _other_tracks(others: Sequence[OtherOperation], origin_ns: int) -> Iterator[Track]:
    """What drivers did besides work items, one track a device."""
    described = [(each, each.what, _other_arguments(each)) for each in others]
    return _tracks_of_devices("other operations", described, origin_ns)


def _tracks_of_devices(
    what: str, described: Sequence[tuple[Operation | OtherOperation, str, Arguments]], origin_ns: int
) -> Iterator[Track]:
    """Each of them by its name, and what there is to say of it."""
    of_devices: dict[str, list[Slice]] = {}
    for each, name, arguments in described:
        start_ns = each.started_ns - origin_ns
        piece = Slice(name, start_ns, start_ns + each.wall_ns, arguments)
        of_devices.setdefault(each.device, []).append(piece)
    _hold_to_tracks(len(of_devices), "devices")
    for device, slices in of_devices.items():
        slices.sort(key=lambda piece: (piece.start_ns, -piece.end_ns))
        lanes = _lanes([each.start_ns for each in slices], [each.end_ns for each in slices], device)
        for lane, rows in enumerate(lanes):
            yield Track(_lane_name(f"{what} of {device}", lane), [slices[row] for row in rows])


def _other_arguments(other: OtherOperation) -> Arguments:
    shown = dataclasses.asdict(other)
    left_out = ("what", "device", "started_ns", "wall_ns")
    return {name: value for name, value in shown.items() if value is not None and name not in left_out}


def _operation_arguments(operation: Operation) -> Arguments:
    measured = {
        "number": operation.number,
        "outcome": operation.outcome,
        "pages": operation.pages,
        "target_pages": operation.target_pages,
        "sends": operation.sends,
        "work_items": operation.work_items,
        "oom_notifications": operation.oom_notifications,
        "verdict": "; ".join(operation.verdict) or None,
        **{f"{row.stage} ns": row.total_ns for row in operation.stages},
    }
    return {name: value for name, value in measured.items() if value is not None}


def _thread_tracks(spans: Spans, arrows: Column, origin_ns: int) -> Iterator[Track]:
    """The calls of each thread; idle tasks, which all have number 0, by their CPU."""
    took_time = ~spans.of(Function.VIRTBALLOON_CHANGED, Function.STATS_REQUEST)
    tid, cpu = spans.int64("tid"), spans.int64("cpu")
    thread = np.where(tid == 0, -1 - cpu, tid)
    for each, rows in _grouped(thread, np.flatnonzero(took_time), "threads"):
        name = f"thread {each}" if each > 0 else f"idle task of CPU {-1 - each}"
        ran = spans.columns["function"][rows]
        role = next((role for function, role in _ROLES if np.any(ran == int(function))), None)
        name = f"{role} ({name})" if role else name
        start_ns, end_ns = spans.int64("start_ns")[rows], spans.end_ns[rows]
        for lane, places in enumerate(_lanes(start_ns.tolist(), end_ns.tolist(), name)):
            yield Track(_lane_name(name, lane), _SpanSlices(spans, rows[places], arrows, origin_ns))


@dataclass(frozen=True, slots=True)
class _SpanSlices:
    """Spans as slices, made a chunk at a time."""

    spans: Spans
    rows: Rows
    arrows: Column
    origin_ns: int

    def __iter__(self) -> Iterator[Slice]:
        for start in range(0, len(self.rows), _CHUNK_ROWS):
            rows = self.rows[start : start + _CHUNK_ROWS]
            start_ns = (self.spans.int64("start_ns")[rows] - self.origin_ns).tolist()
            end_ns = (self.spans.end_ns[rows] - self.origin_ns).tolist()
            values = zip(*span_values(self.spans, rows), strict=True)
            for first, last, arrow, row in zip(
                start_ns, end_ns, self.arrows[rows].tolist(), values, strict=True
            ):
                name = str(row[SPAN_COLUMNS.index("function")])
                yield Slice(name, first, last, _span_arguments(row), arrow_out=arrow or None)


def _span_arguments(values: Sequence[object]) -> Arguments:
    named = zip(SPAN_COLUMNS, values, strict=True)
    left_out = ("start_ns", "duration_ns", "function")
    return {name: value for name, value in named if value is not None and name not in left_out}


def _arrows_of_sends(spans: Spans, both: BothSides | None) -> Column:
    """The number of the arrow from each span to the batch it was served in; 0 where there is none."""
    arrows = np.full(len(spans), _NO_ARROW, dtype=np.int64)
    if both is not None:
        paired = np.flatnonzero(both.send_of_batch != NO_SPAN)
        arrows[both.send_of_batch[paired]] = paired + 1
    return arrows


def _counters(operations: Operations, header: Header, origin_ns: int) -> Iterator[Counter]:
    """Size and rate of each balloon; of one whose size nobody saw there is no such counter."""
    names = {device.index: device.name for device in header.devices if device.index is not None}
    items = operations.items
    of_devices: dict[int, list[FoundOperation]] = {}
    for found in operations.found:
        of_devices.setdefault(found.device, []).append(found)
    for device, mine in _grouped(items.device, np.arange(len(items)), "devices"):
        name = device_name(device, names)
        sizes, rates = _sizes(operations, mine, of_devices.get(device, [])), _rates(operations, mine)
        for what, unit, points in (("balloon", "MiB", sizes), ("rate", "MiB/s", rates)):
            shown = [(at_ns - origin_ns, value) for at_ns, value in points]
            if shown:
                yield Counter(f"{what} of {name}", unit, shown)


def _sizes(
    operations: Operations, rows: Rows, of_device: Sequence[FoundOperation]
) -> list[tuple[int, float]]:
    """The balloon's size before each operation and after each work item, in MiB."""
    items = operations.items
    known = rows[items.actual_pages[rows] != NOT_MEASURED]
    points = list(zip(items.end_ns[known].tolist(), items.actual_pages[known].tolist(), strict=True))
    points += [
        (found.start_ns, found.actual_before_pages)
        for found in of_device
        if found.actual_before_pages is not None
    ]
    return [(at_ns, pages * BALLOON_PAGE_BYTES / _MIB_BYTES) for at_ns, pages in sorted(points)]


def _rates(operations: Operations, rows: Rows) -> Iterator[tuple[int, float]]:
    """How fast pages moved from one point to the next, in MiB/s, and 0 after an operation.

    Work items within a two-hundredth of their operation make up one point. Nothing of an operation in which
    not every work item's pages are known.
    """
    items = operations.items
    of = operations.item_operation
    for index, mine in _grouped(of, rows[of[rows] != NO_OPERATION]):
        found = operations.found[index]
        if not items.pages_known[mine].all():
            continue
        end_ns, moved = items.end_ns[mine], np.cumsum(items.pages[mine])
        part = (end_ns - found.start_ns) * _RATES // max(1, found.end_ns - found.start_ns)
        lasts = np.flatnonzero(np.append(part[1:] != part[:-1], True))
        at_ns, before = found.start_ns, 0
        for then_ns, pages in zip(end_ns[lasts].tolist(), moved[lasts].tolist(), strict=True):
            rate = rate_bytes_per_s(pages - before, then_ns - at_ns)
            if rate is not None:
                yield at_ns, rate / _MIB_BYTES
                at_ns, before = then_ns, pages
        yield found.end_ns, 0.0


# ---- the host ----


def _host_process(host: HostRecording, times: _BatchTimes, both: BothSides | None, origin_ns: int) -> Process:
    batches = host.batches
    tid = batches.int64("tid")
    tracks = []
    for each, rows in _grouped(tid, np.arange(len(batches)), "threads"):
        # They lie in order of their first call, which for overlapping ones is not that of their starts.
        rows = rows[np.lexsort((-times.end_ns[rows], times.start_ns[rows]))]
        name = f"buffers served (thread {each})"
        lanes = _lanes(times.start_ns[rows].tolist(), times.end_ns[rows].tolist(), name)
        tracks += [
            Track(_lane_name(name, lane), _BatchSlices(batches, rows[places], times, both, origin_ns))
            for lane, places in enumerate(lanes)
        ]
    who = host.header.label or host.header.machine.hostname or "unnamed machine"
    process = f", process {host.side.process}" if host.side.process else ""
    return Process(f"host: {who}{process}", tuple(tracks))


@dataclass(frozen=True, slots=True)
class _BatchSlices:
    """Batches as slices, each with one inside it from its first call to the return of its last."""

    batches: Batches
    rows: Rows
    times: _BatchTimes
    both: BothSides | None
    origin_ns: int

    def __iter__(self) -> Iterator[Slice]:
        for start in range(0, len(self.rows), _CHUNK_ROWS):
            rows = self.rows[start : start + _CHUNK_ROWS]
            times = zip(
                *((column[rows] - self.origin_ns).tolist() for column in self._columns()), strict=True
            )
            values = zip(*batch_values(self.batches, self.both, rows), strict=True)
            for row, (start_ns, first_ns, last_ns, end_ns), value in zip(
                rows.tolist(), times, values, strict=True
            ):
                arguments = {
                    name: each for name, each in zip(BATCH_COLUMNS, value, strict=True) if each is not None
                }
                arrow = row + 1 if "send" in arguments else None
                yield Slice("buffer", start_ns, end_ns, arguments, arrow_in=arrow)
                if "calls_ns" in arguments:
                    yield Slice("calls", first_ns, last_ns, {"inside_calls_ns": arguments["calls_ns"]})

    def _columns(self) -> tuple[Column, ...]:
        times = self.times
        return times.start_ns, times.first_call_ns, times.last_return_ns, times.end_ns


# ---- both ----


def _grouped(keys: Column, rows: Rows, most: str | None = None) -> Iterator[tuple[int, Rows]]:
    """Some rows by their key, ascending, each group in the order of `rows`; `most` names what is limited."""
    order = rows[np.argsort(keys[rows], kind="stable")]
    bounds = np.flatnonzero(np.diff(keys[order])) + 1
    groups = np.split(order, bounds) if len(order) else []
    if most is not None:
        _hold_to_tracks(len(groups), most)
    return ((int(keys[group[0]]), group) for group in groups)


def _hold_to_tracks(count: int, what: str) -> None:
    if count > _MOST_TRACKS:
        raise RecordingError(
            f"a time line of {count} {what} cannot be shown: the most is {_MOST_TRACKS}; "
            "--format csv or ndjson has every call"
        )


def _lanes(start_ns: Sequence[int], end_ns: Sequence[int], name: str) -> list[list[int]]:
    """Places of slices in order of start, outer first, in as few lanes as they nest in; mostly one."""
    lanes: list[list[int]] = []
    stacks: list[list[int]] = []
    for place, (start, end) in enumerate(zip(start_ns, end_ns, strict=True)):
        for lane, ends in enumerate(stacks):  # noqa: B007
            while ends and ends[-1] <= start:
                ends.pop()
            if not ends or end <= ends[-1]:
                break
        else:
            lane = len(stacks)
            if lane == _MOST_LANES:
                raise RecordingError(
                    f"more than {_MOST_LANES} calls of {name} overlap: the recording is damaged "
                    "and makes no time line"
                )
            stacks.append([])
            lanes.append([])
        stacks[lane].append(end)
        lanes[lane].append(place)
    return lanes


def _lane_name(name: str, lane: int) -> str:
    return f"{name}, overlapping {lane}" if lane else name


def _about(report: Report) -> Mapping[str, object]:
    """What the report says beside what happened: where from, what was lost, its cost, how clocks match."""
    left_out = {"operations", "totals", "outside", "checks", "other_operations"}
    described = dataclasses.asdict(dataclasses.replace(report, operations=(), totals=(), other_operations=()))
    described["losses"] = [loss_fields(loss) for loss in report.losses]
    if report.host is not None:
        described["host"]["losses"] = [loss_fields(loss) for loss in report.host.losses]
    return {name: value for name, value in described.items() if name not in left_out}

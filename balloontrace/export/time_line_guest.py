# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's part of a time line: operations by device, calls by thread, moments, sizes and rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from balloontrace.analysis.both_sides import BothSides
from balloontrace.analysis.columns import Column, Spans
from balloontrace.analysis.guest_side import GuestEvents
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.export.balloon_counters import balloon_counters
from balloontrace.export.event_rows import SPAN_COLUMNS, span_values
from balloontrace.export.stage_columns import StageColumns, find_stage_columns
from balloontrace.export.stage_slices import allocation_tracks, parts_of_send
from balloontrace.export.tracks import CHUNK_ROWS, Rows, grouped, hold_to_tracks, lane_name, lanes
from balloontrace.format.vocabulary import Function
from balloontrace.results.operation import Operation
from balloontrace.results.other_operation import OtherOperation
from balloontrace.results.report import Report
from balloontrace.results.time_line import Arguments, Instant, Process, Slice, Track

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


def guest_process(report: Report, guest: GuestEvents, both: BothSides | None, origin_ns: int) -> Process:
    """Everything of the guest, on the time line's clock."""
    spans, header, stages = guest.spans, report.header, find_stage_columns(guest)
    arrows = _arrows_of_sends(spans, both)
    began_ns = (header.started_monotonic_ns or origin_ns) - origin_ns
    instants = (
        Instant("recording began", began_ns, _flat_losses(report)),
        *_instants(spans, stages, origin_ns),
    )
    who = header.label or header.machine.hostname or "unnamed machine"
    return Process(
        f"guest: {who}",
        (
            *_operation_tracks(report.operations, origin_ns),
            *_other_tracks(report.other_operations, origin_ns),
            *_thread_tracks(spans, stages, arrows, origin_ns),
            *allocation_tracks(spans, guest.operations, stages, origin_ns),
        ),
        tuple(instants),
        tuple(balloon_counters(guest.operations, header, origin_ns)),
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


def _instants(spans: Spans, stages: StageColumns, origin_ns: int) -> Iterator[Instant]:
    moments = np.flatnonzero(np.isin(spans.columns["function"], list(_INSTANTS)))
    for first in range(0, len(moments), CHUNK_ROWS):
        rows = moments[first : first + CHUNK_ROWS]
        functions, start_ns = spans.int64("function")[rows].tolist(), spans.int64("start_ns")[rows].tolist()
        values = zip(*span_values(spans, stages, rows), strict=True)
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
    hold_to_tracks(len(of_devices), "devices")
    for device, slices in of_devices.items():
        slices.sort(key=lambda piece: (piece.start_ns, -piece.end_ns))
        found = lanes([each.start_ns for each in slices], [each.end_ns for each in slices], device)
        for lane, rows in enumerate(found):
            yield Track(lane_name(f"{what} of {device}", lane), [slices[row] for row in rows])


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


def _thread_tracks(spans: Spans, stages: StageColumns, arrows: Column, origin_ns: int) -> Iterator[Track]:
    """The calls of each thread; idle tasks, which all have number 0, by their CPU."""
    took_time = ~spans.of(Function.VIRTBALLOON_CHANGED, Function.STATS_REQUEST)
    tid, cpu = spans.int64("tid"), spans.int64("cpu")
    thread = np.where(tid == 0, -1 - cpu, tid)
    for each, rows in grouped(thread, np.flatnonzero(took_time), "threads"):
        name = f"thread {each}" if each > 0 else f"idle task of CPU {-1 - each}"
        ran = spans.columns["function"][rows]
        role = next((role for function, role in _ROLES if np.any(ran == int(function))), None)
        name = f"{role} ({name})" if role else name
        start_ns, end_ns = spans.int64("start_ns")[rows], spans.end_ns[rows]
        for lane, places in enumerate(lanes(start_ns.tolist(), end_ns.tolist(), name)):
            yield Track(lane_name(name, lane), _SpanSlices(spans, stages, rows[places], arrows, origin_ns))


@dataclass(frozen=True, slots=True)
class _SpanSlices:
    """Spans as slices, made a chunk at a time; a send that an interrupt answered has its parts inside."""

    spans: Spans
    stages: StageColumns
    rows: Rows
    arrows: Column
    origin_ns: int

    def __iter__(self) -> Iterator[Slice]:
        starts_ns, ends_ns = self.spans.int64("start_ns")[self.rows], self.spans.end_ns[self.rows]
        # What has a call inside it has no room for other slices.
        is_innermost = np.append(starts_ns[1:] >= ends_ns[:-1], True)
        for start in range(0, len(self.rows), CHUNK_ROWS):
            rows = self.rows[start : start + CHUNK_ROWS]
            innermost = is_innermost[start : start + CHUNK_ROWS].tolist()
            start_ns = (self.spans.int64("start_ns")[rows] - self.origin_ns).tolist()
            end_ns = (self.spans.end_ns[rows] - self.origin_ns).tolist()
            values = zip(*span_values(self.spans, self.stages, rows), strict=True)
            arrows = self.arrows[rows].tolist()
            for first, last, arrow, alone, row in zip(
                start_ns, end_ns, arrows, innermost, values, strict=True
            ):
                name = str(row[SPAN_COLUMNS.index("function")])
                yield Slice(name, first, last, _span_arguments(row), arrow_out=arrow or None)
                if alone:
                    yield from parts_of_send(first, last, row[SPAN_COLUMNS.index("acked_ns")])


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

# SPDX-License-Identifier: GPL-2.0-or-later
"""A report into rows of the dataset's tables.

A recording is one entry, by its own id. What a host's recording counts (its calls, losses and cost) belongs
to that entry, also where it was matched with a guest's; the guest's operations and stages are then as fine as
both sides are. So a host's recording that goes with several guests' is in the dataset once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from balloontrace.archive.schema import LEVEL_BITS
from balloontrace.format.vocabulary import Side
from balloontrace.results.host_side import HostSide
from balloontrace.results.operation import IN_PROGRESS, STALLED, Operation
from balloontrace.results.other_operation import OtherOperation
from balloontrace.results.recorder import Loss, OwnCost
from balloontrace.results.recording_header import Header
from balloontrace.results.report import Report
from balloontrace.units import NS_PER_S, pages_to_bytes

Cells = dict[str, object]
# What 64 bits hold. A stranger's recording may say more: then it was not measured.
_MOST = (1 << 63) - 1
# What a level is the sum of.
_OF_BOTH, _TO_ITS_END = 2, 1
_MOST_EVENTS = (1 << LEVEL_BITS) - 1


@dataclass(frozen=True, slots=True)
class Origin:
    """What a report does not say of its recording: its id, when it ended, and where its machine runs.

    `vm` is what the host calls the VM, where that is known. `host_is_all`: the host's recording has a buffer
    for each send, or no other piece of it can have any. `content` is a hash of its file, where that is whole.
    `is_piece`: another piece may be before it.
    """

    recording_id: str
    ended_monotonic_ns: int | None = None
    host: str | None = None
    host_recording_id: str | None = None
    vm: str | None = None
    host_is_all: bool = True
    content: str | None = None
    is_piece: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """All rows of one recording, by table; a row has cells by column, but for those not measured.

    `rank` is higher where more is known of the same recording: from both sides, to the end of both, and else
    of more events.
    """

    recording_id: str
    rank: int
    day: date | None
    host: str | None
    rows: dict[str, list[Cells]] = field(default_factory=dict)
    content: str | None = None

    @property
    def is_of_both(self) -> bool:
        """Whether the host's side of it is known."""
        return self.rank >= _OF_BOTH << LEVEL_BITS


def best_rank(*, is_pair: bool) -> int:
    """The most that can come to be known of a recording."""
    return (_OF_BOTH if is_pair else 0) + _TO_ITS_END << LEVEL_BITS


def _rank(report: Report, origin: Origin) -> int:
    """How much is known; what is known to its end is that once and for all."""
    pairing = report.host.pairing if report.host and not report.header.is_of_host else None
    level = 0 if pairing is None else _OF_BOTH
    if report.complete and report.ended is not None and origin.host_is_all:
        return level + _TO_ITS_END << LEVEL_BITS
    events = report.spans + (pairing.pairs if pairing else report.host.batches if report.host else 0)
    return (level << LEVEL_BITS) + min(events, _MOST_EVENTS)


def describe(report: Report, origin: Origin) -> Entry:
    """The rows of a guest's recording, or of a host's own."""
    header, host = report.header, report.host
    side_host = None if host is None else host.header.machine.hostname
    name = (header.machine.hostname if header.is_of_host else None) or side_host or origin.host
    common: Cells = {
        "recording_id": origin.recording_id,
        "day": _day(header.started_realtime_ns),
        "host": name,
        "vm": origin.vm or (None if header.is_of_host else header.machine.hostname),
        "kernel_release": header.machine.kernel_release,
        "driver_kind": header.driver_kind,
        "started_at_ns": header.started_realtime_ns,
    }
    found: dict[str, list[Cells]] = {
        "machines": [_machine(report, origin)],
        "operations": [
            *_operations(report, origin),
            *(_other(each, header) for each in report.other_operations),
        ],
        "stages": [
            row
            for each in report.operations
            if not (origin.is_piece and _is_cut_at_start(each, header))
            for row in _stages(each, header)
        ],
        "calls": list(_calls(host)) if header.is_of_host and host is not None else [],
        "losses": [_loss(loss, header) for loss in _losses(report)],
    }
    rows = {table: [_bounded({**common, **row}) for row in each] for table, each in found.items()}
    day = _day(header.started_realtime_ns)
    return Entry(origin.recording_id, _rank(report, origin), day, name, rows, origin.content)


def _losses(report: Report) -> tuple[Loss, ...]:
    return report.host.losses if report.header.is_of_host and report.host is not None else report.losses


def _machine(report: Report, origin: Origin) -> Cells:
    header, machine, cost = report.header, report.header.machine, report.own_cost or OwnCost()
    started_ns, ended_ns = header.started_monotonic_ns, origin.ended_monotonic_ns
    known = None not in (started_ns, ended_ns)
    sizes = [balloon.at_end.size_pages for balloon in report.balloons]
    return {
        "side": Side.HOST if header.is_of_host else Side.GUEST,
        "label": header.label,
        "pair": header.pair,
        "process": report.host.process if header.is_of_host and report.host else None,
        "boot_id": machine.boot_id,
        "architecture": machine.architecture,
        "thp_enabled": machine.thp_enabled,
        "module_srcversion": header.module_srcversion,
        "tool_version": header.tool_version,
        "format_version": header.format_version,
        "engine": header.engine,
        "engine_version": header.engine_version,
        "ended": report.ended,
        "complete": report.complete,
        "duration_ns": (ended_ns or 0) - (started_ns or 0) if known else None,
        "cpus": machine.cpus,
        "memory_bytes": machine.memory_bytes,
        "swap_bytes": machine.swap_bytes,
        "page_size_bytes": machine.page_size_bytes,
        "numa_nodes": machine.numa_nodes,
        "events_seen": report.events_seen,
        "events_lost": report.events_lost,
        "spans_missing": report.spans_missing,
        "moved_bytes": _bytes(report.pages_moved),
        "unseen_bytes": _bytes(report.pages_unseen),
        "balloon_bytes": _sum_bytes(sizes),
        "below_target_bytes": _sum_bytes([balloon.below_target_pages for balloon in report.balloons]),
        "above_target_bytes": _sum_bytes([balloon.above_target_pages for balloon in report.balloons]),
        "bpf_ns": cost.bpf_time_ns,
        "bpf_runs": cost.bpf_runs,
        "cpu_ns": cost.cpu_ns,
        "setup_cpu_ns": cost.setup_cpu_ns,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "written_bytes": cost.bytes_written,
        "wakeups": cost.wakeups,
    }


def _operations(report: Report, origin: Origin) -> Iterator[Cells]:
    host_kernel = report.host.header.machine.kernel_release if report.host else None
    for each in report.operations:
        served, freed = each.served, each.freed
        yield {
            "host_recording_id": origin.host_recording_id,
            "host_kernel_release": host_kernel,
            "operation": each.number,
            "device": each.device,
            "kind": each.kind,
            "outcome": each.outcome,
            "whole": _is_whole(each),
            "started_at_ns": _moment(each.started_ns, report.header),
            "wall_ns": each.wall_ns,
            "bytes": _bytes(each.pages),
            "target_bytes": _bytes(each.target_pages),
            "before_bytes": _bytes(each.actual_before_pages),
            "after_bytes": _bytes(each.actual_after_pages),
            "shortfall_bytes": _shortfall(each),
            "sends": each.sends,
            "work_items": each.work_items,
            "run_delay_ns": each.run_delay_ns,
            "oom_bytes": _bytes(each.oom_pages),
            "host_calls": served.calls if served else None,
            "host_errors": served.errors if served else None,
            "thp_splits": served.thp_splits if served else None,
            "freed_verdict": freed.verdict if freed else None,
            "freed_reason": freed.reason if freed else None,
            "freed_memory": freed.memory if freed else None,
            "asked_bytes": freed.asked_bytes if freed else None,
            "freed_least_bytes": freed.least_bytes if freed else None,
            "freed_most_bytes": freed.most_bytes if freed else None,
            "taken_back_bytes": each.taken_back.bytes if each.taken_back else None,
        }


def _is_whole(operation: Operation) -> bool | None:
    """Whether all of it is in the recording; None where that is not known."""
    if operation.started_before_recording or operation.outcome in (IN_PROGRESS, STALLED):
        return False
    return None if None in (operation.started_before_recording, operation.outcome) else True


def _is_cut_at_start(operation: Operation, header: Header) -> bool:
    """Whether its first work item began before its piece: what that did until then is in another one."""
    return header.started_monotonic_ns is not None and operation.started_ns < header.started_monotonic_ns


def _shortfall(operation: Operation) -> int | None:
    """How far from its target an operation left the balloon; None while it is under way."""
    if operation.outcome == IN_PROGRESS:
        return None
    if operation.target_pages is None or operation.actual_after_pages is None:
        return None
    return pages_to_bytes(abs(operation.target_pages - operation.actual_after_pages))


def _other(each: OtherOperation, header: Header) -> Cells:
    """What no target asked for; such a row has no number."""
    return {
        "device": each.device,
        "kind": each.what,
        "started_at_ns": _moment(each.started_ns, header),
        "wall_ns": each.wall_ns,
        "bytes": _bytes(each.pages),
        "before_bytes": _bytes(each.size_before_pages),
        "after_bytes": _bytes(each.size_after_pages),
        "target_bytes": _bytes(each.target_after_pages),
    }


def _stages(operation: Operation, header: Header) -> Iterator[Cells]:
    for row in operation.stages:
        yield {
            "started_at_ns": _moment(operation.started_ns, header),
            "operation": operation.number,
            "kind": operation.kind,
            "outcome": operation.outcome,
            "bytes": _bytes(operation.pages),
            "stage": row.stage,
            "part_of": row.part_of,
            "count": row.count,
            "total_ns": row.total_ns,
            "p50_ns": row.p50_ns,
            "p90_ns": row.p90_ns,
            "p99_ns": row.p99_ns,
            "max_ns": row.max_ns,
            "error_ns": row.error_ns,
        }


def _calls(host: HostSide) -> Iterator[Cells]:
    for each in host.calls:
        yield {
            "process": host.process,
            "call": each.call,
            "calls": each.calls,
            "bytes": each.bytes,
            "errors": each.errors,
            "without_bytes": each.no_bytes,
            "freed_nothing": each.freed_nothing,
            "freed_bytes": each.freed_bytes,
            "total_ns": each.total_ns,
        }


def _loss(loss: Loss, header: Header) -> Cells:
    return {
        "side": Side.HOST if header.is_of_host else Side.GUEST,
        "function": loss.function,
        "entries": loss.entries,
        "returns": loss.returns,
        "unmatched_returns": loss.unmatched_returns,
        "lost": loss.lost,
        "no_state": loss.no_state,
        "overwritten": loss.overwritten,
        "missed": loss.missed,
        "events_lost": loss.events_lost,
        "summed": loss.summed,
        "summed_ns": loss.summed_ns,
        "summed_bytes": _bytes(loss.summed_pages),
    }


def _bytes(pages: int | None) -> int | None:
    return None if pages is None else pages_to_bytes(pages)


def _sum_bytes(pages: list[int | None]) -> int | None:
    """Of all balloons; None where one is not known, or there is none."""
    known = [each for each in pages if each is not None]
    return pages_to_bytes(sum(known)) if known and len(known) == len(pages) else None


def _moment(monotonic_ns: int, header: Header) -> int | None:
    """The wall clock's time of a moment on the recording's clock."""
    started_ns, realtime_ns = header.started_monotonic_ns, header.started_realtime_ns
    return None if started_ns is None or realtime_ns is None else realtime_ns + monotonic_ns - started_ns


def _day(realtime_ns: int | None) -> date | None:
    """The day in UTC; None where there is no such day."""
    try:
        return None if realtime_ns is None else datetime.fromtimestamp(realtime_ns // NS_PER_S, UTC).date()
    except (ValueError, OverflowError, OSError):
        return None


def _bounded(row: Cells) -> Cells:
    """The same cells, of which numbers fit into 64 bits."""
    return {
        name: None if isinstance(cell, int) and not -_MOST <= cell <= _MOST else cell
        for name, cell in row.items()
    }

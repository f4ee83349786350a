# SPDX-License-Identifier: GPL-2.0-or-later
"""Which operations of a report count in a comparison, and what was measured of each.

A replicate is an operation that was seen from its beginning until it reached its one target. Nothing may be
missing from its recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from balloontrace.analysis.payload_decoding import PFN_BYTES
from balloontrace.analysis.payload_statistics import RESPONSE_HEADER_BYTES
from balloontrace.format.stages import ABCD, BCD, BCD_SEND, BUILD, C
from balloontrace.format.vocabulary import DriverKind, Kind
from balloontrace.results.comparison import WALL, Replicate
from balloontrace.results.operation import REACHED, Operation
from balloontrace.results.payload import PayloadStatistics
from balloontrace.results.recording_header import Header
from balloontrace.results.report import Report


@dataclass(frozen=True, slots=True)
class Found:
    """A replicate, and what it must have in common with those it is compared with.

    `run` is what no two runs have in common: copies of a recording, cut or renamed, have the same.
    """

    kind: Kind
    pages: int
    operation: Operation
    replicate: Replicate
    run: tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Refused:
    """An operation that is no replicate, and why."""

    recording: str
    operation: int
    kind: Kind
    reason: str


def find_replicates(report: Report) -> tuple[list[Found], list[Refused]]:
    """The operations of a report, those that count and the others."""
    found: list[Found] = []
    refused: list[Refused] = []
    recording = report.header.recording
    for operation in report.operations:
        reason = _refusal(report, operation)
        if reason is not None or operation.pages is None:
            reason = reason or "its size is not known"
            refused.append(Refused(recording, operation.number, operation.kind, reason))
        else:
            replicate = _replicate(report, operation, operation.pages)
            run = (identity(report.header), operation.started_ns, operation.wall_ns)
            found.append(Found(operation.kind, operation.pages, operation, replicate, run))
    return found, refused


def identity(header: Header) -> str:
    """What a recording is called by itself; of older ones the boot and the moment it began.

    Empty where it says neither: then its operations are known by their times alone, to the nanosecond.
    """
    if header.recording_id is not None:
        return header.recording_id
    boot_id, started_ns = header.machine.boot_id, header.started_monotonic_ns
    return "" if boot_id is None or started_ns is None else f"{boot_id} {started_ns}"


def misses_a_part(report: Report) -> bool:
    """Whether something that was recorded is not there any more, or nobody can tell."""
    return bool(report.spans_missing) or (not report.complete and report.spans_missing is None)


def _started_realtime_ns(header: Header, operation: Operation) -> int | None:
    """When an operation began by the wall clock."""
    if header.started_realtime_ns is None or header.started_monotonic_ns is None:
        return None
    return header.started_realtime_ns + operation.started_ns - header.started_monotonic_ns


def _refusal(report: Report, operation: Operation) -> str | None:
    """Why an operation does not count; None when it does."""
    if misses_a_part(report):
        return "a part of its recording is missing"
    if operation.outcome is None:
        return "whether it reached its target is not known"
    if operation.outcome != REACHED:
        return f"it did not reach its target: {operation.outcome}"
    if operation.started_before_recording is not False:
        began = "it began before the recording"
        return began if operation.started_before_recording else f"whether {began} is not known"
    if len(operation.targets_pages) > 1:
        return "its target moved"
    return None


def _replicate(report: Report, operation: Operation, pages: int) -> Replicate:
    counts = {name: value for name, value in _counts(report, operation, pages) if value is not None}
    return Replicate(
        recording=report.header.recording,
        host_recording=report.host.header.recording if report.host else None,
        operation=operation.number,
        started_ns=operation.started_ns,
        values={WALL: operation.wall_ns, **_stages(operation), **counts},
        started_realtime_ns=_started_realtime_ns(report.header, operation),
    )


def _stages(operation: Operation) -> dict[str, float]:
    """Times by stage, finer and coarser ones: what one recording shows apart another may not.

    `b+c+d` holds the making of bitmaps too, as b does where the three are apart.
    """
    values: dict[str, float] = {
        row.stage: row.total_ns for row in operation.stages if row.total_ns is not None
    }
    if C.code in values:
        values[BCD.code] = sum(values[code] for code in BCD.instead_of)
    elif BCD.code in values:
        values[BCD_SEND.code] = values[BCD.code]
        values[BCD.code] += values.get(BUILD.code, 0)
    if BCD.code in values:
        values[ABCD.code] = sum(values[code] for code in ABCD.instead_of)
    return values


def _counts(report: Report, operation: Operation, pages: int) -> Iterator[tuple[str, float | None]]:
    """What was sent, and what the host did for it; None for what was not measured."""
    sends = operation.sends
    yield "sends", sends
    yield "pages_per_send", pages / sends if sends else None
    sent_bytes = _sent_bytes(report, operation, pages)
    yield "bytes_sent", sent_bytes
    yield "bytes_per_page", None if sent_bytes is None or not pages else sent_bytes / pages
    yield from _payload(operation.payload)
    served = operation.served
    if served is not None:
        sizes = [size for size in (served.madvise_bytes, served.fallocate_bytes) if size is not None]
        discarded_bytes = max(sizes, default=None)
        yield "calls", served.calls
        yield "bytes_called", discarded_bytes
        yield "bytes_per_call", discarded_bytes / served.calls if served.calls and discarded_bytes else None
        yield "failed_calls", served.errors
        yield "thp_splits", served.thp_splits


def _sent_bytes(report: Report, operation: Operation, pages: int) -> int | None:
    """Payload bytes: as captured, as the patched driver said, or the stock driver's 4 a page."""
    if operation.payload is not None and operation.payload.bytes_sent is not None:
        return operation.payload.bytes_sent + operation.payload.header_bytes
    if operation.bitmap is not None and operation.sends is not None:
        headers_bytes = RESPONSE_HEADER_BYTES * operation.sends
        bytes_sent = operation.bitmap.bytes_sent
        return None if bytes_sent is None else bytes_sent + headers_bytes
    if report.header.driver_kind == DriverKind.STOCK and operation.sends is not None:
        return PFN_BYTES * pages
    return None


def _payload(payload: PayloadStatistics | None) -> Iterator[tuple[str, float | None]]:
    """What captured payloads named; nothing unless all of them are whole."""
    if payload is None or payload.payloads_whole < payload.sends:
        return
    yield "pages_repeated", payload.pages_repeated
    yield "pages_held_before", payload.pages_in_balloon_before
    if payload.of_records is not None:
        yield "records", payload.of_records.records
        yield "bitmap_fill", payload.of_records.bits_set_share

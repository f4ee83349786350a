# SPDX-License-Identifier: GPL-2.0-or-later
"""Single events of a recording as rows of plain values, a chunk at a time; None is what was not measured.

The names in the column lists below are those of the CSV header and of the lines of NDJSON, whose meanings
and units docs/export.schema.json has. They are only ever added to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.both_sides import BothSides
from balloontrace.analysis.columns import Batches, Mask, Spans, decode_counters
from balloontrace.analysis.guest_side import GuestEvents
from balloontrace.analysis.host_queues import NO_EVENTFD
from balloontrace.analysis.make_report import Examined
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.analysis.operations import NO_OPERATION
from balloontrace.analysis.page_reports import blocks_by_order, blocks_of
from balloontrace.analysis.payload_statistics import State
from balloontrace.analysis.payloads_of_operations import payload_of_spans
from balloontrace.analysis.report_page_hinting import Hints, hints_of
from balloontrace.export.stage_columns import STAGE_COLUMNS, StageColumns, find_stage_columns
from balloontrace.format.guest_layout import FUNCTION_COUNTERS, parse_counters_layout
from balloontrace.format.recording import Recording
from balloontrace.format.vocabulary import BatchFlag, Call, Function, Queue, SpanFlag
from balloontrace.results.host_side import HostSide
from balloontrace.results.recorder import Loss

Rows = NDArray[np.intp]
Row = tuple[object, ...]
Values = list[object]

HINT_COLUMNS = ("command_id", "received_id", "returned_pages", "held_blocks")
SPAN_COLUMNS = (
    "start_ns",
    "duration_ns",
    "function",
    "tid",
    "cpu",
    "device",
    "queue",
    "pages",
    "result",
    "config_calls",
    "config_ns",
    "target_pages",
    "actual_pages",
    "bytes",
    "passes",
    "bitmaps",
    "blocks",
    "orders",
    *HINT_COLUMNS,
    "acked_ns",
    "run_delay_ns",
    *STAGE_COLUMNS,
)

BATCH_COLUMNS = (
    "kick_ns",
    "first_call_ns",
    "last_return_ns",
    "done_ns",
    "calls_ns",
    "madvise_bytes",
    "fallocate_bytes",
    *(f"{call.name.lower()}_calls" for call in Call),
    "tid",
    "errors",
    "last_errno",
    "thp_splits",
    "kick_by",
    "done_by",
    "finished",
    "send",
    "samples",
    "samples_inside",
    "eventfd",
    "discards",
    "discarded_bytes",
)

_OF_CALLS = (
    "calls_ns",
    "madvise_bytes",
    "fallocate_bytes",
    *(f"{call.name.lower()}_calls" for call in Call),
    "errors",
    "last_errno",
)

PAYLOAD_COLUMNS = (
    "span",
    "start_ns",
    "tid",
    "function",
    "sent_bytes",
    "captured_bytes",
    "operation",
    "state",
    "records",
    "bitmap_words",
    "plain_runs",
    "bits_set",
    "runs_named",
    "pages",
    "new_pages",
    "first_pfn",
    "last_pfn",
)
_OF_SENDS = PAYLOAD_COLUMNS[PAYLOAD_COLUMNS.index("state") :]

COUNTER_COLUMNS = ("function", *(name for name, _, _ in FUNCTION_COUNTERS.fields))

_CHUNK_ROWS = 1 << 14

_FLAGS = {
    "device": SpanFlag.DEVICE,
    "queue": SpanFlag.QUEUE,
    "pages": SpanFlag.PAGES,
    "result": SpanFlag.RESULT,
    "config_calls": SpanFlag.CONFIG,
    "config_ns": SpanFlag.CONFIG,
    "target_pages": SpanFlag.TARGET,
    "actual_pages": SpanFlag.ACTUAL,
    "bytes": SpanFlag.BYTES,
    "acked_ns": SpanFlag.ACK,
    "run_delay_ns": SpanFlag.RUN_DELAY,
}
_OF_WAIT = ("acked_ns", "run_delay_ns")


def span_rows(guest: GuestEvents) -> Iterator[Row]:
    """Every span in order of start, with the values of SPAN_COLUMNS."""
    stages = find_stage_columns(guest)
    for rows in _chunks(len(guest.spans)):
        yield from zip(*span_values(guest.spans, stages, rows), strict=True)


def span_values(spans: Spans, stages: StageColumns, rows: Rows) -> list[Values]:
    """Some spans as one list for each of SPAN_COLUMNS: names for numbers."""
    return [
        _where(stages.known[name], stages.values[name], rows)
        if name in STAGE_COLUMNS
        else _span_column(spans, name, rows)
        for name in SPAN_COLUMNS
    ]


def batch_rows(batches: Batches, both: BothSides | None) -> Iterator[Row]:
    """Every batch in order of its first call, with the values of BATCH_COLUMNS.

    `send` is the row of the guest's span whose buffer it was, counted from 0; None where that is not known.
    """
    for rows in _chunks(len(batches)):
        yield from zip(*batch_values(batches, both, rows), strict=True)


def batch_values(batches: Batches, both: BothSides | None, rows: Rows) -> list[Values]:
    """Some batches as one list for each of BATCH_COLUMNS; times by the host's clock."""
    send = np.full(len(batches), NO_SPAN) if both is None else both.send_of_batch
    columns: dict[str, Values] = {
        "kick_ns": _where(batches.has(BatchFlag.KICK_SEEN), batches.int64("kick_ns"), rows),
        "done_ns": _where(batches.has(BatchFlag.DONE_SEEN), batches.int64("done_ns"), rows),
        "kick_by": _way(batches, (BatchFlag.KICK_SEEN, BatchFlag.KICK_VCPU), ("eventfd", "vcpu"), rows),
        "done_by": _way(batches, (BatchFlag.DONE_SEEN, BatchFlag.DONE_IOCTL), ("eventfd", "ioctl"), rows),
        "last_errno": _where(batches.int64("errors") > 0, batches.int64("last_errno"), rows),
        "finished": (~batches.has(BatchFlag.UNFINISHED))[rows].tolist(),
        "send": _where(send != NO_SPAN, send, rows),
        **{f"{call.name.lower()}_calls": batches.calls(call)[rows].tolist() for call in Call},
        "samples": [None] * len(rows),
        "samples_inside": [None] * len(rows),
        "discards": [None] * len(rows),
        "discarded_bytes": [None] * len(rows),
        "eventfd": _where(batches.int64("kicked_by") != NO_EVENTFD, batches.int64("kicked_by"), rows),
        **(_of_samples(batches, rows) if batches.sampled else {}),
        **({} if batches.splits_counted else {"thp_splits": [None] * len(rows)}),
    }
    return [
        columns[name] if name in columns else batches.int64(name)[rows].tolist() for name in BATCH_COLUMNS
    ]


def _of_samples(batches: Batches, rows: Rows) -> dict[str, Values]:
    """What is known of calls that were sampled, in place of what is not."""
    inside = batches.calls(*Call)
    seen = inside > 0
    counted = ("discards", "discarded_bytes") if batches.counts_discards else ()
    return {
        **dict.fromkeys(_OF_CALLS, [None] * len(rows)),
        "first_call_ns": _where(seen, batches.int64("first_call_ns"), rows),
        "last_return_ns": _where(seen, batches.int64("last_return_ns"), rows),
        "samples": batches.int64("samples")[rows].tolist(),
        "samples_inside": inside[rows].tolist(),
        **{name: batches.int64(name)[rows].tolist() for name in counted},
    }


def payload_rows(guest: GuestEvents) -> Iterator[Row]:
    """Every captured payload in order of start, with the values of PAYLOAD_COLUMNS.

    What it names is shown for sends that are part of an operation, as in the report, and for reports.
    """
    spans, operations = guest.spans, guest.operations
    payloads = sorted((*guest.payloads.found, *guest.payloads.of_reports), key=lambda each: each.start_ns)
    span_of = {
        (payload.start_ns, payload.tid, int(payload.function)): index
        for index, payload in payload_of_spans(spans, payloads).items()
    }
    row_of = _rows_of_sends(guest)
    of_reports = _told_of_reports(guest)
    for payload in payloads:
        span = span_of.get((payload.start_ns, payload.tid, int(payload.function)))
        operation = NO_OPERATION if span is None else int(operations.send_operation[span])
        told: Sequence[object] = of_reports.get(span, (None,) * len(_OF_SENDS))
        row = row_of.get((operation, payload.start_ns))
        if row is not None:
            told = [getattr(guest.carried.sends[operation], name)[row] for name in _OF_SENDS]
        yield (
            span,
            payload.start_ns,
            payload.tid,
            payload.function.symbol,
            payload.total_bytes,
            len(payload.data),
            None if operation == NO_OPERATION else operation + 1,
            *told,
        )


def _told_of_reports(guest: GuestEvents) -> dict[int | None, list[object]]:
    """What reports named, by their span. Where their pages lie is known of each other only."""
    found: dict[int | None, list[object]] = {}
    reports = guest.reports
    columns = (reports.span, reports.state, reports.pages, reports.new_pages)
    for span, state, pages, new_pages in zip(*(column.tolist() for column in columns), strict=True):
        told: dict[str, object] = {"state": State(state).name.lower()}
        if state == State.WHOLE:
            told["pages"] = pages
        if reports.are_whole:
            told["new_pages"] = new_pages
        found[span] = [told.get(name) for name in _OF_SENDS]
    return found


def counter_rows(recording: Recording) -> Iterator[Row]:
    """The last counters of a guest's recording, one row for each traced function."""
    layout = parse_counters_layout(recording.metadata.get("counters_layout"))
    functions, _ = decode_counters(recording.counters or b"", layout)
    for function in Function:
        if function < len(functions):
            row = functions[function]
            yield (function.symbol, *(row.get(name) for name in COUNTER_COLUMNS[1:]))


def described_events(examined: Examined) -> Iterator[Mapping[str, object]]:
    """Everything as one object an event, `type` telling what it is; metadata first, totals and losses last.

    Spans and batches carry their place in `index`, by which payloads and batches name the span they belong
    to.
    """
    report, guest, host = examined.report, examined.guest, examined.host
    side = report.host
    yield {
        "type": "recording",
        "schema_version": report.schema_version,
        "header": asdict(report.header),
        "host": asdict(side.header) if side and guest else None,
        "process": side.process if side else None,
        "pairing": asdict(side.pairing) if side and side.pairing else None,
    }
    counts = dict.fromkeys(("spans", "payloads", "batches"), 0)
    sources: list[tuple[str, Sequence[str], Iterator[Row]]] = []
    if guest is not None:
        sources.append(("span", SPAN_COLUMNS, span_rows(guest)))
        sources.append(("payload", PAYLOAD_COLUMNS, payload_rows(guest)))
    if host is not None:
        sources.append(("batch", BATCH_COLUMNS, batch_rows(host.batches, examined.both)))
    for kind, columns, rows in sources:
        index = -1
        for index, row in enumerate(rows):
            yield {"type": kind, "index": index, **dict(zip(columns, row, strict=True))}
        counts[f"{kind}s" if kind != "batch" else "batches"] = index + 1
    yield {
        "type": "end",
        **counts,
        **{name: getattr(report, name) for name in _END_FIELDS},
        "losses": [loss_fields(loss) for loss in report.losses],
        "own_cost": asdict(report.own_cost) if report.own_cost else None,
        "host": _end_of_host(side) if side and guest else None,
    }


_END_FIELDS = (
    "complete", "ended", "events_lost", "events_seen", "spans_missing", "warnings", "not_measured",
)  # fmt: skip


def _end_of_host(side: HostSide) -> dict[str, object]:
    return {
        "complete": side.complete,
        "ended": side.ended,
        "events_lost": side.events_lost,
        "losses": [loss_fields(loss) for loss in side.losses],
        "own_cost": asdict(side.own_cost) if side.own_cost else None,
    }


def loss_fields(loss: Loss) -> dict[str, object]:
    """A loss with its sum."""
    return {**asdict(loss), "events_lost": loss.events_lost}


def _rows_of_sends(guest: GuestEvents) -> dict[tuple[int, int], int]:
    """Where a send is in what is known of its operation's sends, by operation and start."""
    return {
        (operation, start_ns): row
        for operation, sends in enumerate(guest.carried.sends)
        if sends is not None
        for row, start_ns in enumerate(sends.start_ns)
    }


def _chunks(count: int) -> Iterator[Rows]:
    for start in range(0, count, _CHUNK_ROWS):
        yield np.arange(start, min(count, start + _CHUNK_ROWS))


def _span_column(spans: Spans, name: str, rows: Rows) -> Values:
    if name == "blocks":
        return _where(blocks_of(spans) > 0, blocks_of(spans), rows)
    if name == "orders":
        return _orders(spans, rows)
    if name in HINT_COLUMNS:
        return _of_hints(hints_of(spans, rows), name)
    values = spans.columns["wait_ns" if name in _OF_WAIT else name][rows]
    if name == "function":
        return _named(values, {int(function): function.symbol for function in Function})
    if name in ("passes", "bitmaps"):
        return _where(spans.int64("bitmaps") > 0, spans.int64(name), rows)
    if name not in _FLAGS:
        return list(values.tolist())
    carried = spans.has(_FLAGS[name])[rows].tolist()
    shown = (
        _named(values, {int(queue): queue.name.lower() for queue in Queue})
        if name == "queue"
        else values.tolist()
    )
    return [value if there else None for value, there in zip(shown, carried, strict=True)]


def _orders(spans: Spans, rows: Rows) -> Values:
    """Blocks of reports by order, `9:3 10:29`."""
    reports = spans.of(Function.VIRTBALLOON_FREE_PAGE_REPORT) & spans.has(SpanFlag.PAGES)
    chosen = rows[reports[rows]]
    counts = blocks_by_order(spans, chosen).tolist()
    told = {
        row: " ".join(f"{order}:{blocks}" for order, blocks in enumerate(each) if blocks)
        for row, each in zip(chosen.tolist(), counts, strict=True)
    }
    return [told.get(row) for row in rows.tolist()]


def _of_hints(hints: Hints, name: str) -> Values:
    """What a call for hints did; it has no command id where it sent nothing."""
    known = hints.known & (hints.command_id != 0) if name == "command_id" else hints.known
    return _where(known, getattr(hints, name), np.arange(len(known)))


def _named(values: NDArray[np.generic], names: dict[int, str]) -> Values:
    """Names for numbers; a number without one stays."""
    return [names.get(value, value) for value in values.tolist()]


def _where(known: Mask, values: NDArray[np.int64], rows: Rows) -> Values:
    return [
        value if there else None
        for value, there in zip(values[rows].tolist(), known[rows].tolist(), strict=True)
    ]


def _way(batches: Batches, flags: tuple[BatchFlag, BatchFlag], names: tuple[str, str], rows: Rows) -> Values:
    """By which of two ways something was seen; None where it was not."""
    seen, second = (batches.has(flag)[rows].tolist() for flag in flags)
    return [names[other] if there else None for there, other in zip(seen, second, strict=True)]

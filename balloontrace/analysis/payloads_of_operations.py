# SPDX-License-Identifier: GPL-2.0-or-later
"""What the sends of each operation carried, and which of the pages they named the host had already.

A payload belongs to the span of the same thread, function and start. The balloon's content is followed over
all sends of a device in their order, also those of compaction and of memory shortage. It is known from the
time when the balloon is known to be empty, until a payload is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask, Payload, Payloads, Spans
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.analysis.operations import NO_OPERATION, Operations
from balloontrace.analysis.page_sets import PageSet
from balloontrace.analysis.payload_decoding import PFN_BYTES, Encoding
from balloontrace.analysis.payload_statistics import (
    MOST_RUNS,
    NO_PFN,
    Captured,
    Named,
    SendColumns,
    State,
    contents_after,
    most_runs,
    summarise_payloads,
)
from balloontrace.format.vocabulary import Function, Kind, Queue, SpanFlag
from balloontrace.results.payload import PayloadSends, PayloadStatistics

_MIGRATION = -2
_OTHER = -3

# Some 60 s where each stretch is small and each balloon is large.
_MOST_STEPS = 400_000_000
_STEPS_OF_A_STRETCH = 30_000


@dataclass(slots=True)
class Carried:
    """What all sends carried. `statistics`, `sends` and `pages`, those named, have an entry an operation.

    `new_pages` are, by queue, the pages named in all sends but those of compaction, without those the host
    had at that time; None where that is not known. `pages_of_sends` is how many pages whole payloads name,
    by the index of the span. `left_out` counts payloads that were not gone through, for there are too many.
    """

    statistics: list[PayloadStatistics | None]
    sends: list[PayloadSends | None]
    pages: list[PageSet | None]
    new_pages: dict[Queue, int | None] = field(default_factory=dict)
    pages_of_sends: dict[int, int] = field(default_factory=dict)
    left_out: int = 0


@dataclass(slots=True)
class _Effort:
    """How much is still gone through: runs that payloads name, and steps, a step being a few nanoseconds."""

    runs: int = MOST_RUNS
    steps: int = _MOST_STEPS

    def spend(self, contents: PageSet | None) -> bool:
        """Whether one more stretch of sends is gone through, with these contents of the balloon."""
        self.steps -= _STEPS_OF_A_STRETCH + (0 if contents is None else len(contents.starts))
        return self.runs > 0 and self.steps > 0


def measure_payloads(
    spans: Spans, operations: Operations, payloads: Payloads, *, sends_unseen: bool = False
) -> Carried:
    """Join payloads and sends; nothing but None where no payload was captured.

    `sends_unseen` tells that there were others, at times that nobody knows.
    """
    count = len(operations.found)
    carried = Carried([None] * count, [None] * count, [None] * count)
    if not payloads.found:
        return carried
    carried.new_pages = {Queue.INFLATE: 0, Queue.DEFLATE: 0}
    of_span, effort = payload_of_spans(spans, payloads.found), _Effort()
    sends = np.flatnonzero(operations.nesting.send)
    group = _groups(operations, sends)
    device = operations.nesting.device[sends]
    order = np.argsort(device, kind="stable")
    bounds = np.flatnonzero(np.diff(device[order])) + 1
    for mine in np.split(order, bounds) if len(order) else []:
        device_sends = _Device(spans, operations, of_span, sends[mine], group[mine])
        _follow(device_sends, carried, effort, sends_unseen=sends_unseen)
    return carried


@dataclass(frozen=True, slots=True)
class _Device:
    """The sends of one device in their order, and what each is part of."""

    spans: Spans
    operations: Operations
    of_span: dict[int, Payload]
    sends: NDArray[np.intp]
    group: Column

    def stretches(self) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Sends in a row that are part of the same, with what that is."""
        bounds = np.flatnonzero(np.diff(self.group)) + 1
        for sends in np.split(np.arange(len(self.sends)), bounds):
            yield int(self.group[sends[0]]), self.sends[sends]

    def of_groups(self) -> dict[int, NDArray[np.intp]]:
        """All sends of each operation."""
        order = np.argsort(self.group, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(self.group[order])) + 1)
        return {int(self.group[part[0]]): self.sends[part] for part in parts}

    def count_captured(self, sends: NDArray[np.intp]) -> int:
        """How many of some sends have a payload."""
        return sum(index in self.of_span for index in sends.tolist())

    def inflates(self, group: int, sends: NDArray[np.intp]) -> Mask | None:
        """Which sends are on the inflate queue, the others being on the deflate queue.

        None when neither they nor an operation says, or when one is on another queue.
        """
        if self.spans.has(SpanFlag.QUEUE)[sends].all():
            ways = self.spans.directions[sends]
            return np.asarray(ways > 0) if ways.all() else None
        return np.full(len(sends), self.operations.found[group].kind is Kind.INFLATE) if group >= 0 else None

    def captured(self, sends: NDArray[np.intp]) -> Captured:
        payloads = [self.of_span.get(index) for index in sends.tolist()]
        by_bitmap = (self.spans.columns["function"][sends] == Function.SEND_RESP_DATA).any()
        return Captured(
            Encoding.RESPONSE_DATA if by_bitmap else Encoding.PFN_ARRAY,
            [None if payload is None else payload.data for payload in payloads],
            _sent_bytes(self.spans, sends, payloads),
        )


def _follow(device: _Device, carried: Carried, effort: _Effort, *, sends_unseen: bool) -> None:
    """Go through a device's sends, keeping what the host has been given."""
    found = device.operations.found
    contents: PageSet | None = None
    whole_of = device.of_groups()
    left: dict[int, int] = {}  # of each operation begun, how many sends are to come
    for group, sends in device.stretches():
        named: Named | None = None
        if not effort.spend(contents):
            contents = None
            carried.new_pages = dict.fromkeys(Queue)
            carried.left_out += 0 if group in left else device.count_captured(sends)
            continue
        inflates = device.inflates(group, sends)
        if inflates is None:
            contents = None
            if group == _OTHER:
                carried.new_pages = dict.fromkeys(Queue)
            continue
        if group >= 0 and group not in left:
            whole = whole_of[group]
            left[group] = len(whole)
            if found[group].actual_before_pages == 0:
                contents = PageSet.empty()
            named = summarise_payloads(device.captured(whole), contents, effort.runs)
            effort.runs -= named.runs
            carried.left_out += named.left_out
            carried.statistics[group] = named.statistics
            carried.sends[group] = _send_rows(device.spans, whole, named.sends)
            carried.pages[group] = named.pages
            sound = np.flatnonzero(named.sends.state == State.WHOLE)
            pages = named.sends.pages[sound].tolist()
            carried.pages_of_sends.update(zip(whole[sound].tolist(), pages, strict=True))
        if group >= 0:
            if named is None or len(named.sends.state) != len(sends):
                # In its midst pages were given back, as for want of memory: it may take them once more.
                named = summarise_payloads(device.captured(sends), contents, effort.runs)
                effort.runs -= named.runs
            _count_new(carried, Queue.INFLATE if inflates[0] else Queue.DEFLATE, named)
            contents = named.moved(contents, inflates=bool(inflates[0]))
        elif group == _OTHER:
            for queue, which in ((Queue.INFLATE, inflates), (Queue.DEFLATE, ~inflates)):
                if which.any():
                    other = summarise_payloads(device.captured(sends[which]), contents, effort.runs)
                    effort.runs -= other.runs
                    _count_new(carried, queue, other)
        if group < 0:
            captured = device.captured(sends)
            effort.runs -= 0 if contents is None else most_runs(captured)
            contents = contents_after(contents, captured, inflates) if effort.runs > 0 else None
        if group >= 0:
            left[group] -= len(sends)
            if not left[group] and found[group].actual_after_pages == 0:
                contents = PageSet.empty()
        if sends_unseen:
            contents = None


def _count_new(carried: Carried, queue: Queue, named: Named) -> None:
    """Adds what sends of a queue named for the first time; of a deflate that is everything it named."""
    so_far, statistics = carried.new_pages[queue], named.statistics
    held = {Queue.INFLATE: statistics.pages_in_balloon_before, Queue.DEFLATE: 0}[queue]
    if so_far is None or held is None or statistics.payloads_whole < statistics.sends:
        carried.new_pages[queue] = None
    else:
        carried.new_pages[queue] = so_far + statistics.distinct.pages - held


def payload_of_spans(spans: Spans, payloads: Sequence[Payload]) -> dict[int, Payload]:
    """Payloads by the index of the span that sent them."""
    if not payloads:
        return {}
    by_key = {(payload.start_ns, payload.tid, int(payload.function)): payload for payload in payloads}
    names = ("start_ns", "tid", "function")
    keys = zip(*(spans.columns[name].tolist() for name in names), strict=True)
    return {index: by_key[key] for index, key in enumerate(keys) if key in by_key}


def _groups(operations: Operations, sends: NDArray[np.intp]) -> Column:
    """For each send its operation, or whether compaction or something else made it."""
    operation = operations.send_operation[sends]
    migration = operations.nesting.migrate[sends] != NO_SPAN
    return np.where(operation != NO_OPERATION, operation, np.where(migration, _MIGRATION, _OTHER))


def _sent_bytes(spans: Spans, sends: NDArray[np.intp], payloads: list[Payload | None]) -> Column | None:
    """Bytes of payload each send carried, by what the driver said at the time; None if that is not known."""
    by_bytes, by_pages = spans.has(SpanFlag.BYTES)[sends], spans.has(SpanFlag.PAGES)[sends]
    if not (by_bytes | by_pages).all():
        if any(payload is None for payload in payloads):
            return None
        return np.array([payload.total_bytes for payload in payloads if payload], dtype=np.int64)
    return np.where(by_bytes, spans.int64("bytes")[sends], spans.int64("pages")[sends] * PFN_BYTES)


def _send_rows(spans: Spans, sends: NDArray[np.intp], columns: SendColumns) -> PayloadSends:
    """The columns as plain numbers, None where a payload is not there."""
    missing = columns.state == State.MISSING
    records = columns.of_records

    def shown(values: Column | None) -> tuple[int | None, ...]:
        if values is None:
            return (None,) * len(sends)
        return tuple(
            None if gone else value for value, gone in zip(values.tolist(), missing.tolist(), strict=True)
        )

    def pfn(values: Column) -> tuple[int | None, ...]:
        return tuple(None if value == NO_PFN else value for value in shown(values))

    return PayloadSends(
        start_ns=tuple(spans.int64("start_ns")[sends].tolist()),
        state=tuple(State(state).name.lower() for state in columns.state.tolist()),
        bytes_sent=tuple(columns.sent_bytes.tolist()) if columns.sent_bytes is not None else shown(None),
        records=shown(records.records if records else None),
        bitmap_words=shown(records.bitmap_words if records else None),
        plain_runs=shown(records.plain_runs if records else None),
        bits_set=shown(records.bits_set if records else None),
        runs_named=shown(columns.runs_named),
        pages=shown(columns.pages),
        new_pages=shown(columns.new_pages),
        first_pfn=pfn(columns.first_pfn),
        last_pfn=pfn(columns.last_pfn),
    )

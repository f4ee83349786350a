# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's sends beside the host's batches: what both recordings together show of each send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.clocks import Clock
from balloontrace.analysis.columns import Batches, Column, Spans
from balloontrace.analysis.describe_pairing import describe_pairing
from balloontrace.analysis.group_statistics import sums
from balloontrace.analysis.guest_memory import GuestMemory
from balloontrace.analysis.matching_balloons import find_sends
from balloontrace.analysis.matching_calls import UNKNOWN_PAGES, UNKNOWN_QUEUE, Calls, Window
from balloontrace.analysis.matching_candidates import find_partners, whole_batches
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.analysis.operations import NO_OPERATION, Operations
from balloontrace.analysis.other_buffers import ServedReports, find_served_reports
from balloontrace.analysis.page_reports import reported
from balloontrace.analysis.sampled_calls import estimate_calls
from balloontrace.analysis.send_series import NOT_SERVED, HostTimes
from balloontrace.analysis.tracing_cost import TracingCost
from balloontrace.errors import RecordingError
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES, BatchFlag, Call, Queue, SpanFlag
from balloontrace.results.host_side import Pairing
from balloontrace.results.operation import Served
from balloontrace.results.recording_header import Header
from balloontrace.units import format_things

# The split of b is shown where the bound of its error is on average at most this part of what is split.
_KNOWN_WELL = 0.25
# Up to this part of the buffers may have been completed unseen, and their c end with their last call. Where
# it is more, the device completes otherwise than the programs know: what follows the last call is not known.
_FEW_UNSEEN = 0.01


@dataclass(frozen=True, slots=True)
class Reports:
    """Whether a guest's page reports were traced, and whether it may have made some that were not."""

    traced: bool = False
    untraced: bool = False


NO_REPORTS = Reports()


@dataclass(frozen=True, slots=True)
class BothSides:
    """Times of the host by guest span, what the host did for each operation, and what to say of the pairing.

    `served` has an entry an operation: None where not each of its sends was matched. `send_of_batch` has the
    index of the guest's span for each batch, a send or a page report, or NO_SPAN for one without a partner.
    """

    times: HostTimes
    served: tuple[Served | None, ...]
    pairing: Pairing
    send_of_batch: Column
    clock: Clock
    reports: ServedReports

    def guest_ns(self, host_ns: Column) -> Column:
        """Times of the host's clock in the guest's."""
        # Near zero before they are floats: numbers of 10^15 ns have no room for fractions.
        base_ns = round(self.clock.offset_ns)
        since_ns = host_ns - base_ns - self.clock.at_ns
        passed_ns = (since_ns + (base_ns - self.clock.offset_ns)) / (1 + self.clock.drift)
        guest: Column = self.clock.at_ns + np.rint(passed_ns).astype(np.int64)
        return guest


def join(
    spans: Spans,
    operations: Operations,
    pages_of_sends: Mapping[int, int],
    batches: Batches,
    windows: tuple[Window, Window],
    guest_memory: GuestMemory,
    *,
    summed_sends: int = 0,
    cost: TracingCost | None = None,
    reports: Reports = NO_REPORTS,
    period_ns: int | None = None,
) -> BothSides:
    """Match both sides; RecordingError when they do not belong together.

    A guest that sent nothing is matched by its page reports, where `reports` were traced.

    `pages_of_sends` are pages by the index of a span, where only its payload tells; `windows` are when guest
    and host were recording; `guest_memory` tells discards of other memory. `summed_sends` have no span each;
    `cost` is what tracing added to each call; `period_ns` lies between samples of calls.
    """
    # Where some of compaction's sends are not known one by one, none of them is looked for.
    compaction = operations.nesting.migrate != NO_SPAN
    sends = np.flatnonzero(operations.nesting.send & ~(compaction & (summed_sends > 0)))
    calls, whole = _served(batches, windows[1]), whole_batches(batches, windows[1].start_ns)
    foreign = np.flatnonzero(guest_memory.is_surely_no_send(batches))
    whole = np.setdiff1d(whole, foreign)
    if reports.traced and not len(sends) and reported(spans).any():
        return _join_by_reports(spans, operations, batches, calls, (whole, foreign), windows[0], guest_memory)
    try:
        sends, guest, partners = find_sends(
            sends,
            operations.nesting.device[sends],
            lambda some: _sends(spans, some, pages_of_sends, windows[0]),
            lambda some: find_partners(some, batches, calls, whole, foreign),
        )
    except RecordingError as error:
        if not summed_sends:
            raise
        sums = format_things(summed_sends, "send by compaction is", "sends by compaction are")
        raise RecordingError(f"{error}; {sums} known as sums alone") from None
    matching, served = partners.matching, partners.rows[partners.matching.batches]
    completed = batches.has(BatchFlag.DONE_SEEN)[served]
    kicked = batches.has(BatchFlag.KICK_SEEN)[served]
    split = completed | (np.mean(~completed) <= _FEW_UNSEEN if len(completed) else False)
    times = _host_times(spans, sends[matching.sends][split], batches, served[split], matching.clock)
    if batches.sampled:
        pairs = sends[matching.sends][split], served[split]
        times = estimate_calls(times, operations.send_operation, batches, *pairs, period_ns)
    of_operations = _served_of_operations(operations, sends, sends[matching.sends], batches, served, cost)
    if not batches.splits_counted:
        of_operations = tuple(each and replace(each, thp_splits=None) for each in of_operations)
    of_reports = find_served_reports(
        spans, batches, calls, (partners.rest, served), matching.clock,
        device=operations.nesting.device, matched_sends=sends[matching.sends],
        queues=_queues(guest, batches, matching.sends, served), guest_memory=guest_memory,
        by_calls=reports.untraced,
    )  # fmt: skip
    send_of_batch = of_reports.report_of_batch.copy()
    send_of_batch[served] = sends[matching.sends]
    return BothSides(
        times,
        of_operations,
        describe_pairing(
            guest,
            batches,
            partners,
            split=times.to_host_ns is not None,
            found=int((~kicked & split).sum()),
            unseen=int((~completed).sum()),
            ended_unseen=int((~completed & split).sum()),
            summed_sends=summed_sends,
            reports=len(of_reports.rows) if reports.traced else None,
        ),
        send_of_batch,
        matching.clock,
        of_reports,
    )


def _queues(guest: Calls, batches: Batches, sends: NDArray[np.intp], served: NDArray[np.intp]) -> Column:
    """The queue of each pair: what the guest knows of it, else what the host's calls tell."""
    told = guest.queue[sends]
    return np.where(told == UNKNOWN_QUEUE, batches.queue[served], told)


def _join_by_reports(
    spans: Spans,
    operations: Operations,
    batches: Batches,
    calls: Calls,
    rows: tuple[NDArray[np.intp], NDArray[np.intp]],
    window: Window,
    guest_memory: GuestMemory,
) -> BothSides:
    """Match a guest that sent nothing by its page reports. RecordingError as `join`.

    What serves them gives memory back, as for an inflate: that is the queue that their calls tell. `rows` are
    batches seen as a whole, and those that are surely none of the guest's.
    """
    reports, none = np.flatnonzero(reported(spans)), np.empty(0, dtype=np.intp)
    pages = np.where(spans.has(SpanFlag.PAGES), spans.int64("pages"), UNKNOWN_PAGES)[reports]
    queue = np.full(len(reports), Queue.INFLATE, dtype=np.int64)
    guest = Calls(spans.int64("start_ns")[reports], spans.end_ns[reports], queue, pages, window)
    partners = find_partners(guest, batches, calls, *rows)
    matching, found = partners.matching, partners.rows[partners.matching.batches]
    report_of_batch = np.full(len(batches), NO_SPAN, dtype=np.int64)
    report_of_batch[found] = reports[matching.sends]
    others = np.union1d(found, partners.rest)
    of_reports = find_served_reports(
        spans, batches, calls, (others, none), matching.clock, report_of_batch,
        device=operations.nesting.device, matched_sends=none, queues=none, guest_memory=guest_memory,
        by_calls=False,
    )  # fmt: skip
    return BothSides(
        _host_times(spans, none, batches, none, matching.clock),
        (None,) * len(operations.found),
        replace(
            describe_pairing(
                guest, batches, partners, split=True, found=0, unseen=0, ended_unseen=0, summed_sends=0
            ),
            sends=0, batches=0, pairs=0, delimited=0, reports=len(found),
        ),
        report_of_batch,
        matching.clock,
        of_reports,
    )  # fmt: skip


def _host_times(
    spans: Spans, span: NDArray[np.intp], batches: Batches, batch: NDArray[np.intp], clock: Clock
) -> HostTimes:
    """What the host knows of each send; `span` and `batch` are pairs."""
    served_ns = np.full(len(spans), NOT_SERVED, dtype=np.int64)
    calls_ns = served_ns.copy()
    duration_ns = spans.int64("duration_ns")[span]
    seen_ns = _seen_ns(spans, span, batches, batch, clock)
    # A nanosecond of one clock is not one of the other's: what took all of the send may come out as longer.
    served_ns[span] = np.minimum(_done_ns(spans, span, batches, batch, clock) - seen_ns, duration_ns)
    calls_ns[span] = np.minimum(batches.int64("calls_ns")[batch], served_ns[span])
    transport_ns = duration_ns - served_ns[span]
    if not len(span) or clock.error_ns > _KNOWN_WELL * float(transport_ns.mean()):
        return HostTimes(served_ns, calls_ns, None, None)
    to_host_ns, back_ns = served_ns.copy(), served_ns.copy()
    sent_ns = _in_host_clock(spans.int64("start_ns")[span], clock)
    to_host_ns[span] = np.clip(seen_ns - sent_ns, 0, transport_ns)
    back_ns[span] = transport_ns - to_host_ns[span]
    return HostTimes(served_ns, calls_ns, to_host_ns, back_ns)


def _served_of_operations(
    operations: Operations,
    sends: NDArray[np.intp],
    matched: NDArray[np.intp],
    batches: Batches,
    served: NDArray[np.intp],
    cost: TracingCost | None,
) -> tuple[Served | None, ...]:
    """What the host did for each operation; `matched` spans are sends that batches `served`, in pairs."""
    count = len(operations.found)
    of_sends, of_pairs = operations.send_operation[sends], operations.send_operation[matched]
    sent = np.bincount(of_sends[of_sends != NO_OPERATION], minlength=count)
    pairs = np.flatnonzero(of_pairs != NO_OPERATION)
    group, batch = of_pairs[pairs], served[pairs]
    buffers = np.bincount(group, minlength=count)
    columns = (
        batches.calls(*Call)[batch],
        *(
            batches.int64(name)[batch]
            for name in ("errors", "madvise_bytes", "fallocate_bytes", "thp_splits", "calls_ns")
        ),
    )
    rows = zip(buffers.tolist(), *(sums(column, group, count).tolist() for column in columns), strict=True)
    if batches.sampled:
        samples = sums(batches.int64("samples")[batch], group, count).tolist()
        discards = _discards_of_operations(batches, batch, group, count)
        return tuple(
            Served(row[0], *(None,) * 4, row[5], *(None,) * 2, taken, row[1], *discarded)
            if row[0] and row[0] == sends_made
            else None
            for row, taken, discarded, sends_made in zip(rows, samples, discards, sent.tolist(), strict=True)
        )
    return tuple(
        Served(*row, *(cost.of_calls(row[1], calls_ns) if cost else (None, None)))
        if row[0] and row[0] == sends_made
        else None
        for (*row, calls_ns), sends_made in zip(rows, sent.tolist(), strict=True)
    )


def _discards_of_operations(
    batches: Batches, batch: NDArray[np.intp], group: Column, count: int
) -> list[tuple[int, int] | tuple[None, None]]:
    """How much was taken from the guest for each operation, in discards and bytes, where that was counted."""
    if not batches.counts_discards:
        return [(None, None)] * count
    names = ("discards", "discarded_bytes")
    return list(
        zip(*(sums(batches.int64(name)[batch], group, count).tolist() for name in names), strict=True)
    )


def _seen_ns(
    spans: Spans, span: NDArray[np.intp], batches: Batches, batch: NDArray[np.intp], clock: Clock
) -> Column:
    """When the host had learnt of each buffer: its kick, or the first call where none was seen.

    A device that is at work may find the next buffer by looking. A kick from before the send was for the
    buffer before, and is moved to the send; no further than to where the bounds of the clocks prove it.
    """
    start_ns, first_ns = spans.int64("start_ns")[span], batches.int64("first_call_ns")[batch]
    kicked = batches.has(BatchFlag.KICK_SEEN)[batch]
    # Where calls are sampled, all that is known of one that was found by looking is the completion before it.
    found_ns = batches.int64("idle_ns")[batch] if batches.sampled else first_ns
    seen_ns = np.where(kicked, batches.int64("kick_ns")[batch], found_ns)
    # The first call comes after the send, whatever is left of that in whole ns.
    moved_ns: Column = np.minimum(np.maximum(seen_ns, start_ns + clock.bounds.low_ns(start_ns)), first_ns)
    return moved_ns


def _done_ns(
    spans: Spans, span: NDArray[np.intp], batches: Batches, batch: NDArray[np.intp], clock: Clock
) -> Column:
    """When each buffer was given back: the interrupt for it, or before that the return of the guest's send.

    The device marks a buffer used first and interrupts then; a guest that happens to look sees it at once.
    So a completion is moved to the return, and no further than to where the bounds of the clocks prove it.
    Where no interrupt was seen, the last call is what is known.
    """
    end_ns = spans.end_ns[span]
    done_ns, last_ns = batches.int64("done_ns")[batch], batches.int64("last_return_ns")[batch]
    moved_ns: Column = np.maximum(last_ns, np.minimum(done_ns, end_ns + clock.bounds.high_ns(end_ns)))
    return moved_ns


def _in_host_clock(guest_ns: Column, clock: Clock) -> Column:
    """Times of the guest as the host's clock showed them."""
    shown_ns: Column = guest_ns + np.round(clock.to_host_ns(guest_ns)).astype(np.int64)
    return shown_ns


def window_of(header: Header, ended_ns: int | None, last_ns: int) -> Window:
    """When a side was recording; one that was cut off, until its last call."""
    started_ns, realtime_ns = header.started_monotonic_ns, header.started_realtime_ns
    if started_ns is None:
        raise RecordingError(f"{header.recording} does not say when it was made, so it cannot be matched")
    offset_ns = None if realtime_ns is None else realtime_ns - started_ns
    return Window(started_ns, last_ns if ended_ns is None else ended_ns, offset_ns, header.pair)


def _sends(spans: Spans, sends: NDArray[np.intp], pages_of_sends: Mapping[int, int], window: Window) -> Calls:
    start_ns = spans.int64("start_ns")[sends]
    pages = np.where(spans.has(SpanFlag.PAGES)[sends], spans.int64("pages")[sends], UNKNOWN_PAGES)
    by_payload = np.array(
        [pages_of_sends.get(index, UNKNOWN_PAGES) for index in sends.tolist()], dtype=np.int64
    )
    queue = np.where(spans.has(SpanFlag.QUEUE)[sends], spans.int64("queue")[sends], UNKNOWN_QUEUE)
    return Calls(
        start_ns,
        start_ns + spans.int64("duration_ns")[sends],
        queue,
        np.where(pages == UNKNOWN_PAGES, by_payload, pages),
        window,
    )


def _served(batches: Batches, window: Window) -> Calls:
    named_bytes = np.maximum(batches.int64("madvise_bytes"), batches.int64("fallocate_bytes"))
    unknown = (batches.int64("errors") > 0) | batches.sampled
    return Calls(
        # Not the kick: it may be one for a buffer that the device has already served. The next buffer may
        # then come a moment later, before its own kick.
        batches.int64("first_call_ns"),
        # Not the interrupt: the guest may have seen before it that its buffer was used.
        batches.int64("last_return_ns"),
        batches.queue,
        np.where(unknown, UNKNOWN_PAGES, named_bytes // BALLOON_PAGE_BYTES),
        window,
    )

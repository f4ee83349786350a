# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host's process served or discarded beside a guest's sends: page reports, files, and the rest.

A buffer is a page report if it lies inside a report of the guest's recording, by the clocks that the pairs
prove, and names as much. Where the guest's reports were not traced, its calls tell: it was kicked and
completed in the thread that serves the sends, and gave back more than a page a call. A discard of the
process's own memory is known by its address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.clocks import Clock
from balloontrace.analysis.columns import Batches, Column, Mask, Spans
from balloontrace.analysis.guest_memory import BY_MAPPINGS, BY_SLOTS, GuestMemory
from balloontrace.analysis.host_queues import (
    CALLS,
    MATCHING,
    REPORTS,
    UNTOLD,
    find_queues,
    queue_of_eventfd,
)
from balloontrace.analysis.matching_calls import UNKNOWN_PAGES, Calls
from balloontrace.analysis.matching_candidates import FALLOCATES, MADVISES, page_by_page, sorts_of_calls
from balloontrace.analysis.nesting import NO_SPAN, UNKNOWN_DEVICE
from balloontrace.analysis.page_reports import reported
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES, BatchFlag, Call, SpanFlag
from balloontrace.results.host_side import HostQueue, OtherBuffers

_Rows = NDArray[np.intp]

# To look at for all reports together; in a recording that was made a report has a few.
_MOST_CANDIDATES = 1 << 24

PAGE_REPORT = "page report"
FILE_DISCARD = "file discard"
ADVICE = "advice outside of buffers"
OWN_MEMORY = "discard of the process's own memory"
OTHER = "other buffer"
SEND = "send without one of the guest's"
_WORDS = (PAGE_REPORT, FILE_DISCARD, ADVICE, OTHER, SEND, OWN_MEMORY)
_NO_FILE = 0
_TOLD_BY = (CALLS, MATCHING, "eventfd", BY_SLOTS, BY_MAPPINGS)


def reports_within(spans: Spans, reports: _Rows, clock: Clock, started_ns: int, ended_ns: int) -> _Rows:
    """Those reports that were made and answered while the host was recorded, by its clock."""
    low_ns, high_ns = _bounds(spans, reports, clock)
    return reports[(low_ns >= started_ns) & (high_ns <= ended_ns)]


def pair_reports(spans: Spans, served: Calls, rest: _Rows, clock: Clock) -> Column:
    """For each batch the report it was, or NO_SPAN: one of `rest` alone inside a report, and of its pages."""
    found = np.full(len(served), NO_SPAN, dtype=np.int64)
    reports = np.flatnonzero(reported(spans))
    low_ns, high_ns = _bounds(spans, reports, clock)
    first_ns, last_ns, pages = served.start_ns[rest], served.end_ns[rest], served.pages[rest]
    known, named = spans.has(SpanFlag.PAGES)[reports], spans.int64("pages")[reports]
    firsts, ends = np.searchsorted(first_ns, low_ns), np.searchsorted(first_ns, high_ns, side="right")
    few = np.cumsum(np.maximum(ends - firsts, 0)) <= _MOST_CANDIDATES
    for row in np.flatnonzero(few).tolist():
        first, end = int(firsts[row]), int(ends[row])
        inside = last_ns[first:end] <= high_ns[row]
        if known[row]:
            inside &= np.isin(pages[first:end], (named[row], UNKNOWN_PAGES))
        (places,) = np.nonzero(inside)
        if len(places) == 1:
            found[rest[first + int(places[0])]] = reports[row]
    return found


def _bounds(spans: Spans, reports: _Rows, clock: Clock) -> tuple[Column, Column]:
    """The earliest and latest times of the host's clock that a call for each report can have."""
    start_ns, end_ns = spans.int64("start_ns")[reports], spans.end_ns[reports]
    return start_ns + clock.bounds.low_ns(start_ns), end_ns + clock.bounds.high_ns(end_ns)


def tell_apart(
    batches: Batches,
    rest: _Rows,
    sends: _Rows,
    report_of_batch: Column,
    queues: Column | None = None,
    *,
    guest_memory: GuestMemory,
    by_calls: bool,
) -> tuple[OtherBuffers, ...]:
    """The batches `rest` by what they are, by thread and by kind of call.

    `sends` are batches of sends; `queues` has the queue of each batch by its eventfd, or UNTOLD;
    `guest_memory` tells what is none of the guest's; `by_calls`: the guest may have made reports that its
    recording has not.
    """
    matched = report_of_batch[rest] != NO_SPAN
    what = _what(batches, rest, sends, matched, by_calls=by_calls)
    how = matched.astype(np.int64)
    own = guest_memory.is_own(batches)[rest] & ~matched
    what[own], how[own] = _WORDS.index(OWN_MEMORY), _TOLD_BY.index(guest_memory.told_by)
    if queues is not None:
        by_eventfd = (queues[rest] != UNTOLD) & ~matched & ~own
        how[by_eventfd] = _TOLD_BY.index("eventfd")
        words = np.where(queues[rest] == REPORTS, _WORDS.index(PAGE_REPORT), _WORDS.index(SEND))
        what = np.where(by_eventfd, words, what)
    threads, sorts = batches.int64("tid")[rest], sorts_of_calls(batches)[rest]
    files = np.where(what == _WORDS.index(FILE_DISCARD), batches.int64("file")[rest], _NO_FILE)
    keys = np.stack([what, threads, sorts, how, files], axis=1)
    groups, places = np.unique(keys, axis=0, return_inverse=True)
    places = places.reshape(-1)
    return tuple(
        replace(
            _describe(batches, rest[places == number], _WORDS[kind], tid, _TOLD_BY[told_by]),
            descriptor=None if file == _NO_FILE else file - 1,
        )
        for number, (kind, tid, _, told_by, file) in enumerate(groups.tolist())
    )


def with_files(others: Iterable[OtherBuffers], files: Mapping[str, str]) -> tuple[OtherBuffers, ...]:
    """The same with the names of their files, by descriptor."""
    return tuple(replace(each, file=files.get(str(each.descriptor))) for each in others)


def _what(batches: Batches, rest: _Rows, sends: _Rows, matched: Mask, *, by_calls: bool) -> Column:
    advises, punches = batches.calls(*MADVISES) > 0, batches.calls(*FALLOCATES) > 0
    punches_alone, advises_alone = (punches & ~advises)[rest], (advises & ~punches)[rest]
    is_buffer = (batches.has(BatchFlag.KICK_SEEN) & batches.has(BatchFlag.DONE_SEEN))[rest]
    serves = np.isin(batches.int64("tid")[rest], batches.int64("tid")[sends])
    gives = batches.calls(Call.MADVISE_WILLNEED)[rest] == 0
    sends_punch = bool((punches & ~advises)[sends].any())
    alike = advises[rest] | sends_punch
    by_its_calls = (
        (by_calls and not batches.sampled) & is_buffer & serves & gives & alike & ~page_by_page(batches)[rest]
    )
    # Where sends are served so too, a file may be the guest's memory.
    of_file = punches_alone & (not sends_punch)
    what = np.full(len(rest), _WORDS.index(OTHER), dtype=np.int64)
    for which, word in (
        (advises_alone & ~is_buffer, ADVICE),
        (of_file, FILE_DISCARD),
        (matched | by_its_calls, PAGE_REPORT),
    ):
        what[which] = _WORDS.index(word)
    return what


def _describe(batches: Batches, rows: _Rows, what: str, tid: int, told_by: str) -> OtherBuffers:
    call = "+".join(_names(batches, rows))
    if batches.sampled:
        return OtherBuffers(what, told_by, tid, call, len(rows), None, None, None, None)
    delimited = (batches.has(BatchFlag.KICK_SEEN) & batches.has(BatchFlag.DONE_SEEN))[rows]
    served_ns = (batches.int64("done_ns") - batches.int64("kick_ns"))[rows]
    calls_ns = batches.int64("calls_ns")[rows]
    named = np.maximum(batches.int64("madvise_bytes"), batches.int64("fallocate_bytes"))[rows]
    return OtherBuffers(
        what=what,
        told_by=told_by,
        tid=tid,
        call=call,
        buffers=len(rows),
        calls=int(batches.calls(*Call)[rows].sum()),
        bytes=int(named.sum()),
        c_ns=int((served_ns - calls_ns)[delimited].sum()) if delimited.all() else None,
        d_ns=int(calls_ns.sum()),
    )


def _names(batches: Batches, rows: _Rows) -> Iterator[str]:
    return (call.name.lower() for call in Call if batches.calls(call)[rows].any())


@dataclass(frozen=True, slots=True)
class ServedReports:
    """What of page reports was seen on the host.

    `report_of_batch` has the index of the guest's span for each batch, or NO_SPAN. `within` are reports
    of the balloons that the process serves, made and answered while it was recorded.
    """

    report_of_batch: Column
    within: _Rows
    others: tuple[OtherBuffers, ...]
    queues: tuple[HostQueue, ...]

    @property
    def rows(self) -> _Rows:
        """The batches that are reports."""
        return np.flatnonzero(self.report_of_batch != NO_SPAN)

    def pages(self, batches: Batches) -> int | None:
        """Pages that the calls for those `within` named; None where calls were sampled."""
        if batches.sampled:
            return None
        rows = np.isin(self.report_of_batch, self.within)
        named = np.maximum(batches.int64("madvise_bytes"), batches.int64("fallocate_bytes"))[rows]
        return int(named.sum()) // BALLOON_PAGE_BYTES

    def times_ns(self, spans: Spans, batches: Batches) -> tuple[int | None, int | None]:
        """C and d of all reports of the guest.

        None where some of them were not seen being served, or calls were sampled.
        """
        rows = self.rows
        if batches.sampled or np.count_nonzero(reported(spans)) != len(rows):
            return None, None
        seen = batches.has(BatchFlag.KICK_SEEN) & batches.has(BatchFlag.DONE_SEEN)
        calls_ns = int(batches.int64("calls_ns")[rows].sum())
        served_ns = int((batches.int64("done_ns") - batches.int64("kick_ns"))[rows].sum())
        return served_ns - calls_ns if seen[rows].all() else None, calls_ns


def find_served_reports(
    spans: Spans,
    batches: Batches,
    served: Calls,
    rows: tuple[_Rows, _Rows],
    clock: Clock,
    report_of_batch: Column | None = None,
    *,
    device: Column,
    matched_sends: _Rows,
    queues: Column,
    guest_memory: GuestMemory,
    by_calls: bool,
) -> ServedReports:
    """The page reports among `rows`, which are those not of sends, and those of sends.

    `report_of_batch` is what is known of them already, if it is; `device` is that of each span,
    `matched_sends` are spans with a buffer; `queues` are those of the sends, by row; `guest_memory` and
    `by_calls` as for `tell_apart`.
    """
    rest, sends = rows
    if report_of_batch is None:
        report_of_batch = pair_reports(spans, served, rest, clock)
    matched = np.where(report_of_batch != NO_SPAN, REPORTS, UNTOLD)
    matched[sends] = queues
    by_eventfd = queue_of_eventfd(batches, matched)
    pairs = np.concatenate([matched_sends, report_of_batch[report_of_batch != NO_SPAN]])
    # Of a guest with several balloons another process may serve those without any pair.
    due = np.flatnonzero(reported(spans) & np.isin(device, [*np.unique(device[pairs]), UNKNOWN_DEVICE]))
    return ServedReports(
        report_of_batch,
        reports_within(spans, due, clock, served.window.start_ns, served.window.end_ns),
        tell_apart(
            batches, rest, sends, report_of_batch, by_eventfd, guest_memory=guest_memory, by_calls=by_calls
        ),
        find_queues(batches, matched),
    )

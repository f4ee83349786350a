# SPDX-License-Identifier: GPL-2.0-or-later
"""How long an operation of page numbers would have taken in other formats, by what its stages took.

A stage's time is measured; what it grows with is assumed, and said. It is multiplied by how much less of that
the other format takes. Where the recording cannot tell what it grows with, there are bounds alone: at least
by what shrinks most, at most by the pages, which stay the same.

The calls of the host (d) have a part of their own and a part for each page that becomes free. Where few did,
the calls of the median send show the first: most sends freed nothing. What all calls took beyond that went
by pages. In a host that counts instructions, that estimate of an inflate was 0.81 to 1.27 of what page
bitmaps took in 11 pairs of recordings, in 9 of them 0.91 to 1.11; by calls alone it was 0.69 to 1.04.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from balloontrace.analysis.both_sides import BothSides
from balloontrace.analysis.columns import Batches
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.analysis.operations import Operations
from balloontrace.analysis.other_formats import Cost, as_blocks, as_page_bitmaps, as_ranges, whole_blocks
from balloontrace.analysis.page_sets import PageSet
from balloontrace.analysis.payload_decoding import Encoding
from balloontrace.format.stages import BCD, CONFIG, OTHER, REQUEUE, WORK_ITEM, A, B, C, D
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES, Call, Kind
from balloontrace.results.host_side import HostSide
from balloontrace.results.operation import Operation, StageRow
from balloontrace.results.what_if import BLOCKS, PAGE_BITMAPS, RANGES, FormatEstimate, StageEstimate, WhatIf
from balloontrace.units import format_count, format_things

_FORMATS = {PAGE_BITMAPS: as_page_bitmaps, RANGES: as_ranges, BLOCKS: as_blocks}
_DOING = {Kind.INFLATE: "allocates", Kind.DEFLATE: "releases"}
_OF_WORK_ITEMS = (CONFIG.code, WORK_ITEM.code, REQUEUE.code)

_GATHERED = "all pages are gathered first and named in one work item, as the patch of 2016 does"
_SENDS = "b takes the same time for each send; building bitmaps or ranges takes none"
_CALLS = "c and d take the same time for each call; at most, for each page"
_FREEING = (
    "c takes the same time for each call; so does d, as long as a call of the median send; what all calls "
    "took beyond that went by pages"
)
_FROM_GUEST = (
    "what the host would save, as it was not recorded: b+c+d takes at least as long as if it grew with "
    "sends or calls, at most as long as if it grew with pages"
)
_SAMPLED = (
    "what the host would save, as its calls were not counted: c and d take at least as long as if they grew "
    "with sends or calls, at most as long as if they grew with pages"
)
_FREED = (
    "how much of d went by pages: that shows where few calls freed something, and record --count-freed on "
    "the host counts it"
)
_SAMPLED_FREED = "how much of d went by pages: samples do not show how long the calls of one send took"
_MANY_FREED = "how much of d went by pages: too many calls freed something"
_NO_TIMES = "how long it would have taken: sends were not traced"
# With more freed than half of the calls, the median send may have freed something too.
_FEW = 0.5


@dataclass(frozen=True, slots=True)
class CallsOfHost:
    """Of one operation: how long a call of the median send took, and how many pages became free at most."""

    typical_ns: float
    freed_pages: int | None


@dataclass(frozen=True, slots=True)
class _Done:
    """How much of everything was done; `calls` is None where the host's were not counted.

    `own_share` is the part of d that calls took for themselves; None where that cannot be told.
    """

    sends: int
    pages: int
    work_items: int
    calls: int | None
    own_share: float | None

    def calls_for(self, runs: int) -> int:
        """Calls of this host for so many runs: some hosts make two for each page, others merge pages."""
        each = 1 if self.calls is None else max(1, round(self.calls / self.pages))
        return runs * each if self.calls != 0 else 0


@dataclass(frozen=True, slots=True)
class _Growth:
    """What the time of a stage grows with, and by which ratios that changes it."""

    what: str
    least: float
    estimate: float | None
    most: float

    @classmethod
    def known(cls, what: str, ratio: float) -> _Growth:
        """Without bounds."""
        return cls(what, ratio, ratio, ratio)

    def applied_to(self, row: StageRow) -> StageEstimate:
        """To what the stage took; bounds reach as far as the error of a time that was sampled."""
        taken_ns, error_ns = row.total_ns or 0, row.error_ns or 0
        estimate_ns = None if self.estimate is None else round(taken_ns * self.estimate)
        least_ns = round(max(0, taken_ns - error_ns) * self.least)
        return StageEstimate(
            row.stage, self.what, least_ns, estimate_ns, round((taken_ns + error_ns) * self.most)
        )


def measure_calls(
    both: BothSides, operations: Operations, batches: Batches, host: HostSide
) -> list[CallsOfHost | None]:
    """What is known of the host's calls for each operation; None where none were counted."""
    found: list[CallsOfHost | None] = [None] * len(operations.found)
    if batches.sampled:
        return found
    rows = np.flatnonzero(both.send_of_batch != NO_SPAN)
    of_batch = operations.send_operation[both.send_of_batch[rows]]
    calls, calls_ns = batches.calls(*Call)[rows], batches.int64("calls_ns")[rows]
    freed_pages = _freed_pages(host)
    for number, operation in enumerate(operations.found):
        of = (of_batch == number) & (calls > 0)
        if of.any():
            # To be there again when the guest wants it is all that is asked for; that frees nothing.
            freed = 0 if operation.kind is Kind.DEFLATE else freed_pages
            found[number] = CallsOfHost(float(np.median(calls_ns[of] / calls[of])), freed)
    return found


def _freed_pages(host: HostSide) -> int | None:
    """Pages that became free in all calls of the recording; None where that was not counted."""
    freed_bytes = [calls.freed_bytes for calls in host.calls if calls.freed_nothing is not None]
    if not freed_bytes or None in freed_bytes:
        return None
    return sum(each or 0 for each in freed_bytes) // BALLOON_PAGE_BYTES


def imagine_other_formats(
    operation: Operation, pages: PageSet | None, calls: CallsOfHost | None = None
) -> WhatIf | None:
    """What the pages of an operation would have taken in other formats; None unless all were page numbers."""
    payload = operation.payload
    if payload is None or pages is None or payload.encoding != Encoding.PFN_ARRAY.value:
        return None
    if not pages.count or payload.payloads_whole < payload.sends:
        return None
    done = _done(operation, payload.sends, pages.count, calls)
    costs = {name: of_pages(pages) for name, of_pages in _FORMATS.items()}
    return WhatIf(
        pages=pages.count,
        whole_blocks=whole_blocks(pages),
        formats=tuple(_estimate(name, cost, operation.stages, done) for name, cost in costs.items()),
        assumptions=tuple(_assumptions(operation, done)),
        unknown=tuple(_unknown(operation, done, calls)),
    )


def _done(operation: Operation, sends: int, pages: int, calls: CallsOfHost | None) -> _Done:
    count = _count_calls(operation)
    d_ns = next((row.total_ns for row in operation.stages if row.stage == D.code), None)
    own_share: float | None = None
    if calls is not None and count and d_ns and (calls.freed_pages or 0) <= _FEW * count:
        own_share = None if calls.freed_pages is None else min(1.0, calls.typical_ns * count / d_ns)
    return _Done(sends, pages, max(operation.work_items, 1), count, own_share)


def _count_calls(operation: Operation) -> int | None:
    """Calls of the host; discards are those of an inflate where calls were sampled."""
    served = operation.served
    if served is None:
        return None
    if served.samples is None:
        return served.calls
    return served.discards if operation.kind is Kind.INFLATE else None


def _estimate(name: str, cost: Cost, rows: Sequence[StageRow], done: _Done) -> FormatEstimate:
    calls = done.calls_for(cost.runs)
    stages = tuple(_stages(rows, _growths(cost, calls, done)))
    estimates_ns = [stage.estimate_ns for stage in stages if stage.estimate_ns is not None]
    return FormatEstimate(
        format=name,
        sends=cost.sends,
        records=cost.records,
        bytes_sent=cost.bytes_sent,
        host_calls=calls,
        least_ns=sum(stage.least_ns for stage in stages) if stages else None,
        estimate_ns=sum(estimates_ns) if stages and len(estimates_ns) == len(stages) else None,
        most_ns=sum(stage.most_ns for stage in stages) if stages else None,
        stages=stages,
    )


def _growths(cost: Cost, calls: int, done: _Done) -> Mapping[str, _Growth]:
    """By the code of a stage."""
    sends = cost.sends / done.sends
    fewest = min(sends, cost.runs / done.pages)
    unknown = _Growth("sends, calls or pages", fewest, None, 1.0)
    work_items = _Growth.known("work items", 1 / done.work_items)
    ratio = sends if not done.calls else calls / done.calls
    least, most = min(ratio, 1.0), max(ratio, 1.0)
    of_calls = None if done.own_share is None else ratio * done.own_share + 1 - done.own_share
    return {
        A.code: _Growth.known("pages", 1.0),
        B.code: _Growth.known("sends", sends),
        BCD.code: unknown,
        C.code: unknown if done.calls is None else _Growth("calls", min(least, sends), ratio, most),
        D.code: unknown if done.calls is None else _Growth("calls and pages", least, of_calls, most),
        **dict.fromkeys(_OF_WORK_ITEMS, work_items),
    }


def _stages(rows: Sequence[StageRow], growths: Mapping[str, _Growth]) -> Iterator[StageEstimate]:
    """The whole stages, and the parts of the time outside them, of which each grows with something else."""
    shown = {row.stage: row for row in rows if row.total_ns is not None}
    if A.code not in shown or not (BCD.code in shown or D.code in shown):
        return
    for row in shown.values():
        if row.part_of == OTHER.code:
            yield growths.get(row.stage, _Growth.known("nothing", 1.0)).applied_to(row)
        elif row.part_of is None and row.stage != OTHER.code:
            yield growths[row.stage].applied_to(row)


def _assumptions(operation: Operation, done: _Done) -> Iterator[str]:
    yield f"a takes the same time: the guest {_DOING[operation.kind]} the same pages one by one"
    yield _GATHERED
    if not _has(operation, D.code):
        return
    yield _SENDS
    if done.calls is not None:
        calls = format_things(done.calls_for(1), "call")
        yield f"the host makes {calls} for each run of pages, as it is named"
        yield _CALLS if done.own_share is None else _FREEING


def _unknown(operation: Operation, done: _Done, calls: CallsOfHost | None) -> Iterator[str]:
    if _has(operation, BCD.code):
        yield _FROM_GUEST
    elif not _has(operation, D.code):
        yield _NO_TIMES
    elif done.calls is None:
        yield _SAMPLED
    elif done.calls and operation.served is not None and operation.served.samples is not None:
        yield _SAMPLED_FREED
    elif done.calls and done.own_share is None:
        yield _FREED if calls is None or calls.freed_pages is None else _MANY_FREED
    if done.calls and done.calls < done.pages:
        yield (
            f"whether the host would merge runs, as it merged {format_count(done.pages)} pages into "
            f"{format_things(done.calls, 'call')}"
        )


def _has(operation: Operation, stage: str) -> bool:
    """Whether this stage was told apart."""
    return any(row.stage == stage and row.total_ns is not None for row in operation.stages)

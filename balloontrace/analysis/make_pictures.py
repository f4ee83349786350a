# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report was made of into the numbers its pictures show."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from balloontrace.analysis.clockwork import Clockwork
from balloontrace.analysis.columns import Spans
from balloontrace.analysis.group_statistics import distributions, floor_log2
from balloontrace.analysis.make_report import Examined
from balloontrace.analysis.operations import operation_of_spans
from balloontrace.analysis.page_sets import PageSet
from balloontrace.analysis.picture_part import Evidence, Part
from balloontrace.analysis.picture_time_line import draw_up_time_line
from balloontrace.format.vocabulary import Function
from balloontrace.results.operation import longest
from balloontrace.results.pictures import (
    Histogram,
    PageMap,
    Pictures,
)

MOST_OPERATIONS = 12
MOST_CELLS = 4096
ROW_CELLS = 64


def depict(examined: Examined) -> Pictures:
    """Pictures of the MOST_OPERATIONS longest operations and of all calls; there are none of a host alone."""
    if examined.guest is None:
        return Pictures()
    guest, shown = examined.guest, examined.report.operations
    times = examined.both.times if examined.both else None
    evidence = Evidence(guest.spans, guest.operations, times, guest.carried.pages)
    indices = [operation.number - 1 for operation in longest(shown, MOST_OPERATIONS)]
    of_spans = operation_of_spans(evidence.spans, evidence.operations)
    return Pictures(
        time_lines=tuple(
            draw_up_time_line(Part(evidence, index, of_spans == index), shown[index], examined.readings)
            for index in indices
        ),
        histograms=tuple(_histograms(evidence.spans)),
        page_maps=tuple(
            map_pages(index + 1, pages)
            for index in indices
            if (pages := evidence.pages[index]) is not None and len(pages.starts)
        ),
    )


def _histograms(spans: Spans) -> Iterator[Histogram]:
    """Of each function that has calls with a duration; where only entries are seen there is none."""
    durations_ns = spans.int64("duration_ns")
    for function in Function:
        taken_ns = durations_ns[spans.of(function)]
        if not taken_ns.any():
            continue
        (spread,) = distributions(taken_ns, np.zeros(len(taken_ns), dtype=np.int64), 1)
        buckets = np.bincount(floor_log2(np.maximum(taken_ns, 1)))
        yield Histogram(
            function=function.symbol,
            calls=spread.count,
            p50_ns=spread.p50_ns or 0,
            p90_ns=spread.p90_ns or 0,
            p99_ns=spread.p99_ns or 0,
            max_ns=spread.max_ns or 0,
            buckets=tuple(buckets.tolist()),
        )


def map_pages(number: int, pages: PageSet) -> PageMap:
    """A set of pages that is not empty in MOST_CELLS cells at most, whole rows of ROW_CELLS."""
    span = pages.span
    assert span is not None
    first_pfn, last_pfn = span
    cell_pages = 1
    while True:
        row_pages = cell_pages * ROW_CELLS
        begin, end = first_pfn // row_pages * row_pages, (last_pfn // row_pages + 1) * row_pages
        if (end - begin) // cell_pages <= MOST_CELLS:
            break
        cell_pages *= 2
    edges = np.arange(begin, end + 1, cell_pages, dtype=np.int64)
    counts = pages.count_in(edges[:-1], edges[1:])
    lengths = pages.lengths.astype(np.float64)
    weighted = np.diff(Clockwork.of(pages.starts, pages.ends, lengths).until(edges))
    return PageMap(
        number,
        begin,
        cell_pages,
        ROW_CELLS,
        tuple(counts.tolist()),
        tuple(
            total / count if count else None
            for total, count in zip(weighted.tolist(), counts.tolist(), strict=True)
        ),
    )

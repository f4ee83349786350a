# SPDX-License-Identifier: GPL-2.0-or-later
"""What each cycle of free page reporting did: its reports, and the time of the worker, transport and host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from balloontrace.analysis.both_sides import BothSides
from balloontrace.analysis.columns import Batches, Column, Mask, Spans
from balloontrace.analysis.group_statistics import sums
from balloontrace.analysis.nesting import NO_SPAN, Nesting
from balloontrace.analysis.page_reports import blocks_of, reported
from balloontrace.analysis.reported_again import NamedReports
from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES, BatchFlag, Function, SpanFlag
from balloontrace.results.page_reporting import ReportedQuantity, ReportingCycle

NS_PER_MINUTE = 60 * 10**9
_UNITS = {
    "reports": "",
    "pages": "pages",
    "bytes": "B",
    "worker_ns": "ns",
    "transport_ns": "ns",
    "host_c_ns": "ns",
    "host_d_ns": "ns",
    "pages_again": "pages",
}


@dataclass(frozen=True, slots=True)
class HostOfReports:
    """What the host did for page reports, by guest span; `c_known` and `d_known` tell where times are."""

    c_ns: Column
    d_ns: Column
    c_known: Mask
    d_known: Mask


def host_of_reports(spans: Spans, batches: Batches, both: BothSides) -> HostOfReports:
    """C and d of each report that the host was seen serving; of sampled calls nothing is known one by one."""
    c_ns, d_ns = np.zeros(len(spans), dtype=np.int64), np.zeros(len(spans), dtype=np.int64)
    c_known, d_known = np.zeros(len(spans), dtype=np.bool_), np.zeros(len(spans), dtype=np.bool_)
    if not batches.sampled:
        rows = both.reports.rows
        span, calls_ns = both.reports.report_of_batch[rows], batches.int64("calls_ns")[rows]
        d_ns[span], d_known[span] = calls_ns, True
        c_ns[span] = (batches.int64("done_ns") - batches.int64("kick_ns"))[rows] - calls_ns
        c_known[span] = (batches.has(BatchFlag.KICK_SEEN) & batches.has(BatchFlag.DONE_SEEN))[rows]
    return HostOfReports(c_ns, d_ns, c_known, d_known)


def find_cycles(
    spans: Spans, nesting: Nesting, host: HostOfReports | None, named: NamedReports | None
) -> tuple[ReportingCycle, ...]:
    """All of them in order of start; `named` tells what was reported again, where that is known."""
    cycles = np.flatnonzero(spans.of(Function.PAGE_REPORTING_PROCESS))
    all_reports, answered = spans.of(Function.VIRTBALLOON_FREE_PAGE_REPORT), reported(spans)
    place = np.full(len(spans), NO_SPAN, dtype=np.int64)
    place[cycles] = np.arange(len(cycles))
    cycle_of = np.where(nesting.cycle == NO_SPAN, NO_SPAN, place[nesting.cycle])

    def add(values: Column, which: Mask) -> Column:
        inside = np.flatnonzero(which & (cycle_of != NO_SPAN))
        return sums(values[inside], cycle_of[inside], len(cycles))

    def add_known(values: Column, known: Mask) -> list[int | None]:
        """None of a cycle of which one report's value is not known."""
        unknown = add(ones, answered & ~known)
        summed = zip(add(values, answered).tolist(), unknown.tolist(), strict=True)
        return [None if no else value for value, no in summed]

    ones, wall_ns = np.ones(len(spans), dtype=np.int64), spans.int64("duration_ns")
    nothing: list[int | None] = [None] * len(cycles)
    columns = zip(
        spans.int64("start_ns")[cycles].tolist(),
        wall_ns[cycles].tolist(),
        add(ones, answered).tolist(),
        add_known(blocks_of(spans), blocks_of(spans) > 0),
        add_known(spans.measured("pages", SpanFlag.PAGES), spans.has(SpanFlag.PAGES)),
        np.maximum(0, wall_ns[cycles] - add(wall_ns, all_reports)).tolist(),
        add(wall_ns, answered).tolist(),
        nothing if host is None else add_known(host.c_ns, host.c_known),
        nothing if host is None else add_known(host.d_ns, host.d_known),
        nothing if named is None else add(_by_span(named, len(spans)), answered).tolist(),
        strict=True,
    )
    return tuple(ReportingCycle(*row) for row in columns)


def _by_span(named: NamedReports, count: int) -> Column:
    pages = np.zeros(count, dtype=np.int64)
    pages[named.span] = named.pages_again
    return pages


def sum_up_quantities(
    totals: Mapping[str, int | None], cycles: Sequence[ReportingCycle], recorded_ns: int | None
) -> tuple[ReportedQuantity, ...]:
    """A row for each total that was measured or that all cycles know; `totals` are by the names of fields."""
    return tuple(_quantities(totals, cycles, recorded_ns))


def _quantities(
    totals: Mapping[str, int | None], cycles: Sequence[ReportingCycle], recorded_ns: int | None
) -> Iterator[ReportedQuantity]:
    for name, unit in _UNITS.items():
        of_bytes = name == "bytes"
        factor, field = (BALLOON_PAGE_BYTES, "pages") if of_bytes else (1, name)
        values = [getattr(cycle, field) for cycle in cycles]
        known = [value * factor for value in values if value is not None]
        whole = bool(known) and len(known) == len(values)
        total = totals.get(field)
        if total is None and not whole:
            continue
        yield ReportedQuantity(
            name=name,
            unit=unit,
            total=None if total is None else total * factor,
            per_minute=total * factor * NS_PER_MINUTE / recorded_ns
            if total is not None and recorded_ns
            else None,
            cycle_min=min(known) if whole else None,
            cycle_median=median(known) if whole else None,
            cycle_max=max(known) if whole else None,
        )

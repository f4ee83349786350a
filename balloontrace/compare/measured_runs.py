# SPDX-License-Identifier: GPL-2.0-or-later
"""What whole recordings have besides inflates and deflates: a run is a recording, and has values by name.

Page reporting, page hinting, out-of-memory deflation and the statistics queue have no target and no size that
two of them could have in common. So what a recording has of one of them is summed up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from balloontrace.compare.replicates import identity, misses_a_part
from balloontrace.format.vocabulary import Function, Status
from balloontrace.results.comparison import HINT, OOM, REPORT, STATISTICS, Run
from balloontrace.results.other_operation import OUT_OF_MEMORY
from balloontrace.results.page_hinting import SHRINKER
from balloontrace.results.report import Report
from balloontrace.units import pages_to_bytes, rate_bytes_per_s

ORDERS = 16
"""A report counts blocks of so many orders (`struct bt_span`)."""

_NS_PER_MINUTE = 60 * 10**9
_GIB_PAGES = 1 << 18

Values = Iterator[tuple[str, float | None]]


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run that counts; `identity` is what no other recording has, empty where it says none."""

    run: Run
    identity: str

    @property
    def happened(self) -> bool:
        """Whether there was anything at all."""
        return any(value for name, value in self.run.values.items() if name != "recorded_ns")


def find_run(what: str, report: Report) -> FoundRun | None:
    """What a recording has of `what`; None where that was not measured."""
    measured = {name: value for name, value in _MEASURE[what](report) if value is not None}
    if not measured:
        return None
    values: Mapping[str, float] = measured
    if report.recorded_ns is not None:
        values = {"recorded_ns": report.recorded_ns, **measured}
    return FoundRun(
        Run(
            recording=report.header.recording,
            host_recording=report.host.header.recording if report.host else None,
            values=values,
            started_realtime_ns=report.header.started_realtime_ns,
        ),
        identity(report.header),
    )


def is_whole(report: Report) -> bool:
    """Whether sums over the recording are of all that was recorded."""
    return not misses_a_part(report)


def _report(report: Report) -> Values:
    found = report.page_reporting
    if found is None:
        return
    yield "reports", found.reports
    yield "failed", found.failed
    yield "cycles", found.cycles
    yield "blocks", found.blocks
    if found.orders or found.blocks == 0:
        of_order = {each.order: each.blocks for each in found.orders}
        for order in range(ORDERS):
            yield f"blocks.order_{order}", of_order.get(order, 0)
    yield from _pages(found.pages)
    if found.pages is not None and report.recorded_ns:
        yield "bytes_per_minute", pages_to_bytes(found.pages) * _NS_PER_MINUTE / report.recorded_ns
    yield "pages_again", found.pages_again
    yield "again_ratio", found.again_ratio
    yield from _time("worker_ns", found.worker_ns, found.pages)
    yield from _time("transport_ns", found.transport_ns, found.pages)
    yield from _time("host_c_ns", found.host_c_ns, found.pages)
    yield from _time("host_d_ns", found.host_d_ns, found.pages)


def _hint(report: Report) -> Values:
    found = report.page_hinting
    if found is None:
        return
    operations = found.operations
    walls_ns, blocks = [each.wall_ns for each in operations], [each.blocks for each in operations]
    pages, sending_ns = sum(each.pages for each in operations), sum(each.sending_ns for each in operations)
    yield "migrations", len(operations)
    yield "commands", sum(len(each.rounds) for each in operations)
    yield "blocks", None if None in blocks else sum(each or 0 for each in blocks)
    yield from _pages(pages)
    yield "wall_ns", None if None in walls_ns else sum(each or 0 for each in walls_ns)
    yield "sending_ns", sending_ns
    yield "bytes_per_s", rate_bytes_per_s(pages, sending_ns)
    early = [back.pages for each in operations for back in each.returns if back.why == SHRINKER]
    yield "pages_taken_early", sum(early)


def _oom(report: Report) -> Values:
    function = Function.VIRTIO_BALLOON_OOM_NOTIFY.symbol
    found = [each for each in report.other_operations if each.what == OUT_OF_MEMORY]
    traced = any(
        probe.function == function and probe.status == Status.ATTACHED for probe in report.header.probes
    )
    if not found and not traced:
        return
    counts = [each.pages for each in found]
    pages = None if None in counts else sum(each or 0 for each in counts)
    yield "operations", len(found)
    yield "calls", sum(each.calls for each in found)
    yield from _pages(pages)
    yield from _time("calls_ns", sum(each.calls_ns for each in found), pages)


def _statistics(report: Report) -> Values:
    """Of several balloons the sums, and the median of the one that answered slowest."""
    for name, field in (("polls", "polls"), ("answers", "answers"), ("collecting_ns", "collecting_ns")):
        counts = [getattr(each, field) for each in report.statistics]
        yield name, sum(counts) if counts and None not in counts else None
    for field in ("answer_p50_ns", "answer_max_ns"):
        times = [getattr(each, field) for each in report.statistics]
        yield field, max((each for each in times if each is not None), default=None)


def _pages(pages: int | None) -> Values:
    yield "pages", pages
    yield "bytes", None if pages is None else pages_to_bytes(pages)


def _time(name: str, duration_ns: int | None, pages: int | None) -> Values:
    """A time, and the same for each GiB."""
    yield name, duration_ns
    if duration_ns is not None and pages:
        yield f"{name}_per_gib", duration_ns * _GIB_PAGES / pages


_MEASURE: Mapping[str, Callable[[Report], Values]] = {
    REPORT: _report,
    HINT: _hint,
    OOM: _oom,
    STATISTICS: _statistics,
}

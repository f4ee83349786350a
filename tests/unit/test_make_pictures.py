# SPDX-License-Identifier: GPL-2.0-or-later
"""What pictures show, compared with the report and with the same things counted one by one."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import synthetic
from flows import Flow, Times, typical_flow
from hypothesis import given
from hypothesis import strategies as st
from patched_flows import PatchedFlow
from synthetic_both import flow_of, guest_recording
from synthetic_host import HostTimes, batches, host_recording
from synthetic_payloads import ArrayFlow, NamingFlow, run, word

from balloontrace.analysis.make_pictures import (
    MOST_CELLS,
    MOST_OPERATIONS,
    depict,
    map_pages,
)
from balloontrace.analysis.make_report import examine
from balloontrace.analysis.page_sets import PFN_END, PageSet
from balloontrace.analysis.picture_time_line import CURVE_COLUMNS, STAGE_COLUMNS
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.results.pictures import BALLOON_SIZE, PAGES_MOVED, PAGES_TOLD, Pictures, TimeLine
from balloontrace.results.report import Report

EXAMPLES = Path(__file__).parents[2] / "examples"
ALONE = sorted(path for path in EXAMPLES.glob("*.bt") if not path.stem.endswith("-host"))
# Stages are sums of floats here: over a minute in nanoseconds that may round.
ROUNDING_NS = 1_000


def analyse_in_pictures(*recordings: Recording) -> tuple[Report, Pictures]:
    examined = examine(*recordings)
    return examined.report, depict(examined)


def pictured(*flows: Flow, **changes: object) -> tuple[Report, Pictures]:
    return analyse_in_pictures(synthetic.recording(*flows, changes=changes))


def assert_stages_are_those_of_the_table(report: Report, pictures: Pictures) -> None:
    for operation, line in zip(report.operations, pictures.time_lines, strict=False):
        assert line.wall_ns == operation.wall_ns
        shown = {stage.stage: sum(stage.ns) for stage in line.stages}
        assert sum(shown.values()) == operation.wall_ns
        rows = {row.stage: row for row in operation.stages}
        for stage, total_ns in shown.items():
            assert total_ns == pytest.approx(rows[stage].total_ns, abs=ROUNDING_NS), stage
        for part in line.stages:
            assert len(part.ns) == STAGE_COLUMNS
            assert min(part.ns) >= 0


@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.stem)
def test_stages_over_time_of_the_examples_add_up_to_the_table(path: Path) -> None:
    assert_stages_are_those_of_the_table(*analyse_in_pictures(read_recording(path)))


def test_stages_over_time_of_both_sides_add_up_to_the_table() -> None:
    sides = [read_recording(EXAMPLES / f"nested-stock-{side}.bt") for side in ("guest", "host")]
    report, pictures = analyse_in_pictures(*sides)
    assert_stages_are_those_of_the_table(report, pictures)
    stages = [stage.stage for stage in pictures.time_lines[0].stages]
    assert stages == ["a", "b.to_host", "b.interrupt", "b.running", "b.back", "c", "d", "other"]


@pytest.mark.parametrize("fill_is_symbol", [False, True])
@pytest.mark.parametrize("config_traced", [False, True])
def test_stages_over_time_add_up_to_the_table(*, fill_is_symbol: bool, config_traced: bool) -> None:
    flow = typical_flow(fill_is_symbol=fill_is_symbol, config_traced=config_traced)
    assert_stages_are_those_of_the_table(*pictured(flow))


@pytest.mark.parametrize("bitmap_is_symbol", [False, True])
def test_stages_over_time_of_the_patched_driver_add_up_to_the_table(*, bitmap_is_symbol: bool) -> None:
    flow = PatchedFlow(sends_of_windows=(3, 1, 5), bitmap_is_symbol=bitmap_is_symbol)
    flow.resize(1 << 18)
    flow.now += 1_000_000
    flow.resize(0)
    report, pictures = pictured(flow)
    assert_stages_are_those_of_the_table(report, pictures)
    assert [stage.stage for stage in pictures.time_lines[0].stages] == ["a", "b.build", "b+c+d", "other"]


def test_clocks_not_known_leave_b_in_one() -> None:
    flow = flow_of()
    host = host_recording(batches(flow, HostTimes(spread=0)))
    report, pictures = analyse_in_pictures(guest_recording(flow), host)
    assert_stages_are_those_of_the_table(report, pictures)
    assert [stage.stage for stage in pictures.time_lines[0].stages] == ["a", "b", "c", "d", "other"]


def sizes_of(flow: Flow, line: TimeLine, start_ns: int) -> list[tuple[int, int]]:
    """When the driver's own count changed within an operation, one by one, and to what."""
    changes = [
        (span.end_ns, span.actual_pages)
        for span in flow.spans
        if span.function == Function.UPDATE_BALLOON_SIZE_FUNC and span.flags & SpanFlag.ACTUAL
    ]
    return [(at, pages) for at, pages in changes if start_ns <= at <= start_ns + line.wall_ns]


@pytest.mark.parametrize("mib", [3, 7168])
def test_the_curve_holds_every_value_there_was(mib: int) -> None:
    flow = Flow()
    flow.resize(mib * 256)
    report, pictures = pictured(flow)
    (line,) = pictures.time_lines
    curve = line.curve
    assert curve is not None
    assert curve.what == BALLOON_SIZE
    assert curve.steps == mib
    assert (curve.first_pages[0], curve.last_pages) == (0, mib * 256)
    start_ns = report.operations[0].started_ns
    changes = sizes_of(flow, line, start_ns)
    assert len(changes) == mib
    edges = [start_ns + line.wall_ns * column // CURVE_COLUMNS for column in range(CURVE_COLUMNS + 1)]
    for column in range(0, CURVE_COLUMNS, 17):
        # Edges are rounded to whole nanoseconds in another way, which moves them by less than the columns.
        inside = [pages for at, pages in changes if edges[column] + 720 <= at < edges[column + 1] - 720]
        low, high = curve.low_pages[column], curve.high_pages[column]
        assert low is not None
        assert high is not None
        assert all(low <= pages <= high for pages in inside)
        before = max((pages for at, pages in changes if at < edges[column] - 720), default=0)
        assert low >= before
    moved = line.moved_pages
    assert moved is not None
    assert sum(pages or 0 for pages in moved) == mib * 256


def test_a_balloon_that_goes_back_and_forth_is_not_smoothed() -> None:
    flow = Flow()
    flow.resize(4096, max_items=8)
    # As an out-of-memory notification has it: pages are taken back while the target stays.
    flow.oom(pages=1024)
    flow.work(flow.expected[-1])
    _, pictures = pictured(flow)
    (line,) = pictures.time_lines
    assert line.curve is not None
    assert len(line.shortages_ns) == 1
    assert line.moved_pages is not None
    assert min(pages or 0 for pages in line.moved_pages) < 0
    assert sum(pages or 0 for pages in line.moved_pages) == 4096
    values = [pages for pages in line.curve.low_pages if pages is not None]
    assert any(later < earlier for earlier, later in itertools.pairwise(values))


def test_sends_tell_where_work_items_do_not() -> None:
    named = NamingFlow([run(0, 9), run(512, 9) + word(4096, 0xFF)], sends_of_windows=(2,))
    named.resize(1032)
    (line,) = pictured(named)[1].time_lines
    assert line.curve is not None
    assert (line.curve.what, line.curve.steps, line.curve.last_pages) == (PAGES_TOLD, 2, 1032)
    assert 512 in line.curve.high_pages
    flow = typical_flow(config_traced=False)
    first, second = pictured(flow)[1].time_lines
    assert first.curve is not None
    assert second.curve is not None
    assert (first.curve.what, first.curve.last_pages, first.targets) == (PAGES_MOVED, 4096, ())
    assert second.curve.last_pages == 4096 - 100


def test_where_nothing_tells_pages_there_is_no_curve() -> None:
    flow = typical_flow(config_traced=False)
    silent = SpanFlag.PAGES | SpanFlag.RESULT
    flow.silence(silent)
    for line in pictured(flow)[1].time_lines:
        assert line.curve is None
        assert line.moved_pages is None
        assert line.pauses is None


def test_waits_are_the_work_items_that_got_too_few_pages() -> None:
    flow = Flow()
    expected = flow.resize(64 * 256, max_items=10)
    flow.work(expected, granted=[7, 0, 100])
    _, pictures = pictured(flow)
    (line,) = pictures.time_lines
    assert sum(stretch.count for stretch in line.waits) == expected.short == 3
    waited_ns = sum(stretch.until_ns - stretch.from_ns for stretch in line.waits)
    assert waited_ns >= 3 * Times().failed_allocation
    assert all(0 <= each.from_ns < each.until_ns <= line.wall_ns for each in line.waits)


def test_a_pause_is_found_with_what_it_went_to() -> None:
    flow = Flow()
    expected = flow.resize(100 * 256, max_items=40)
    pause_from_ns = flow.now - expected.start_ns
    flow.now += 50_000_000
    flow.work(expected)
    (line,) = pictured(flow)[1].time_lines
    assert line.pauses is not None
    (pause,) = line.pauses
    assert pause.from_ns == pause_from_ns
    assert 50_000_000 < pause.until_ns - pause.from_ns < 51_000_000
    assert pause.stage == "other"


def test_an_even_operation_has_no_pause_and_a_short_one_tells_of_none() -> None:
    even, short = Flow(), Flow(device=1, tid=200)
    even.resize(100 * 256)
    short.resize(3 * 256)
    lines = pictured(even, short)[1].time_lines
    assert sorted((line.pauses for line in lines), key=str) == [(), None]


def test_targets_have_the_times_they_were_read() -> None:
    flow = Flow()
    flow.resize(20 * 256, moves={5: 30 * 256, 12: 10 * 256 * 4})
    report, pictures = pictured(flow)
    (line,) = pictures.time_lines
    assert tuple(target.pages for target in line.targets) == report.operations[0].targets_pages
    assert line.targets[0].from_ns == 0
    starts = sorted(
        span.start_ns for span in flow.spans if span.function == Function.UPDATE_BALLOON_SIZE_FUNC
    )
    began_ns = report.operations[0].started_ns
    assert [target.from_ns for target in line.targets[1:]] == [starts[5] - began_ns, starts[12] - began_ns]


@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.stem)
def test_histograms_count_every_call(path: Path) -> None:
    report, pictures = analyse_in_pictures(read_recording(path))
    calls = {loss.function: loss.entries for loss in report.losses}
    assert pictures.histograms
    for histogram in pictures.histograms:
        assert sum(histogram.buckets) == histogram.calls == calls[histogram.function]
        assert histogram.p50_ns <= histogram.p90_ns <= histogram.p99_ns <= histogram.max_ns
        assert len(histogram.buckets) == histogram.max_ns.bit_length()


def test_buckets_are_powers_of_two() -> None:
    flow = Flow(times=Times(send=65_530))
    flow.resize(20 * 256)
    (sends,) = (each for each in pictured(flow)[1].histograms if each.function == "tell_host")
    durations_ns = [span.duration_ns for span in flow.spans if span.function == Function.TELL_HOST]
    assert Counter({index: count for index, count in enumerate(sends.buckets) if count}) == Counter(
        duration_ns.bit_length() - 1 for duration_ns in durations_ns
    )
    assert len([count for count in sends.buckets if count]) == 2


def page_sets() -> st.SearchStrategy[PageSet]:
    pfns = st.one_of(st.integers(0, 5000), st.integers(0, PFN_END - 1))
    runs = st.tuples(pfns, st.one_of(st.integers(1, 3), st.integers(1, 2000)))
    return st.lists(runs, min_size=1, max_size=20).map(
        lambda found: PageSet.from_runs(
            np.array([first for first, _ in found], dtype=np.int64),
            np.array([min(first + pages, PFN_END) for first, pages in found], dtype=np.int64),
        )
    )


@pytest.mark.thorough
@given(page_sets())
def test_a_map_counts_each_page_in_its_cell(pages: PageSet) -> None:
    drawn = map_pages(1, pages)
    assert len(drawn.pages) <= MOST_CELLS
    assert len(drawn.pages) % drawn.row_cells == 0
    assert sum(drawn.pages) == pages.count
    starts, ends = pages.starts.tolist(), pages.ends.tolist()
    for cell, (count, run_pages) in enumerate(zip(drawn.pages, drawn.run_pages, strict=True)):
        if not count:
            assert run_pages is None
            continue
        low = drawn.first_pfn + cell * drawn.cell_pages
        inside = [
            (min(end, low + drawn.cell_pages) - max(start, low), end - start)
            for start, end in zip(starts, ends, strict=True)
            if start < low + drawn.cell_pages and end > low
        ]
        assert count == sum(there for there, _ in inside)
        mean = sum(there * length for there, length in inside) / count
        assert run_pages == pytest.approx(mean, rel=1e-6)


def test_a_map_shows_what_was_named() -> None:
    flow = ArrayFlow()
    flow.resize(1000)
    flow.now += 1_000_000
    flow.resize(0)
    report, pictures = pictured(flow)
    assert [page_map.number for page_map in pictures.page_maps] == [1, 2]
    for operation, page_map in zip(report.operations, pictures.page_maps, strict=True):
        assert operation.payload is not None
        assert sum(page_map.pages) == operation.payload.distinct.pages == 1000
    assert pictured(Flow())[1] == Pictures()
    assert pictured(typical_flow())[1].page_maps == ()


def test_of_many_operations_the_longest_are_drawn_in_their_order() -> None:
    flow = Flow()
    for _ in range(MOST_OPERATIONS):
        flow.resize(256)
        flow.now += 1_000_000
        flow.resize(0)
        flow.now += 1_000_000
    flow.resize(2560)
    report, pictures = pictured(flow)
    assert len(report.operations) == 2 * MOST_OPERATIONS + 1
    drawn = [line.number for line in pictures.time_lines]
    assert len(drawn) == MOST_OPERATIONS
    assert drawn == sorted(drawn)
    assert drawn[-1] == 2 * MOST_OPERATIONS + 1


def test_a_host_alone_has_no_time_lines() -> None:
    host: Recording = host_recording(batches(flow_of()))
    assert analyse_in_pictures(host)[1] == Pictures()

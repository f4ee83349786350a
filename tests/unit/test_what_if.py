# SPDX-License-Identifier: GPL-2.0-or-later
"""What other formats would have taken: held against the driver that has one; nothing is guessed."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest
from collection import examined
from flows import Flow
from people import render_table
from report_checks import report_of
from synthetic_payloads import ArrayFlow

from balloontrace.analysis.other_formats import as_page_bitmaps
from balloontrace.analysis.what_if import CallsOfHost, imagine_other_formats
from balloontrace.format.vocabulary import Kind
from balloontrace.render.report.csv import render_csv
from balloontrace.results.operation import Operation
from balloontrace.results.what_if import BLOCKS, PAGE_BITMAPS, RANGES, FormatEstimate, WhatIf

STOCK, BITMAP = "other-formats-stock", "other-formats-bitmap"
WITHIN = 0.25


def what_if(operation: Operation) -> WhatIf:
    assert operation.what_if is not None
    return operation.what_if


def estimates(operation: Operation) -> dict[str, FormatEstimate]:
    return {each.format: each for each in what_if(operation).formats}


@pytest.mark.parametrize("number", [0, 1], ids=["inflate", "deflate"])
def test_the_estimate_is_what_page_bitmaps_took(number: int) -> None:
    """The same work in the same guest, one driver after the other; a deflate frees nothing on the host."""
    stock, bitmap = (examined(name).report.operations[number] for name in (STOCK, BITMAP))
    assert (stock.kind, stock.pages) == (bitmap.kind, bitmap.pages)
    estimate = estimates(stock)[PAGE_BITMAPS]
    assert estimate.estimate_ns == pytest.approx(bitmap.wall_ns, rel=WITHIN)
    assert estimate.least_ns is not None
    assert estimate.most_ns is not None
    assert estimate.least_ns <= bitmap.wall_ns <= estimate.most_ns < stock.wall_ns
    # It would not have passed for one that took the stock driver's time, or none but for the host.
    assert abs(bitmap.wall_ns - stock.wall_ns) > 2 * WITHIN * bitmap.wall_ns


@pytest.mark.parametrize(
    "name", ["bitmap-inflate", "bitmap-deflate", "bitmap-fragmented", "nested-bitmap-guest", BITMAP]
)
def test_counts_are_those_of_the_driver_that_sends_bitmaps(name: str) -> None:
    found = examined(name)
    assert found.guest is not None
    for operation, pages in zip(found.report.operations, found.guest.carried.pages, strict=True):
        assert pages is not None
        assert operation.payload is not None
        assert operation.payload.of_records is not None
        cost = as_page_bitmaps(pages)
        assert (cost.sends, cost.records) == (operation.sends, operation.payload.of_records.records)
        sent = (operation.payload.bytes_sent or 0) + operation.payload.header_bytes
        assert (cost.bytes_sent, cost.runs) == (sent, operation.payload.runs_named)
        assert operation.served is None or operation.served.calls == cost.runs
        assert operation.what_if is None  # its pages were in bitmaps


@pytest.mark.parametrize("number", [0, 1])
def test_times_add_up_and_lie_between_their_bounds(number: int) -> None:
    operation = examined(STOCK).report.operations[number]
    for each in what_if(operation).formats:
        for name in ("least_ns", "estimate_ns", "most_ns"):
            assert getattr(each, name) == sum(getattr(stage, name) for stage in each.stages)
        for stage in each.stages:
            assert stage.estimate_ns is not None
            assert stage.least_ns <= stage.estimate_ns <= stage.most_ns
    of_pages = [stage for stage in estimates(operation)[RANGES].stages if stage.stage == "a"]
    assert of_pages[0].estimate_ns == next(row.total_ns for row in operation.stages if row.stage == "a")


def test_from_the_guest_alone_there_are_bounds() -> None:
    flow = ArrayFlow()
    flow.resize(2048)
    operation = report_of(flow).operations[0]
    a_ns = next(row.total_ns for row in operation.stages if row.stage == "a")
    assert a_ns is not None
    for each in what_if(operation).formats:
        assert each.estimate_ns is None
        assert each.least_ns is not None
        assert each.most_ns is not None
        assert a_ns < each.least_ns < each.most_ns < operation.wall_ns
    assert any("not recorded" in sentence for sentence in what_if(operation).unknown)
    # One run of 2048 pages, which begins behind a block's first page and ends behind another's.
    assert [(each.format, each.records, each.host_calls) for each in what_if(operation).formats] == [
        (PAGE_BITMAPS, 7, 7),
        (RANGES, 1, 1),
        (BLOCKS, 3 + 512, 3 + 512),
    ]


def imagined(known: CallsOfHost | None, calls: int | None = 65_536) -> WhatIf:
    """The example again, with something else known of its host's calls."""
    found = examined(STOCK)
    assert found.guest is not None
    operation = found.report.operations[0]
    assert operation.served is not None
    changed = dataclasses.replace(operation.served, calls=calls)
    imagined = imagine_other_formats(
        dataclasses.replace(operation, served=changed), found.guest.carried.pages[0], known
    )
    assert imagined is not None
    return imagined


@pytest.mark.parametrize(
    ("calls", "why"),
    [(CallsOfHost(6_000, None), "--count-freed"), (CallsOfHost(6_000, 40_000), "too many calls freed")],
    ids=["not counted", "most calls freed"],
)
def test_what_calls_take_by_page_is_not_guessed(calls: CallsOfHost, why: str) -> None:
    found = imagined(calls)
    assert [each.estimate_ns for each in found.formats] == [None] * 3
    assert any(why in sentence for sentence in found.unknown)
    known = imagined(CallsOfHost(6_000, 1_000))
    assert all(each.estimate_ns is not None for each in known.formats)
    assert not known.unknown


def test_calls_that_were_not_counted_leave_bounds() -> None:
    found = imagined(None, calls=None)
    assert [each.estimate_ns for each in found.formats] == [None] * 3
    assert any("calls were not counted" in sentence for sentence in found.unknown)


def test_discards_stand_for_calls_of_an_inflate_that_were_sampled() -> None:
    """A deflate's calls want memory back, which is no discard."""
    found = examined(STOCK)
    assert found.guest is not None
    for operation, pages in zip(found.report.operations, found.guest.carried.pages, strict=True):
        assert operation.served is not None
        calls = operation.served.calls
        assert calls
        counted = dataclasses.replace(
            operation.served, calls=None, samples=90, samples_inside=60,
            discards=calls if operation.kind is Kind.INFLATE else 0,
        )  # fmt: skip
        imagined = imagine_other_formats(dataclasses.replace(operation, served=counted), pages)
        assert imagined is not None
        known = {stage.stage: stage.estimate_ns is not None for stage in imagined.formats[0].stages}
        assert not known["d"]
        assert known["c"] is (operation.kind is Kind.INFLATE)
        why = "samples do not show" if operation.kind is Kind.INFLATE else "calls were not counted"
        assert any(why in sentence for sentence in imagined.unknown)


def test_bounds_reach_as_far_as_the_error_of_samples() -> None:
    found = examined(STOCK)
    assert found.guest is not None
    operation, pages = found.report.operations[0], found.guest.carried.pages[0]
    sampled = dataclasses.replace(
        operation,
        stages=tuple(
            dataclasses.replace(row, error_ns=row.total_ns // 10) if row.stage in "cd" else row
            for row in operation.stages
            if row.total_ns is not None
        ),
    )
    exact, wide = (imagine_other_formats(each, pages) for each in (operation, sampled))
    assert exact is not None
    assert wide is not None
    for before, after in zip(exact.formats, wide.formats, strict=True):
        for mine, theirs in zip(before.stages, after.stages, strict=True):
            part = 0.1 if mine.stage in "cd" else 0
            assert theirs.least_ns == pytest.approx(mine.least_ns * (1 - part), abs=2)
            assert theirs.most_ns == pytest.approx(mine.most_ns * (1 + part), abs=2)


def test_a_host_that_makes_two_calls_for_each_page_makes_two_for_each_run() -> None:
    once, twice = (imagined(CallsOfHost(3_000, 0), calls=calls).formats[1] for calls in (65_536, 131_072))
    assert twice.host_calls == 2 * once.host_calls == 2 * once.records


def test_a_host_that_merges_pages_may_merge_runs() -> None:
    found = imagined(CallsOfHost(6_000, 0), calls=9_000)
    assert found.formats[1].host_calls == found.formats[1].records
    assert any("would merge runs" in sentence for sentence in found.unknown)


def test_nothing_is_told_unless_all_payloads_are_there() -> None:
    flow = Flow()
    flow.resize(2048)
    assert report_of(flow).operations[0].what_if is None
    lossy = ArrayFlow()
    lossy.resize(2048)
    lossy.payloads.pop()
    assert report_of(lossy).operations[0].what_if is None


def test_people_and_tables_see_it() -> None:
    report = examined(STOCK).report
    shown = render_table(report)
    assert "Operation 1 with its pages in other formats (counted and estimated)" in shown
    rows = [row for row in csv.DictReader(io.StringIO(render_csv(report))) if row["level"] == "what_if"]
    assert [row["name"] for row in rows] == [PAGE_BITMAPS, RANGES, BLOCKS] * 2
    blocks = what_if(report.operations[0]).whole_blocks
    assert [float(row["value"]) for row in rows[:3]] == [blocks] * 3
    first = what_if(report.operations[0]).formats[0]
    told = tuple(rows[0][name] for name in ("sends", "records", "count", "total_ns", "least_ns", "most_ns"))
    assert told == tuple(
        str(value)
        for value in (
            first.sends,
            first.records,
            first.host_calls,
            first.estimate_ns,
            first.least_ns,
            first.most_ns,
        )
    )

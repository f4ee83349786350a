# SPDX-License-Identifier: GPL-2.0-or-later
"""Out of memory, compaction, freeze, restore, removal and statistics become operations of their own."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
import synthetic
from flows import Flow
from other_work import ANSWER_NS, COLLECT_NS, count_in_sends, empty, fail_to_migrate, poll, restore
from report_checks import report_of

from balloontrace.analysis.make_report import examine
from balloontrace.export.make_time_line import build_timeline
from balloontrace.format.vocabulary import Function
from balloontrace.render import blocks_text
from balloontrace.render.json import render_json
from balloontrace.render.report.csv import render_csv
from balloontrace.render.report.sections import describe_report
from balloontrace.results.operation import DRIVER_REMOVED
from balloontrace.results.other_operation import OtherOperation, StatisticsQueue, busiest
from balloontrace.results.report import Report

PAGES = 2048
SECOND_NS = 10**9


def others_of(flow: Flow) -> tuple[OtherOperation, ...]:
    """With a balloon that was empty at the start, as the recorder read it."""
    return report_of(flow, balloons=balloons()).other_operations


def balloons(size_pages: int = 0, target_pages: int = 0) -> list[dict[str, object]]:
    return [{"device": "virtio0", "present": True, "size_pages": size_pages, "target_pages": target_pages,
             "source": "configuration space"}]  # fmt: skip


def text_of(report: Report) -> str:
    return " ".join(blocks_text.text_of(describe_report(report)).split())


def test_calls_close_in_time_are_one_shortage() -> None:
    flow = Flow()
    flow.resize(PAGES)
    first_ns = flow.now
    for _ in range(3):
        flow.oom()
        flow.now += SECOND_NS // 2
    last_ns = flow.now - SECOND_NS // 2
    flow.now += SECOND_NS
    flow.oom(100)
    first, second = others_of(flow)
    assert (first.what, first.function, first.device) == (
        "out of memory",
        "virtio_balloon_oom_notify",
        "virtio0",
    )
    assert (first.started_ns, first.wall_ns, first.calls) == (first_ns, last_ns - first_ns, 3)
    assert first.calls_ns == first.wall_ns - SECOND_NS
    assert (first.pages, first.failed) == (3 * 256, None)
    assert (first.size_before_pages, first.size_after_pages) == (PAGES, PAGES - 3 * 256)
    assert (first.target_before_pages, first.target_after_pages) == (PAGES, PAGES)
    assert (second.calls, second.pages, second.size_after_pages) == (1, 100, PAGES - 868)


def test_what_the_driver_counts_itself_holds_without_a_size_at_the_start() -> None:
    flow = Flow()
    flow.resize(PAGES)
    flow.oom()
    flow.oom(0)
    (unknown,) = report_of(flow, vmstat={}).other_operations
    assert (unknown.size_before_pages, unknown.size_after_pages) == (None, None)
    count_in_sends(flow, 300)
    (known,) = report_of(flow, vmstat={}).other_operations
    assert (known.size_before_pages, known.size_after_pages) == (300 + PAGES, 300 + PAGES - 256)


def test_a_shortage_before_the_first_target_was_read_has_that_of_the_start() -> None:
    flow = Flow()
    flow.actual = PAGES
    flow.oom()
    (only,) = report_of(flow, balloons=balloons(PAGES, 4096)).other_operations
    assert (only.size_before_pages, only.size_after_pages) == (PAGES, PAGES - 256)
    assert (only.target_before_pages, only.target_after_pages) == (4096, 4096)


def test_compaction_moves_pages_and_leaves_the_size_alone() -> None:
    flow = Flow()
    flow.resize(PAGES)
    flow.migrate()
    fail_to_migrate(flow)
    flow.migrate()
    (only,) = others_of(flow)
    assert (only.what, only.calls, only.failed, only.pages) == ("compaction", 3, 1, 2)
    assert only.size_before_pages == only.size_after_pages == PAGES


def test_each_migration_moves_one_page_of_the_kernel() -> None:
    flow = Flow()
    flow.migrate()
    (only,) = report_of(flow, machine={"page_size_bytes": 65536}).other_operations
    assert only.pages == 16


@pytest.mark.parametrize("tid", [79, 100], ids=["a thread of its own", "the thread of the work items"])
def test_sleep_empties_the_balloon_and_a_work_item_fills_it_again(tid: int) -> None:
    flow = Flow()
    flow.resize(PAGES)
    empty(flow, Function.VIRTBALLOON_FREEZE, tid=tid)
    restore(flow, tid=tid)
    flow.resize(PAGES)
    report = report_of(flow, balloons=balloons())
    found = [
        (each.what, each.pages, each.size_before_pages, each.size_after_pages)
        for each in report.other_operations
    ]
    assert found == [("freeze", PAGES, PAGES, 0), ("restore", 0, 0, 0)]
    assert [(each.kind, each.pages) for each in report.operations] == [("inflate", PAGES)] * 2
    assert {each.what: each.pages for each in report.outside} == {
        "leak_balloon of a driver being removed or frozen": PAGES
    }


def test_removal_ends_the_inflate_under_way() -> None:
    flow = Flow()
    flow.resize(PAGES, max_items=4)
    empty(flow, Function.VIRTBALLOON_REMOVE)
    report = report_of(flow, balloons=balloons())
    assert [each.outcome for each in report.operations] == [DRIVER_REMOVED]
    (only,) = report.other_operations
    assert (only.what, only.calls, only.pages) == ("removal", 1, 1024)
    assert (only.size_before_pages, only.size_after_pages, only.target_after_pages) == (1024, 0, PAGES)


def test_removals_in_turn_are_told_apart() -> None:
    flow = Flow()
    for _ in range(2):
        flow.resize(512)
        empty(flow, Function.VIRTBALLOON_REMOVE)
        flow.target = 0
    assert [each.pages for each in others_of(flow)] == [512, 512]


def test_an_older_recording_has_the_calls_of_leak_balloon_alone() -> None:
    flow = Flow()
    flow.resize(PAGES)
    flow.remove_driver()
    (only,) = others_of(flow)
    assert (only.what, only.function, only.calls, only.pages) == (
        "freeze or removal",
        "leak_balloon",
        PAGES // 256,
        PAGES,
    )
    assert only.size_after_pages == 0


def test_two_balloons_are_told_apart() -> None:
    first, second = Flow(), Flow(device=3, tid=200)
    for flow, pages in ((first, 1024), (second, 512)):
        flow.resize(pages)
        flow.oom(tid=300 + flow.device)
        count_in_sends(flow, 0)
    found = report_of(first, second).other_operations
    assert {each.device: each.size_after_pages for each in found} == {"virtio0": 768, "virtio3": 256}


def test_statistics_are_counted_and_timed() -> None:
    flow = Flow()
    for _ in range(3):
        poll(flow)
        flow.now += SECOND_NS
    last_ns = flow.now
    poll(flow)
    (found,) = report_of(flow).statistics
    assert found == StatisticsQueue("virtio0", 4, 4, 4 * COLLECT_NS, ANSWER_NS, ANSWER_NS, last_ns, ANSWER_NS)


def test_a_request_without_an_answer_has_no_time() -> None:
    flow = Flow()
    poll(flow, answered=False)
    flow.now += SECOND_NS
    poll(flow)
    flow.now += SECOND_NS
    last_ns = flow.now
    poll(flow, answered=False)
    (found,) = report_of(flow).statistics
    assert (found.polls, found.answers, found.last_asked_ns) == (3, 1, last_ns)
    assert found.answer_max_ns == ANSWER_NS


def test_requests_that_were_not_traced_are_not_zero() -> None:
    flow = Flow()
    poll(flow)
    flow.drop(Function.STATS_REQUEST)
    probe = {"function": Function.UPDATE_BALLOON_STATS_FUNC.symbol, "status": "attached"}
    (found,) = report_of(flow, probes=[probe]).statistics
    assert (found.polls, found.answers, found.answer_p50_ns, found.last_asked_ns) == (None, 1, None, None)


def test_nothing_is_said_where_nothing_happened() -> None:
    flow = Flow()
    flow.resize(PAGES)
    report = report_of(flow, probes=[])
    assert (report.other_operations, report.statistics) == ((), ())
    assert not {"Other operations", "Statistics"} & set(text_of(report).split())


def eventful() -> Flow:
    flow = Flow()
    flow.resize(PAGES)
    flow.oom()
    flow.migrate()
    fail_to_migrate(flow)
    poll(flow)
    empty(flow, Function.VIRTBALLOON_FREEZE)
    restore(flow)
    return flow


def test_a_report_says_it_in_words() -> None:
    report = report_of(eventful(), balloons=balloons())
    said = text_of(report)
    assert "Other operations, which no target asked for:" in said
    assert "1 call of virtio_balloon_oom_notify in 306 us: 1.00 MiB given back; " in said
    assert "8.00 MiB of target 8.00 MiB before, 7.00 MiB of target 8.00 MiB after" in said
    assert "2 calls of virtballoon_migratepage in" in said
    assert "4.00 KiB moved, 1 moved nothing; 7.00 MiB of target 8.00 MiB before and after" in said
    assert "freeze of virtio0 after" in said
    assert "Statistics of virtio0: 1 poll, answered in 40.0 us (median)" in said
    assert max(map(len, blocks_text.text_of(describe_report(report)).splitlines())) <= 80


def test_the_busiest_are_shown() -> None:
    (one, *_) = others_of(eventful())
    many = [dataclasses.replace(one, calls_ns=number % 7, started_ns=number) for number in range(50)]
    shown = busiest(many, 20)
    assert [each.started_ns for each in shown] == sorted(each.started_ns for each in shown)
    assert min(each.calls_ns for each in shown) == 4
    report = dataclasses.replace(report_of(eventful()), other_operations=tuple(many))
    assert "the 20 busiest of 50:" in text_of(report)


def test_every_format_has_it() -> None:
    examined = examine(synthetic.recording(eventful(), changes={"balloons": balloons()}))
    report = examined.report
    fields = json.loads(render_json(report))
    assert fields["other_operations"] == [dataclasses.asdict(each) for each in report.other_operations]
    assert fields["statistics"] == [dataclasses.asdict(each) for each in report.statistics]
    table = list(csv.DictReader(io.StringIO(render_csv(report))))
    kinds = [row["kind"] for row in table if row["level"] == "other_operation"]
    assert kinds == ["out of memory", "compaction", "freeze", "restore"]
    (guest,) = build_timeline(examined).processes
    tracks = {track.name: list(track.slices) for track in guest.tracks}
    shown = tracks["other operations of virtio0"]
    assert [each.name for each in shown] == kinds
    assert shown[0].arguments["size_after_pages"] == PAGES - 256
    assert "statistics (thread 60)" in tracks
    assert "statistics asked for" in [instant.name for instant in guest.instants]

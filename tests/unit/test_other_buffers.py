# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host served beside sends: page reports, files, and advice of other threads."""

from __future__ import annotations

from pathlib import Path

import pytest
from flows import Flow, Span
from other_buffers import MIB, WORKER, discard, disk_of_workers, trimming
from page_reporting import Orders, pages_in, report_span
from synthetic_both import flow_of, guest_recording
from synthetic_host import (
    OFFSET_NS,
    batches,
    host_recording,
    pack_batch,
    pack_sampled,
    sampled_record,
    sampled_recording,
)

from balloontrace.analysis.make_report import analyse, examine
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import BatchFlag, Call
from balloontrace.render import blocks_text
from balloontrace.render.report.sections import describe_report
from balloontrace.results.host_side import OtherBuffers
from balloontrace.results.report import Check, Report

CASES = Path(__file__).parents[1] / "data" / "cases"
TOOK_NS, TO_HOST_NS = 200_000, 70_000
BLOCKS: Orders = {10: 13}


def served(report: Span, pages: int | None = None) -> bytes:
    """The buffer of a report: a call a block of 4 MiB."""
    calls = sum(BLOCKS.values()) if pages is None else pages // 1024
    return discard(report.start_ns + OFFSET_NS + TO_HOST_NS, calls=calls, size=4 * MIB)


def report_at(start_ns: int) -> Span:
    return report_span(start_ns, BLOCKS)._replace(duration_ns=TOOK_NS)


def both_sides(flow: Flow, reports: list[Span], raw: list[bytes], **options: int) -> Report:
    """Sends of a flow with these reports among them, and all that the host has."""
    found = batches(flow)
    flow.spans += reports
    return analyse(
        guest_recording(flow), host_recording(found, raw=b"".join([*map(pack_batch, found), *raw]), **options)
    )


def reported(report: Report) -> Check:
    (check,) = [check for check in report.checks if check.name == "reported pages"]
    return check


def others(report: Report) -> dict[str, list[OtherBuffers]]:
    assert report.host is not None
    found: dict[str, list[OtherBuffers]] = {}
    for each in report.host.others:
        found.setdefault(each.what, []).append(each)
    return found


def test_reports_of_the_guest_are_those_of_the_host() -> None:
    """Some while it inflates, some after; a disk and a heap besides."""
    flow, plain = flow_of(), flow_of()
    moments = [flow.spans[40].start_ns + number * 10_000_000 for number in range(5)]
    reports = [report_at(at_ns) for at_ns in [*moments, flow.now + 10**9, flow.now + 1_100_000_000]]
    disks = [disk_of_workers(each.end_ns + OFFSET_NS + 90_000) for each in reports]
    heap = [trimming(reports[0].end_ns + OFFSET_NS + 300_000)]
    report = both_sides(flow, reports, [*map(served, reports), *disks, *heap])
    before = both_sides(plain, [], [])
    assert [(each.stages, each.served) for each in report.operations] == [
        (each.stages, each.served) for each in before.operations
    ]
    found = others(report)
    (mine,) = found["page report"]
    assert (mine.told_by, mine.buffers, mine.calls) == ("matching", 7, 7 * 13)
    assert mine.bytes == 7 * 13 * 4 * MIB
    assert (mine.c_ns, mine.d_ns) == (7 * 30_000, 7 * 20_000)
    assert sum(each.buffers for each in found["file discard"]) == 7
    (advice,) = found["advice outside of buffers"]
    assert (advice.tid, advice.buffers, advice.c_ns) == (WORKER, 1, None)
    pages = 7 * pages_in(BLOCKS)
    assert reported(report) == Check("reported pages", pages, pages, "calls of the host", True)
    told = report.page_reporting
    assert told is not None
    assert (told.host_c_ns, told.host_d_ns) == (mine.c_ns, mine.d_ns)
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.reports == 7


def test_a_report_whose_buffer_was_lost_is_said() -> None:
    flow = flow_of()
    reports = [report_at(flow.now + number * 10**8) for number in range(1, 5)]
    report = both_sides(flow, reports, [served(each) for each in reports[1:]])
    check = reported(report)
    assert (check.spans, check.independent) == (4 * pages_in(BLOCKS), 3 * pages_in(BLOCKS))
    assert check.agrees is False
    assert report.page_reporting is not None
    assert report.page_reporting.host_d_ns is None


def test_a_buffer_of_other_size_or_time_is_no_report_of_the_guest() -> None:
    flow = flow_of()
    reports = [report_at(flow.now + number * 10**8) for number in (1, 2)]
    late = discard(reports[1].end_ns + OFFSET_NS + 10**6, calls=13, size=4 * MIB)
    report = both_sides(flow, reports, [served(reports[0], pages=5 * 1024), late])
    assert others(report).keys() == {"other buffer"}
    assert reported(report).independent == 0


def test_reports_made_while_the_host_was_not_recorded_are_not_compared() -> None:
    flow = flow_of()
    outside = report_at(flow.now + 1_900_000_000)
    inside = report_at(flow.now + 10**8)
    ended_ns = flow.now + OFFSET_NS + 10**9
    report = both_sides(flow, [inside, outside], [served(inside)], ended_ns=ended_ns)
    assert (reported(report).spans, reported(report).agrees) == (pages_in(BLOCKS), True)


@pytest.mark.parametrize("count", [100, 5])
def test_a_guest_that_only_reports_is_matched_by_that(count: int) -> None:
    flow = Flow()
    reports = [report_at(flow.now + 10**9 + number * number * 10**6) for number in range(count)]
    flow.spans += reports
    flow.now = reports[-1].end_ns
    raw = [served(each) for each in reports]
    started_ns, ended_ns = OFFSET_NS + 10**9, flow.now + OFFSET_NS + 10**9
    host = host_recording([], raw=b"".join(raw), started_ns=started_ns, ended_ns=ended_ns)
    examined = examine(guest_recording(flow), host)
    report = examined.report
    assert report.operations == ()
    assert reported(report).agrees is True
    (mine,) = others(report)["page report"]
    assert (mine.told_by, mine.buffers) == ("matching", count)
    assert report.host is not None
    assert report.host.pairing is not None
    assert (report.host.pairing.sends, report.host.pairing.pairs, report.host.pairing.reports) == (
        0,
        0,
        count,
    )
    assert report.page_reporting is not None
    assert report.page_reporting.host_d_ns == count * 20_000
    assert examined.both is not None
    assert sorted(examined.both.send_of_batch.tolist()) == list(range(count))


def test_of_calls_that_were_sampled_pages_and_times_of_reports_are_not_known() -> None:
    flow, period_ns = flow_of(), 39_989
    found = batches(flow)
    report = report_at(flow.spans[-1].start_ns + 10**9)
    kick_ns = report.start_ns + OFFSET_NS + TO_HOST_NS
    its_buffer = sampled_record(
        kick_ns=kick_ns, done_ns=kick_ns + 50_000, samples=2, samples_1=1, first_call_ns=kick_ns + 10_000,
        last_return_ns=kick_ns + 10_000, kicked_by=9, tid=4242,
        flags=BatchFlag.KICK_SEEN | BatchFlag.DONE_SEEN,
    )  # fmt: skip
    flow.spans.append(report)
    raw = pack_sampled(found, period_ns) + its_buffer
    analysed = analyse(guest_recording(flow), sampled_recording(found, period_ns, raw))
    assert analysed.page_reporting is not None
    assert analysed.page_reporting.reports == 1
    assert (analysed.page_reporting.host_c_ns, analysed.page_reporting.host_d_ns) == (None, None)
    assert (reported(analysed).independent, reported(analysed).agrees) == (None, None)


def test_of_a_host_alone_what_is_no_buffer_is_told_by_its_calls() -> None:
    with (CASES / "n2-host.bt").open("rb") as stream:
        report = analyse(read_recording(stream))
    assert others(report).keys() == {"file discard"}
    assert sum(each.buffers for each in others(report)["file discard"]) == 48


def test_where_sends_punch_holes_nothing_says_which_file_it_is() -> None:
    found = batches(flow_of())
    raw = [discard(batch.kick_ns, calls=256, size=4096, kind=Call.FALLOCATE_PUNCH_HOLE) for batch in found]
    host = host_recording(found, raw=b"".join([*raw, disk_of_workers(found[-1].done_ns + 10**6)]))
    assert others(analyse(host)).keys() == {"other buffer"}


def test_file_discards_have_their_file() -> None:
    """One whose descriptor was another file's before, and one that was never seen open, have no name."""
    flow = flow_of()
    found, punch = batches(flow), Call.FALLOCATE_PUNCH_HOLE
    places = [flow.now + OFFSET_NS + number * 10**6 for number in range(1, 9)]
    raw = [
        discard(at_ns, calls=1, size=MIB, kind=punch, tid=WORKER, kicked=False, descriptor=10 + number % 4)
        for number, at_ns in enumerate(places)
    ]
    open_before = {"10": "/a.img", "11": "/b.img", "12": "/c.img"}
    open_after = {"10": "/a.img", "11": "/b.img", "12": "/d.img"}
    host = host_recording(
        found,
        raw=b"".join([*map(pack_batch, found), *raw]),
        changes={"files": open_before},
        end={"files": open_after},
    )
    report = analyse(guest_recording(flow), host)
    told = [(each.descriptor, each.file, each.buffers) for each in others(report)["file discard"]]
    assert told == [(10, "/a.img", 2), (11, "/b.img", 2), (12, None, 2), (13, None, 2)]
    shown = " ".join(blocks_text.text_of(describe_report(report)).split())
    assert "2 file discards by 2 calls of fallocate_punch_hole on /a.img, 2.00 MiB" in shown

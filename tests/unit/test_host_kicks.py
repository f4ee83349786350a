# SPDX-License-Identifier: GPL-2.0-or-later
"""Queues whose buffers take no call are told by when their eventfds kicked, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from flows import Flow
from other_work import poll
from page_hinting import FIRST, hint_span
from synthetic_both import flow_of, guest_recording
from synthetic_host import OFFSET_NS, batches, host_recording

from balloontrace.analysis.make_report import analyse
from balloontrace.format.host_counters import describe_eventfds, proven_kicks
from balloontrace.format.host_layout import EVENTFD, EVENTFDS_BYTES, PROVEN
from balloontrace.format.vocabulary import Function
from balloontrace.render import blocks_text
from balloontrace.render.report.sections import describe_report
from balloontrace.results.host_side import HostQueue
from balloontrace.results.report import Report

SERVING_TID = 4242
READ_NS = 30_000  # from a kick to its being read


def polled_flow(polls: int = 6) -> Flow:
    flow = flow_of()
    for number in range(polls):
        flow.now += 1_000_000_000 + 7_000_000 * number**2
        poll(flow)
    return flow


def answered_ns(flow: Flow) -> list[int]:
    """When the kick of each answer was read, by the host's clock."""
    work = (span for span in flow.spans if span.function == Function.UPDATE_BALLOON_STATS_FUNC)
    return [span.end_ns + OFFSET_NS + READ_NS for span in work]


def kicks(
    number: int, times_ns: list[int], *, tid: int = SERVING_TID, all_: int | None = None
) -> dict[str, Any]:
    return {"number": number, "tid": tid, "kicks": all_ or len(times_ns), "times_ns": times_ns}


def report_of(flow: Flow, *eventfds: Any) -> Report:
    host = host_recording(
        batches(flow), ended_ns=flow.now + OFFSET_NS + 3_000_000_000, end={"eventfds": list(eventfds)}
    )
    return analyse(guest_recording(flow), host)


def told(report: Report) -> list[HostQueue]:
    assert report.host is not None
    return list(report.host.queues)


def test_statistics_are_told_by_a_kick_each_answer() -> None:
    flow = polled_flow()
    report = report_of(flow, kicks(7, answered_ns(flow)), kicks(9, answered_ns(flow)[1:]))
    assert told(report) == [HostQueue(7, "statistics", "matching", 0, 6, 6)]
    shown = " ".join(blocks_text.text_of(describe_report(report)).split())
    assert "queues by eventfd: 7 statistics (6 kicks)" in shown


def test_the_host_may_have_been_recorded_for_longer_and_know_the_last_times_alone() -> None:
    flow = polled_flow()
    times_ns = answered_ns(flow)
    beyond_ns = flow.now + OFFSET_NS + 2_100_000_000
    report = report_of(flow, kicks(7, [*times_ns[2:], beyond_ns], all_=90))
    assert told(report) == [HostQueue(7, "statistics", "matching", 0, 4, 90)]


@pytest.mark.parametrize(
    "change",
    [
        lambda times: times[:-1],
        lambda times: [*times, times[-1] + 300_000_000],
        lambda times: [each + 60_000_000 for each in times],
        lambda times: [each - 1_000_000 for each in times],
        lambda times: times[:1],
        lambda times: times[::-1],
        lambda _: [],
        lambda times: [*times[:-1], "7"],
        lambda times: [-1, *times],
        lambda _: [2**63 - 1],
        lambda _: {},
    ],
    ids=[
        "one less", "one more", "late", "before", "one alone", "no order", "none", "a text", "negative",
        "too large", "no list",
    ],
)  # fmt: skip
def test_other_kicks_tell_nothing(change: Any) -> None:
    flow = polled_flow()
    row = {**kicks(7, answered_ns(flow)), "times_ns": change(answered_ns(flow))}
    assert told(report_of(flow, row)) == []


def test_two_that_would_do_or_another_thread_tell_nothing() -> None:
    flow = polled_flow()
    times_ns = answered_ns(flow)
    assert told(report_of(flow, kicks(7, times_ns), kicks(8, [each + 9 for each in times_ns]))) == []
    assert told(report_of(flow, kicks(7, times_ns, tid=SERVING_TID + 1))) == []
    assert told(report_of(flow, kicks(7, times_ns), kicks(8, times_ns, tid=1))) == [
        HostQueue(7, "statistics", "matching", 0, 6, 6)
    ]


def test_of_one_poll_nothing_is_told() -> None:
    """Some other eventfd may have been read just then."""
    flow = polled_flow(polls=1)
    assert told(report_of(flow, kicks(7, answered_ns(flow)))) == []


def test_hints_are_told_by_kicks_inside_of_sending_alone() -> None:
    flow = flow_of()
    flow.now += 2_000_000_000
    start_ns = flow.now
    flow.spans.append(hint_span(start_ns, FIRST, FIRST, blocks=100, held=100))
    flow.now += 1_000_000_000
    inside_ns = start_ns + OFFSET_NS + 20_000
    report = report_of(
        flow,
        kicks(5, [inside_ns]),
        kicks(6, [inside_ns, inside_ns + 500_000_000]),
        kicks(8, [inside_ns], tid=5),
    )
    assert told(report) == [HostQueue(5, "hint", "matching", 0, 1, 1)]


def eventfds(*rows: tuple[int, int, int, int]) -> bytes:
    """`struct bt_eventfds` with eventfds at a place, each with a number, buffers left and kicks."""
    raw = bytearray(EVENTFDS_BYTES)
    for place, number, left, count in rows:
        row = [0x1000, number, left, 77, count]
        at = place * EVENTFD.size_bytes
        for (_, kind, offset), value in zip(EVENTFD.fields, row, strict=True):
            size = 8 if kind == "u64" else 4
            raw[at + offset : at + offset + size] = value.to_bytes(size, "little")
        for kick in range(count):
            where = at + EVENTFD.offsets["kick_ns"] + 8 * (kick % 32)
            raw[where : where + 8] = (1000 + kick).to_bytes(8, "little")
    return bytes(raw)


def test_where_calls_are_sampled_a_disk_is_no_balloon_that_moves() -> None:
    before, disk, balloon = (
        eventfds((0, 2, 100, disk), (255, 1, PROVEN, balloon))
        for disk, balloon in ((3, 40), (9, 40), (9, 41))
    )
    assert proven_kicks(before) == proven_kicks(disk) != proven_kicks(balloon)
    assert proven_kicks(eventfds((0, 2, 100, 3))) == b""


def test_eventfds_of_the_kernel_are_described_in_the_order_of_their_times() -> None:
    """The last 32 times of each lie in a ring."""
    assert describe_eventfds(eventfds((0, 2, 0, 3), (255, 1, 0, 40))) == [
        {"number": 1, "tid": 77, "kicks": 40, "times_ns": list(range(1008, 1040))},
        {"number": 2, "tid": 77, "kicks": 3, "times_ns": [1000, 1001, 1002]},
    ]

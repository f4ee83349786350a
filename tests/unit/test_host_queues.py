# SPDX-License-Identifier: GPL-2.0-or-later
"""Which queue each eventfd kicks on the host: told by some of its buffers, and good for all."""

from __future__ import annotations

import pytest
from flows import Span
from other_buffers import MIB, discard
from page_reporting import pages_in, report_span
from synthetic_both import flow_of, guest_recording, other_flow
from synthetic_host import OFFSET_NS, Batch, batches, host_recording, pack_batch

from balloontrace.analysis.make_report import analyse, examine
from balloontrace.errors import RecordingError
from balloontrace.export.event_rows import described_events
from balloontrace.format.vocabulary import Queue
from balloontrace.render import blocks_text
from balloontrace.render.report.sections import describe_report
from balloontrace.results.host_side import HostQueue
from balloontrace.results.report import Report

EVENTFDS = {Queue.INFLATE: 3, Queue.DEFLATE: 4}
REPORTS, DISK, OTHER_BALLOON = 5, 8, 9
BLOCKS = {10: 13}


def packed(found: list[Batch]) -> bytes:
    return b"".join(pack_batch(each, kicked_by=EVENTFDS[Queue(each.queue)]) for each in found)


def report_at(start_ns: int) -> Span:
    return report_span(start_ns, BLOCKS)._replace(duration_ns=200_000)


def served(start_ns: int, eventfd: int = REPORTS) -> bytes:
    return discard(start_ns + OFFSET_NS + 70_000, calls=13, size=4 * MIB, kicked_by=eventfd)


def queues_of(report: Report) -> list[HostQueue]:
    assert report.host is not None
    return list(report.host.queues)


def test_each_eventfd_has_its_queue() -> None:
    """A report that the guest's recording lacks is one all the same; a disk's is not known."""
    flow = flow_of()
    found = batches(flow)
    starts_ns = [flow.now + number * 10**8 for number in range(1, 6)]
    flow.spans += [report_at(each) for each in starts_ns[:4]]
    disk = discard(flow.now + OFFSET_NS + 10**9, calls=1, size=MIB, kicked_by=DISK)
    raw = packed(found) + b"".join(map(served, starts_ns)) + disk
    examined = examine(guest_recording(flow), host_recording(found, raw=raw))
    report = examined.report
    counts = {queue: sum(each.queue == queue for each in found) for queue in EVENTFDS}
    assert queues_of(report) == [
        HostQueue(3, "inflate", "matching", counts[Queue.INFLATE], counts[Queue.INFLATE]),
        HostQueue(4, "deflate", "matching", counts[Queue.DEFLATE], counts[Queue.DEFLATE]),
        HostQueue(5, "report", "matching", 5, 4),
        HostQueue(8, None, None, 1, 0),
    ]
    assert report.host is not None
    told = {(each.what, each.told_by): each.buffers for each in report.host.others}
    assert told == {
        ("page report", "matching"): 4,
        ("page report", "eventfd"): 1,
        ("other buffer", "calls"): 1,
    }
    rows = [each for each in described_events(examined) if each["type"] == "batch"]
    assert [each["eventfd"] for each in rows if each["send"] is None] == [5, 8]
    shown = " ".join(blocks_text.text_of(describe_report(report)).split())
    assert f"queues by eventfd: 3 inflate ({counts[Queue.INFLATE]} buffers)," in shown
    assert "5 report (5 buffers), 8 unknown (1 buffer)" in shown
    assert shown.count("told by their eventfd") == 1
    assert pages_in(BLOCKS) * 4 == report.page_reporting.pages  # type: ignore[union-attr]


def of_another_balloon(found: list[Batch], eventfd: int = OTHER_BALLOON) -> bytes:
    """Buffers like the first one's in all but their eventfd and times."""
    return b"".join(
        discard(each.done_ns + 3_000 + each.done_ns % 3571, calls=256, size=4096, kicked_by=eventfd)
        for each in found[3::7]
    )


def test_another_balloon_is_told_by_its_eventfd_where_nothing_else_tells() -> None:
    flow = flow_of()
    found = batches(flow)
    unnumbered = b"".join(map(pack_batch, found)) + of_another_balloon(found, 0)
    with pytest.raises(RecordingError):
        analyse(guest_recording(flow), host_recording(found, raw=unnumbered))
    report = analyse(
        guest_recording(flow), host_recording(found, raw=packed(found) + of_another_balloon(found))
    )
    assert report.host is not None
    assert report.host.pairing is not None
    assert (report.host.pairing.pairs, report.host.pairing.batches) == (len(found), len(found))
    assert [(each.eventfd, each.matched > 0) for each in report.host.queues] == [
        (3, True),
        (4, True),
        (9, False),
    ]


def test_a_host_alone_tells_by_calls() -> None:
    flow = flow_of()
    found = batches(flow)
    raw = packed(found) + served(flow.now + 10**8)
    report = analyse(host_recording(found, raw=raw))
    assert [(each.queue, each.told_by, each.matched) for each in queues_of(report)] == [
        ("inflate", "calls", 0),
        ("deflate", "calls", 0),
        (None, None, 0),
    ]


def test_of_a_recording_without_eventfds_nothing_is_said() -> None:
    flow = flow_of()
    report = analyse(guest_recording(flow), host_recording(batches(flow)))
    assert queues_of(report) == []
    assert "by eventfd" not in blocks_text.text_of(describe_report(report))


def test_an_eventfd_that_kicked_two_queues_is_unknown() -> None:
    """Its number was given anew, say; what its buffers are is told by matching as ever."""
    flow = flow_of()
    found = batches(flow)
    raw = b"".join(pack_batch(each, kicked_by=1) for each in found)
    report = analyse(guest_recording(flow), host_recording(found, raw=raw))
    assert queues_of(report) == [HostQueue(1, None, None, len(found), len(found))]


@pytest.mark.parametrize("eventfd", [2**32 - 1, 1 << 31])
def test_no_number_is_too_large(eventfd: int) -> None:
    found = [each for each in batches(flow_of()) if each.queue == Queue.INFLATE]
    raw = b"".join(pack_batch(each, kicked_by=eventfd) for each in found)
    (queue,) = queues_of(analyse(host_recording(found, raw=raw)))
    assert (queue.eventfd, queue.queue) == (eventfd, "inflate")


def test_strangers_are_refused_as_ever() -> None:
    found = batches(other_flow())
    with pytest.raises(RecordingError):
        analyse(guest_recording(flow_of()), host_recording(found, raw=packed(found)))

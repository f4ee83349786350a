# SPDX-License-Identifier: GPL-2.0-or-later
"""Buffers that are not sends: page reports, discards for disks, trimming; never taken for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flows import Flow, Times
from other_buffers import (
    MIB,
    discard,
    disk_of_main_loop,
    disk_of_workers,
    page_wise_worker,
    reports,
    small_reports,
    trimming,
)
from report_checks import assert_adds_up
from synthetic_both import flow_of, guest_recording, other_flow
from synthetic_host import Batch, batches, host_recording, pack_batch

from balloontrace.analysis.make_report import analyse
from balloontrace.errors import RecordingError
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import SpanFlag
from balloontrace.results.report import Report

CASES = Path(__file__).parents[1] / "data" / "cases"


def case(name: str) -> Recording:
    with (CASES / name).open("rb") as stream:
        return read_recording(stream)


KINDS = [reports, small_reports, disk_of_main_loop, disk_of_workers, trimming, page_wise_worker]


def between(found: list[Batch], make: Callable[[int], bytes], *, every: int = 7) -> tuple[bytes, int]:
    """All batches with others right after each few of them, and 1.5 s later; and how many those are."""
    others = [make(batch.done_ns + 100_000) for batch in found[3::every]]
    others += [make(found[-1].done_ns + 1_500_000_000 + number * 1_000_000) for number in range(4)]
    return b"".join(map(pack_batch, found)) + b"".join(others), len(others)


def report_with(flow: Flow, make: Callable[[int], bytes], found: list[Batch] | None = None) -> Report:
    found = batches(flow) if found is None else found
    return analyse(guest_recording(flow), host_recording(found, raw=between(found, make)[0]))


def test_a_disk_and_page_reports_beside_a_balloon() -> None:
    report = analyse(case("n2-guest.bt"), case("n2-host.bt"))
    assert_adds_up(report)
    assert report.host is not None
    assert report.host.pairing is not None
    assert (report.host.pairing.pairs, report.host.pairing.batches) == (96, 96)
    assert [operation.served and operation.served.calls for operation in report.operations] == [16384, 8192]
    for operation in report.operations:
        assert {"b", "c", "d"} <= {row.stage for row in operation.stages if row.total_ns is not None}
    (note,) = [note for note in report.host.pairing.notes if "not sends" in note]
    assert note.startswith("54 served buffers are not sends of this guest: 48 were served by other threads")
    assert "6 have other page counts (352 MiB)" in note
    reports, *files = report.host.others
    assert (reports.what, reports.told_by, reports.buffers, reports.calls) == ("page report", "calls", 6, 95)
    assert reports.bytes == 352 * MIB
    assert {(each.what, each.call, each.c_ns) for each in files} == {
        ("file discard", "fallocate_punch_hole", None)
    }
    assert (sum(each.buffers for each in files), sum(each.bytes or 0 for each in files)) == (48, 64 * MIB)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_what_is_no_send_is_left_out(make: Callable[[int], bytes]) -> None:
    flow = flow_of()
    found = batches(flow)
    report, whole = report_with(flow, make), analyse(guest_recording(flow), host_recording(found))
    assert [each.stages for each in report.operations] == [each.stages for each in whole.operations]
    assert [each.served for each in report.operations] == [each.served for each in whole.operations]
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.pairs == report.host.pairing.batches == len(found)
    others = between(found, make)[1]
    assert any(f"{others} served buffers are not sends" in note for note in report.host.pairing.notes)


def test_all_kinds_at_once() -> None:
    flow = flow_of()
    kinds = [reports, disk_of_workers, trimming]

    def make(at_ns: int) -> bytes:
        return b"".join(kind(at_ns + number * 60_000) for number, kind in enumerate(kinds))

    report = report_with(flow, make)
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.pairs == len(batches(flow))


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found[:50] + found[51:],
        lambda found: [replace(batch, pages=batch.pages + 1) for batch in found],
        lambda _: batches(other_flow()),
        lambda found: found[:3],
    ],
    ids=["a lost batch", "other pages", "another guest", "few"],
)
def test_what_does_not_belong_together_is_refused_with_others_too(
    make: Callable[[int], bytes], spoil: Callable[[list[Batch]], list[Batch]]
) -> None:
    flow = flow_of()
    with pytest.raises(RecordingError):
        report_with(flow, make, spoil(batches(flow)))


def test_a_guest_that_cannot_tell_its_queues() -> None:
    flow = Flow(times=Times(send=1_500_000))
    flow.resize(100 * 256)
    flow.silence(SpanFlag.QUEUE)
    report = report_with(flow, reports)
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.pairs == len(batches(flow))


def test_what_nothing_tells_from_a_send_is_refused() -> None:
    flow = flow_of()

    def make(at_ns: int) -> bytes:
        return discard(at_ns, calls=256, size=4096)

    with pytest.raises(RecordingError):
        report_with(flow, make)


@pytest.mark.parametrize("make", [disk_of_workers, page_wise_worker], ids=lambda make: make.__name__)
def test_a_discard_is_not_taken_for_a_send_whose_buffer_is_missing(make: Callable[[int], bytes]) -> None:
    flow = Flow(times=Times(send=1_500_000))
    flow.resize(21 * 256)
    found = batches(flow)
    # The host's recording ended early; discards went on until then, some where a send could have been.
    cut = found[:17]
    raw = b"".join(map(pack_batch, cut)) + b"".join(make(batch.kick_ns + 400_000) for batch in cut)
    with pytest.raises(RecordingError):
        analyse(guest_recording(flow), host_recording(cut, raw=raw, ended_ns=cut[-1].done_ns + 1000))


def test_a_busy_guest_is_no_slow_host() -> None:
    for operation in analyse(case("h2-hogs.bt")).operations:
        assert not any("slow" in sentence for sentence in operation.verdict)
    (first, *_) = analyse(case("h2-hogs.bt")).operations
    assert any(
        sentence.endswith("between sending and going on: host, transport or the guest's own scheduling")
        for sentence in first.verdict
    )

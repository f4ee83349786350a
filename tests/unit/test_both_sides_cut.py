# SPDX-License-Identifier: GPL-2.0-or-later
"""Both sides together where kicks and completions are late, unseen or of something else."""

from __future__ import annotations

import struct
from dataclasses import replace

from report_checks import assert_adds_up, stage
from synthetic_both import MIB_PAGES, TIMES, flow_of, report_of
from synthetic_host import Batch, batches, pack_batch

from balloontrace.format.guest_layout import RING_HEADER_BYTES
from balloontrace.format.vocabulary import BatchFlag, Queue

DONE_NS_OFFSET = 24


def test_an_interrupt_after_the_guest_has_seen_its_buffer() -> None:
    flow = flow_of()
    found = batches(flow)
    late = [
        replace(batch, done_ns=batch.done_ns + 9_000_000) if index == 40 else batch
        for index, batch in enumerate(found)
    ]
    raw = b"".join(
        pack_batch(batch, last_return_ns=right.done_ns - 10) for batch, right in zip(late, found, strict=True)
    )
    report = report_of(flow, found, raw=raw)
    assert_adds_up(report)
    operation = report.operations[0]
    assert stage(operation.stages, "d").total_ns == TIMES.call * (operation.pages or 0)
    # All of that send after its last call counts as the host's, and nothing of what came after the send.
    assert (stage(operation.stages, "c").max_ns or 0) < 2_000_000
    assert all((row.total_ns or 0) >= 0 for row in operation.stages)


def test_a_host_recording_begun_late_splits_what_it_saw() -> None:
    flow = flow_of()
    found = batches(flow)
    late = found[150:]
    report = report_of(flow, late, started_ns=late[0].kick_ns - 1000)
    first, second = report.operations
    assert [row.stage for row in first.stages if row.part_of is None] == ["a", "b+c+d", "other"]
    assert [row.stage for row in second.stages if row.part_of is None] == ["a", "b+c+d", "other"]
    assert "b, c and d apart of operations 1, 2" in " ".join(report.not_measured)
    assert (first.served, second.served) == (None, None)
    whole = found[100:]
    first, second = report_of(flow, whole, started_ns=whole[0].kick_ns - 1000).operations
    assert [row.stage for row in second.stages if row.part_of is None] == ["a", "b", "c", "d", "other"]
    assert_adds_up(report)


def completed_unseen(found: list[Batch], unseen: range) -> bytes:
    """Those batches have no completion of their own: the ring was written, and no program saw it."""
    return b"".join(
        pack_batch(replace(batch, done_ns=0), flags=BatchFlag.KICK_SEEN, last_return_ns=batch.done_ns - 10)
        if index in unseen
        else pack_batch(batch)
        for index, batch in enumerate(found)
    )


def test_a_few_buffers_completed_unseen_end_with_their_last_call() -> None:
    flow = flow_of()
    found = batches(flow)
    report = report_of(flow, found, raw=completed_unseen(found, range(7, 9)))
    assert_adds_up(report)
    assert report.host is not None
    assert report.host.pairing is not None
    assert (report.host.pairing.pairs, report.host.pairing.delimited) == (200, 198)
    assert report.host.pairing.notes == (
        "2 buffers were completed unseen: their c ends with their last call",
    )
    first, whole = (each.operations[0] for each in (report, report_of(flow, found)))
    assert stage(first.stages, "d") == replace(stage(whole.stages, "d"), share=stage(first.stages, "d").share)
    both = [stage(each.stages, "c").total_ns or 0 for each in (whole, first)]
    assert both[0] - both[1] == 2 * 10  # from last return to completion


def test_where_completions_are_not_seen_nothing_is_split() -> None:
    flow = flow_of()
    found = batches(flow)
    first, second = report_of(flow, found, raw=completed_unseen(found, range(7, 10))).operations
    assert [row.stage for row in first.stages if row.part_of is None] == ["a", "b+c+d", "other"]
    assert stage(second.stages, "d").total_ns is not None


def test_a_first_buffer_without_a_kick_may_be_a_part_of_one() -> None:
    flow = flow_of()
    found = batches(flow)[37:]
    cut = replace(found[0], pages=94)
    raw = pack_batch(cut, flags=BatchFlag.DONE_SEEN) + b"".join(map(pack_batch, found[1:]))
    report = report_of(flow, found, raw=raw, started_ns=found[0].kick_ns - 1000)
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.pairs == len(found) - 1


def test_what_a_vmm_discards_for_itself_is_left_out() -> None:
    flow = flow_of()
    found = batches(flow)
    own = [Batch(batch.kick_ns + 5, batch.done_ns + 5, 10, 1, Queue.INFLATE) for batch in found[:20:7]]
    raw = b"".join(map(pack_batch, found)) + b"".join(pack_batch(batch, tid=9) for batch in own)
    report = report_of(flow, found, raw=raw)
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.pairs == 200
    assert any("other threads" in note for note in report.host.pairing.notes)


def told_late(batch: Batch, late_ns: int) -> bytes:
    """A batch whose completion was written so much after its last call: the ring had been written before."""
    raw = bytearray(pack_batch(batch))
    struct.pack_into("<Q", raw, RING_HEADER_BYTES + DONE_NS_OFFSET, batch.done_ns + late_ns)
    return bytes(raw)


def test_a_guest_that_goes_on_before_it_is_told() -> None:
    flow = flow_of()
    found = batches(flow)
    late_ns = 1_600_000  # longer than a send takes
    raw = b"".join(told_late(batch, late_ns if index % 50 == 7 else 0) for index, batch in enumerate(found))
    report = report_of(flow, found, raw=raw)
    assert_adds_up(report)
    for operation, expected in zip(report.operations, flow.expected, strict=True):
        rows = {row.stage: row for row in operation.stages}
        assert rows["d"].total_ns == TIMES.call * expected.pages
        for name in ("b", "b.to_host", "b.back", "c"):
            assert (rows[name].total_ns or 0) > 0
            assert (rows[name].p50_ns or 0) >= 0


def test_a_buffer_under_way_when_recording_began_is_left_out() -> None:
    flow = flow_of()
    found = batches(flow)[37:]
    started_ns = found[0].kick_ns + 1000
    # Its kick was not seen, and until all probes were attached two buffers looked like one.
    cut = replace(found[0], kick_ns=started_ns - 500, pages=94)
    raw = pack_batch(cut, flags=BatchFlag.DONE_SEEN) + b"".join(map(pack_batch, found[1:]))
    report = report_of(flow, found, raw=raw, started_ns=started_ns)
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.pairs == len(found) - 1
    assert stage(report.operations[1].stages, "d").total_ns == TIMES.call * 100 * MIB_PAGES
    assert [row.stage for row in report.operations[0].stages if row.part_of is None] == [
        "a",
        "b+c+d",
        "other",
    ]


def test_a_buffer_found_without_a_kick_begins_with_its_first_call() -> None:
    flow = flow_of()
    found = batches(flow)
    raw = [pack_batch(batch) for batch in found]
    for number in (3, 50):
        raw[number] = pack_batch(found[number], flags=BatchFlag.DONE_SEEN)
    report = report_of(flow, found, raw=b"".join(raw))
    whole = report_of(flow, found)
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.delimited == len(found) - 2
    assert report.host.pairing.notes == (
        "2 buffers were found without a kick: their c begins with their first call",
    )
    both = [stage(each.operations[0].stages, "c").total_ns or 0 for each in (whole, report)]
    assert both[0] - both[1] == 2 * TIMES.lead
    tops = [row.total_ns or 0 for row in report.operations[0].stages if row.part_of is None]
    assert sum(tops) == report.operations[0].wall_ns


def test_a_kick_for_the_buffer_before_is_no_contradiction() -> None:
    flow = flow_of()
    found = batches(flow)
    early = replace(found[50], kick_ns=found[49].done_ns + 1000)
    raw = [pack_batch(batch) for batch in found]
    raw[50] = pack_batch(early, first_call_ns=found[50].kick_ns + 10)
    report = report_of(flow, found, raw=b"".join(raw))
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.pairs == len(found)
    tops = [row.total_ns or 0 for row in report.operations[0].stages if row.part_of is None]
    assert sum(tops) == report.operations[0].wall_ns

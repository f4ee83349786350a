# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings whose calls were sampled: what a report says of them, and what it does not."""

from __future__ import annotations

import dataclasses
import io
import json
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from flows import Flow, Times
from mutations import join, split
from people import render_table
from synthetic_both import flow_of, guest_recording
from synthetic_host import (
    Batch,
    HostTimes,
    batches,
    host_recording,
    host_stream,
    pack_sampled,
    sampled_record,
    sampled_recording,
    sampled_stream,
)

from balloontrace.analysis.host_side import analyse_host
from balloontrace.analysis.make_report import analyse, examine
from balloontrace.commands.report import report as report_command
from balloontrace.errors import DataLostError, RecordingError
from balloontrace.export.event_rows import BATCH_COLUMNS, batch_rows
from balloontrace.export.make_time_line import build_timeline
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import BatchFlag
from balloontrace.render.json import render_json
from balloontrace.render.report.csv import render_csv
from balloontrace.results.report import Report
from balloontrace.units import format_count

PERIOD_NS = 39_989
KICKED_AND_DONE = int(BatchFlag.KICK_SEEN | BatchFlag.DONE_SEEN)


def recordings() -> tuple[Recording, Recording, Recording]:
    """A guest's, its host's, and the same with samples."""
    flow = flow_of()
    found = batches(flow)
    return guest_recording(flow), host_recording(found), sampled_recording(found, PERIOD_NS)


def rows(report: Report, stage: str) -> list[tuple[int, int | None]]:
    return [
        (row.total_ns or 0, row.error_ns)
        for operation in report.operations
        for row in operation.stages
        if row.stage == stage
    ]


@pytest.mark.parametrize("stage", ["c", "d"])
def test_estimates_hold_what_tracing_measured(stage: str) -> None:
    guest, host, sampled = recordings()
    exact, estimated = analyse(guest, host), analyse(guest, sampled)
    assert len(estimated.operations) == 2
    for (measured_ns, no_error), (estimate_ns, error_ns) in zip(
        rows(exact, stage), rows(estimated, stage), strict=True
    ):
        assert no_error is None
        assert error_ns is not None
        assert abs(estimate_ns - measured_ns) <= error_ns
        assert error_ns < measured_ns


def blamed(report: Report, operation: int) -> list[str]:
    """Whom the verdict of an operation names, without the share."""
    verdict = report.operations[operation].verdict
    return [each.partition("% of the time ")[2] for each in verdict if each.startswith("host slow")]


@pytest.mark.parametrize("lead_ns", [0, 600_000])
def test_few_samples_blame_the_host_and_none_of_its_stages(lead_ns: int) -> None:
    """The one sample of a buffer is in a call, or before it; the host translates for most of the time."""
    translate_ns = 1_200_000
    times = HostTimes(translate=translate_ns, call=300, spread=0, lead=lead_ns, tail=translate_ns - lead_ns)
    flow = Flow(times=Times(send=1_400_000))
    flow.resize(256)
    flow.now += 3_000_000_000
    flow.resize(100 * 256)
    found = batches(flow, times)
    traced = analyse(guest_recording(flow), host_recording(found))
    sampled = analyse(guest_recording(flow), sampled_recording(found, 1_300_000))
    served = sampled.operations[0].served
    assert served is not None
    assert (served.samples, served.samples_inside) == (1, int(lead_ns == 0))
    assert blamed(traced, 0) == blamed(traced, 1) == ["in the VMM's translation"]
    assert blamed(sampled, 0) == ["in the VMM's translation and madvise"]
    assert blamed(sampled, 1) == blamed(traced, 1)


def test_an_operation_without_a_sample_was_served() -> None:
    flow = Flow(times=Times(send=300_000))
    for pages in (512, 768, 100 * 256):
        flow.resize(pages)
        flow.now += 3_000_000_000
    report = analyse(guest_recording(flow), sampled_recording(batches(flow, HostTimes(spread=0)), 809_000))
    served = [each.served.samples if each.served else None for each in report.operations]
    assert served[1] == 0
    assert None not in served
    assert [each for each in report.not_measured if "apart" in each] == [
        "b, c and d apart of operation 2: no sample came while its buffers were served"
    ]


def test_stages_still_add_up_and_have_no_quantiles_of_calls() -> None:
    guest, _, sampled = recordings()
    for operation in analyse(guest, sampled).operations:
        assert sum(row.total_ns or 0 for row in operation.stages if not row.part_of) == operation.wall_ns
        for row in operation.stages:
            if row.stage in ("c", "d"):
                assert (row.p50_ns, row.p90_ns, row.p99_ns, row.max_ns) == (None,) * 4


def test_huge_pages_that_were_split_are_counted() -> None:
    """By the buffer; not in recordings made before, which have no probe for it."""
    found = batches(flow_of())[:3]
    records = [
        sampled_record(
            kick_ns=each.kick_ns, done_ns=each.done_ns, first_call_ns=each.kick_ns + 1,
            last_return_ns=each.kick_ns + 1, samples=1, samples_1=1, kicked_by=1, tid=4242,
            thp_splits=splits, flags=KICKED_AND_DONE,
        )
        for each, splits in zip(found, (2, 0, 5), strict=True)
    ]  # fmt: skip
    for counts_splits, wanted in ((True, 7), (False, None)):
        recording = sampled_recording(found, PERIOD_NS, b"".join(records), counts_splits=counts_splits)
        host = analyse_host(recording)
        assert host.side.thp_splits == wanted
        exported = [row[BATCH_COLUMNS.index("thp_splits")] for row in batch_rows(host.batches, None)]
        assert exported == ([2, 0, 5] if counts_splits else [None] * 3)


def test_what_was_not_counted_is_not_0() -> None:
    guest, _, sampled = recordings()
    report = analyse(guest, sampled)
    assert report.host is not None
    host = report.host
    assert (host.calls, host.calls_in_batches, host.madvise_bytes, host.fallocate_bytes) == ((), *(None,) * 3)
    assert host.sample_period_ns == PERIOD_NS
    assert any("record --sample" in sentence for sentence in report.not_measured)
    for operation in report.operations:
        assert operation.served is not None
        counted = dataclasses.asdict(operation.served)
        assert counted.pop("buffers") == 100
        assert counted.pop("samples") > counted.pop("samples_inside") > 0
        assert set(counted.values()) == {None}
    assert json.loads(render_json(report))["host"]["calls_in_batches"] is None
    assert ",error_ns" in render_csv(report).splitlines()[0]


def without_sums(recording: bytes) -> bytes:
    pieces = [(kind, payload) for kind, _, payload in split(recording) if kind != b"CNTR"]
    return join([(kind, number, payload) for number, (kind, payload) in enumerate(pieces)], (1, 6))


def test_calls_of_a_host_alone_that_were_not_counted_are_not_0() -> None:
    _, host, sampled = recordings()
    without = read_recording(io.BytesIO(without_sums(host_stream(batches(flow_of())).getvalue())))
    seen = [analyse(each).events_seen for each in (host, sampled, without)]
    assert seen == [200 * 256, None, None]
    assert json.loads(render_json(analyse(sampled)))["events_seen"] is None


@pytest.mark.parametrize(
    ("with_guest", "lost", "fails"), [(False, 2, False), (False, 5, True), (True, 6, False), (True, 9, True)]
)
def test_max_lost_takes_a_share_of_buffers_where_calls_were_not_counted(
    *, with_guest: bool, lost: int, fails: bool, tmp_path: Path
) -> None:
    """Of 200 buffers and those that were lost, and of the guest's 502 calls."""
    flow = flow_of()
    found = batches(flow)
    end = {"losses": {"batches": {"entries": len(found) + lost, "lost": lost}}}
    (tmp_path / "host.bt").write_bytes(sampled_stream(found, PERIOD_NS, end=end).getvalue())
    files = [str(tmp_path / "host.bt")]
    if with_guest:
        ended = {"ended": {"monotonic_ns": flow.now + 2_000_000_000}}
        (tmp_path / "guest.bt").write_bytes(synthetic.recording_bytes(flow, end=ended))
        files.insert(0, str(tmp_path / "guest.bt"))
    with pytest.raises(DataLostError, match=f"{lost} events were lost") if fails else nullcontext():
        report_command.main([*files, "--max-lost", "1%"], standalone_mode=False)


def test_discards_are_shown_where_they_were_counted() -> None:
    flow = flow_of()
    found = batches(flow)
    guest, counted = (
        guest_recording(flow),
        sampled_recording(found, PERIOD_NS, discards_by="kvm_unmap_hva_range"),
    )
    found_by_samples = examine(guest, counted)
    report = found_by_samples.report
    inflate, deflate = report.operations
    assert inflate.served is not None
    assert deflate.served is not None
    assert inflate.pages is not None
    assert (inflate.served.discards, inflate.served.discarded_bytes) == (inflate.pages, inflate.pages * 4096)
    assert (deflate.served.discards, deflate.served.discarded_bytes) == (0, 0)
    assert inflate.served.calls is None
    assert report.host is not None
    assert report.host.discards == inflate.pages
    assert f"{format_count(inflate.pages)} discards of 100 MiB" in render_table(report)
    assert any("counts discards alone" in sentence for sentence in report.not_measured)
    assert found_by_samples.host is not None
    events: list[dict[str, Any]] = [
        dict(zip(BATCH_COLUMNS, row, strict=True))
        for row in batch_rows(found_by_samples.host.batches, found_by_samples.both)
    ]
    assert sum(event["discards"] for event in events) == inflate.pages
    assert sum(event["discarded_bytes"] for event in events) == inflate.pages * 4096


def test_events_have_no_calls_but_samples() -> None:
    guest, _, sampled = recordings()
    examined = examine(guest, sampled)
    assert examined.host is not None
    for row in batch_rows(examined.host.batches, examined.both):
        event = dict(zip(BATCH_COLUMNS, row, strict=True))
        assert (event["calls_ns"], event["madvise_dontneed_calls"], event["errors"]) == (None, None, None)
        assert event["samples"] is not None
        assert event["samples_inside"] is not None
    line = build_timeline(examined)
    names = {each.name for process in line.processes for track in process.tracks for each in track.slices}
    assert "buffer" in names
    assert "calls" not in names


def test_few_samples_still_match_buffers_with_sends() -> None:
    """A look in three buffers: most have no sample inside a call, and no bound by one."""
    flow = flow_of()
    both = examine(guest_recording(flow), sampled_recording(batches(flow), 1_799_989)).both
    assert both is not None
    assert both.pairing.pairs == 200


def records(*fields: dict[str, int]) -> Recording:
    batch = Batch(1_000, 2_000, 500, 1, 0)
    return sampled_recording([batch], PERIOD_NS, b"".join(sampled_record(**each) for each in fields))


def a_batch(start_ns: int, **changes: int) -> dict[str, int]:
    return {"kick_ns": start_ns, "done_ns": start_ns + 900, "flags": KICKED_AND_DONE, "tid": 7, **changes}


def test_a_buffer_that_is_there_twice_is_one() -> None:
    served = a_batch(10_000, samples=2, samples_0=1, first_call_ns=10_100, last_return_ns=10_100)
    other = {**served, "tid": 8}
    host = analyse_host(records(served, other, served))
    assert (len(host.batches), host.batches.damaged) == (2, 1)


def test_what_a_disk_kicks_is_left_out() -> None:
    served = a_batch(10_000, kicked_by=2, samples=2, samples_0=1, first_call_ns=10_100, last_return_ns=10_100)
    silent = a_batch(20_000, kicked_by=2, samples=1)
    of_disk = a_batch(30_000, kicked_by=3, samples=1)
    examined = examine(records(served, silent, of_disk))
    assert examined.host is not None
    assert examined.host.batches.int64("kick_ns").tolist() == [10_000, 20_000]
    assert examined.host.batches.queue.tolist() == [0, 0]
    assert examined.report.host is not None
    assert (examined.report.host.batches, examined.report.host.delimited) == (2, 2)


def test_numbers_of_eventfds_may_be_any() -> None:
    last = 2**32 - 1
    served = a_batch(
        10_000, kicked_by=last, samples=2, samples_0=1, first_call_ns=10_100, last_return_ns=10_100
    )
    silent = a_batch(20_000, kicked_by=last, samples=1)
    host = analyse_host(records(served, silent))
    tracemalloc.start()
    assert host.batches.queue.tolist() == [0, 0]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


IMPOSSIBLE = (
    {"done_ns": 9_000},
    {"samples": 1, "samples_0": 2, "first_call_ns": 10_100, "last_return_ns": 10_100},
    {"samples": 3, "samples_0": 2, "first_call_ns": 10_100, "last_return_ns": 10_050},
    {"samples": 3, "samples_0": 2, "first_call_ns": 10_100, "last_return_ns": 99_000},
    {"samples": 3, "first_call_ns": 10_100, "last_return_ns": 10_100},
    {"samples": 1 << 63},
    {"kick_ns": 1 << 63},
)


@pytest.mark.parametrize("changes", IMPOSSIBLE)
def test_impossible_values_are_left_out_and_counted(changes: dict[str, int]) -> None:
    served = a_batch(10_000, kicked_by=2, samples=2, samples_0=1, first_call_ns=10_100, last_return_ns=10_100)
    report = analyse(records(served, {**a_batch(10_000, kicked_by=2), **changes}))
    assert report.host is not None
    assert report.host.batches == 1
    assert any("could not be decoded" in warning for warning in report.warnings)


def test_a_buffer_found_by_looking_begins_when_the_one_before_was_completed() -> None:
    """Its samples count from then on, too."""
    flow = flow_of()
    found = batches(flow)
    looked = list(range(10, 190, 30))
    pieces = [pack_sampled(found, PERIOD_NS)]
    size = len(pieces[0]) // len(found)
    raw = [bytearray(pieces[0][at : at + size]) for at in range(0, len(pieces[0]), size)]
    for index in looked:
        raw[index][8:16] = bytes(8)  # kick_ns
        raw[index][-2:] = int(BatchFlag.DONE_SEEN).to_bytes(2, "little")
    both = examine(guest_recording(flow), sampled_recording(found, PERIOD_NS, b"".join(raw))).both
    assert both is not None
    sends = both.send_of_batch[looked]
    served_ns = both.times.served_ns[sends]
    assert (served_ns > 0).all()
    assert np.all(served_ns >= [found[index].done_ns - found[index].kick_ns for index in looked])


def test_without_a_sample_inside_a_call_no_buffer_is_a_balloons() -> None:
    flow = Flow()
    flow.resize(256)
    with pytest.raises(RecordingError, match="served no buffer"):
        analyse(guest_recording(flow), sampled_recording(batches(flow), 10**9))


def test_buffers_that_are_left_out_are_not_missing() -> None:
    """A disk's, say: they are in the file, so that --max-lost has nothing against it."""
    flow = Flow()
    flow.resize(256)
    report = analyse(sampled_recording(batches(flow), 10**9))
    assert report.host is not None
    assert report.host.batches == 0
    assert report.spans_missing == 0

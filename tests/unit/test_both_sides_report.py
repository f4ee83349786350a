# SPDX-License-Identifier: GPL-2.0-or-later
"""Both sides together: four stages that add up, and nothing wrong reported as right."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import synthetic
from flows import Times
from patched_flows import PatchedFlow
from people import render_table
from report_checks import assert_adds_up, stage
from synthetic_both import TIMES, flow_of, guest_recording, other_flow, report_of
from synthetic_host import OFFSET_NS, HostTimes, batches, host_recording, pack_batch

from balloontrace.analysis.both_sides import join, window_of
from balloontrace.analysis.make_report import analyse, examine
from balloontrace.errors import RecordingError
from balloontrace.export.event_rows import BATCH_COLUMNS, batch_rows, described_events
from balloontrace.format.vocabulary import Queue
from balloontrace.render.json import render_json
from balloontrace.render.report.csv import render_csv


def test_four_stages_add_up_and_are_what_they_were() -> None:
    flow = flow_of()
    report = report_of(flow, batches(flow))
    assert_adds_up(report)
    for operation, expected in zip(report.operations, flow.expected, strict=True):
        rows = operation.stages
        assert [row.stage for row in rows if row.part_of is None] == ["a", "b", "c", "d", "other"]
        calls_ns = TIMES.call * expected.pages
        assert stage(rows, "a").total_ns == expected.a_ns
        assert stage(rows, "d").total_ns == calls_ns
        assert stage(rows, "c").total_ns == TIMES.translate * expected.sends
        assert stage(rows, "b").total_ns == expected.bcd_ns - calls_ns - TIMES.translate * expected.sends
        assert stage(rows, "c").where == "host user space"
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.pairs == 200
    assert abs(report.host.pairing.clock_offset_ns - OFFSET_NS) <= report.host.pairing.clock_error_ns


def test_what_the_host_did_is_told_by_operation() -> None:
    flow = flow_of()
    for operation, expected in zip(report_of(flow, batches(flow)).operations, flow.expected, strict=True):
        assert operation.served is not None
        assert operation.served.buffers == operation.sends == expected.sends
        assert operation.served.calls == expected.pages
        assert operation.served.madvise_bytes == 4096 * expected.pages
        assert (operation.served.errors, operation.served.fallocate_bytes) == (0, 0)


@pytest.mark.parametrize(("offset_ns", "said"), [(10**9, "ahead by 0.999"), (-(10**8), "behind by 0.100")])
def test_a_clock_that_is_behind_is_not_ahead_by_less_than_nothing(offset_ns: int, said: str) -> None:
    flow = flow_of()
    found = batches(flow, offset_ns=offset_ns)
    started = {"monotonic_ns": found[0].kick_ns - 50_000_000, "realtime_ns": 1_700_000_000_000_000_000}
    shown = " ".join(render_table(report_of(flow, found, changes={"started": started})).split())
    assert f"host's clock {said}" in shown


def test_wall_clocks_that_differ_are_noted() -> None:
    flow = flow_of()
    found = batches(flow)
    started = {"monotonic_ns": found[0].kick_ns - 2_000_000_000, "realtime_ns": 1_800_000_000_000_000_000}
    report = report_of(flow, found, changes={"started": started})
    assert report.host is not None
    assert report.host.pairing is not None
    assert any("wall clocks of both sides differ" in note for note in report.host.pairing.notes)
    assert "of the same time" in " ".join(render_table(report).split())


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (HostTimes(call=5_200, spread=13), "% of the time in madvise"),
        (HostTimes(translate=1_300_000, call=10, spread=13), "% of the time in the VMM's translation"),
        (HostTimes(call=10), "% of the time between guest and host: transport or the guest's own scheduling"),
    ],
)
def test_what_took_most_is_named(times: HostTimes, sentence: str) -> None:
    flow = flow_of()
    operation = report_of(flow, batches(flow, times)).operations[0]
    (named,) = [each for each in operation.verdict if "of the time" in each]
    assert named.endswith(sentence)


def test_building_is_not_on_the_way() -> None:
    flow = PatchedFlow(sends_of_windows=(40, 40), times=Times(send=1_500_000, pass_=200_000_000))
    flow.resize(1 << 18)
    found = [replace(batch, pages=1000) for batch in batches(flow)]
    sentence = report_of(flow, found).operations[0].verdict[0]
    assert sentence.startswith("guest slow")
    assert sentence.endswith("building bitmaps and records")


def test_the_two_ways_add_up_to_b() -> None:
    flow = flow_of()
    for operation in report_of(flow, batches(flow)).operations:
        ways = [stage(operation.stages, name).total_ns for name in ("b.to_host", "b.back")]
        assert None not in ways
        assert sum(way or 0 for way in ways) == stage(operation.stages, "b").total_ns


def test_clocks_not_known_well_leave_the_ways_empty() -> None:
    flow = flow_of()
    # Where each send takes as long on its way, that may be all on the way to the host, or all on the way
    # back.
    report = report_of(flow, batches(flow, HostTimes(spread=0)))
    for operation in report.operations:
        assert stage(operation.stages, "b.to_host").total_ns is None
        assert stage(operation.stages, "b").total_ns is not None
    assert any("clocks are known to" in sentence for sentence in report.not_measured)


def test_the_patched_driver_has_its_build_in_b() -> None:
    flow = PatchedFlow(sends_of_windows=(40, 40), times=Times(send=1_500_000))
    flow.resize(1 << 18)
    found = [replace(batch, pages=1000) for batch in batches(flow)]
    report = report_of(flow, found)
    assert_adds_up(report)
    rows = report.operations[0].stages
    assert stage(rows, "b.build").part_of == "b"
    assert stage(rows, "b.build").total_ns == flow.expected[0].build_ns


def test_the_host_that_does_nothing_on_deflate() -> None:
    flow = flow_of()
    found = [batch for batch in batches(flow) if batch.queue == Queue.INFLATE]
    report = report_of(flow, found, ended_ns=batches(flow)[-1].done_ns + 1_000_000_000)
    inflate, deflate = report.operations
    assert stage(inflate.stages, "d").total_ns is not None
    assert [row.stage for row in deflate.stages if row.part_of is None] == ["a", "b+c+d", "other"]
    assert any("deflate queue" in note for note in report.host.pairing.notes)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found[:50] + found[51:],
        lambda found: [replace(batch, pages=batch.pages + 1) for batch in found],
        lambda _: batches(other_flow()),
        lambda _: [],
    ],
    ids=["a lost batch", "other pages", "another guest", "nothing"],
)
def test_what_does_not_belong_together_is_refused(spoil: object) -> None:
    flow = flow_of()
    with pytest.raises(RecordingError):
        report_of(flow, spoil(batches(flow)))  # type: ignore[operator]


def test_lost_batches_are_the_reason_given() -> None:
    flow = flow_of()
    found = batches(flow)
    host = host_recording(found[:50] + found[61:])
    assert host.end is not None
    losses = {"batches": {"entries": 200, "lost": 11}}
    with pytest.raises(RecordingError, match="11 buffers that the host served were lost"):
        analyse(guest_recording(flow), replace(host, end={**host.end, "losses": losses}))


def test_two_of_one_side_are_refused() -> None:
    flow = flow_of(1)
    with pytest.raises(RecordingError, match="both recordings are of a guest"):
        analyse(guest_recording(flow), guest_recording(flow))
    host = host_recording(batches(flow))
    with pytest.raises(RecordingError, match="both recordings are of a host"):
        analyse(host, host)


def test_the_order_of_the_sides_does_not_matter() -> None:
    flow = flow_of()
    guest, host = guest_recording(flow), host_recording(batches(flow))
    assert analyse(guest, host) == analyse(host, guest)


def test_the_host_alone() -> None:
    flow = flow_of()
    report = analyse(host_recording(batches(flow)))
    text = render_table(report)
    assert "200 buffers served" in text
    assert "No operation" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert report.host is not None
    assert {calls.call: calls.calls for calls in report.host.calls} == {
        "madvise_dontneed": 25600,
        "madvise_willneed": 25600,
    }
    assert json.loads(render_json(report))["host"]["batches"] == 200
    assert render_csv(report).startswith("level,")


def test_both_in_every_format() -> None:
    flow = flow_of()
    report = report_of(flow, batches(flow))
    text = render_table(report)
    assert "200 pairs of 200 sends" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "host kernel" in render_csv(report)


def test_what_the_host_did_not_count_is_no_zero() -> None:
    flow = flow_of()
    found = batches(flow)
    whole = analyse(host_recording(found)).host
    assert whole is not None
    assert (whole.thp_splits, whole.events_lost) == (0, 0)
    probes = [{"function": "split_huge_pmd", "symbol": "__split_huge_pmd", "status": "not found"}]
    recording = host_recording(
        found,
        raw=b"".join(pack_batch(batch, flags=0) for batch in found),
        changes={"probes": probes},
    )
    assert recording.end is not None
    end = {name: value for name, value in recording.end.items() if name != "losses"}
    report = analyse(replace(recording, end=end))
    side = report.host
    assert side is not None
    assert (side.delimited, side.served_ns, side.calls_ns) == (0, None, None)
    assert (side.thp_splits, side.events_lost, report.events_lost) == (None, None, None)
    assert json.loads(render_json(report))["host"]["thp_splits"] is None
    shown = " ".join(render_table(report).split())
    assert "- huge pages split; lost: not known" in shown
    assert "from kick to completion" not in shown


def test_splits_that_were_not_counted_are_not_of_an_operation() -> None:
    flow = flow_of()
    examined = examine(guest_recording(flow), host_recording(batches(flow)))
    guest, host = examined.guest, examined.host
    assert guest is not None
    assert host is not None
    windows = (window_of(examined.report.header, flow.now, 0), window_of(host.header, None, flow.now * 99))
    told = guest.spans, guest.operations, guest.carried.pages_of_sends
    for counted, splits in ((True, 0), (False, None)):
        served_by = replace(host.batches, splits_counted=counted)
        both = join(*told, served_by, windows, host.guest_memory)
        assert [served.thp_splits for served in both.served if served] == [splits, splits]
        column = BATCH_COLUMNS.index("thp_splits")
        assert {row[column] for row in batch_rows(served_by, both)} == {splits}


def test_files_of_the_same_name_are_all_shown() -> None:
    found = batches(flow_of())
    name = "/memfd:memory-backend-memfd (deleted)"

    def memory(*sizes: int) -> dict[str, object]:
        return {"shared_files": [{"name": name, "allocated_bytes": size} for size in sizes]}

    recording = host_recording(found, changes={"memory": memory(4 << 30, 2 << 30)})
    assert recording.end is not None
    side = analyse(replace(recording, end={**recording.end, "memory": memory(1 << 30, 2 << 30)})).host
    assert side is not None
    assert [(each.what, each.before_bytes, each.after_bytes) for each in side.memory] == [
        (f"file {name}", 4 << 30, 1 << 30),
        (f"file {name} #2", 2 << 30, 2 << 30),
    ]


@pytest.mark.parametrize("cut_side", ["guest", "host", None])
def test_a_side_that_was_cut_makes_the_whole_incomplete(cut_side: str | None) -> None:
    flow = flow_of()
    guest, host = guest_recording(flow), host_recording(batches(flow))
    guest = replace(guest, end=None) if cut_side == "guest" else guest
    host = replace(host, end=None) if cut_side == "host" else host
    examined = examine(guest, host)
    report = examined.report
    assert report.complete is (cut_side is None)
    last = [*described_events(examined)][-1]
    assert last["complete"] is report.complete
    assert report.host is not None
    assert report.host.complete is (cut_side != "host")
    title = render_table(report).splitlines()[0]
    assert title.endswith(", INCOMPLETE") is (cut_side is not None)


def test_a_host_s_buffers_may_be_reports_of_free_pages() -> None:
    flow = flow_of()
    device = {"name": "virtio0", "index": 0, "features": ["REPORTING"], "feature_bits": [5]}
    guest = synthetic.recording(flow, changes={"devices": [device]})
    told = analyse(guest, host_recording(batches(flow))).not_measured
    assert [each.partition(":")[0] for each in told if "free page" in each] == [
        "free page reporting",
        "reports of free pages on the host",
    ]


def test_one_pair_matches_by_its_name_and_says_so() -> None:
    flow = flow_of(1)
    guest, host = guest_recording(flow), host_recording(batches(flow))
    monotonic_ns = batches(flow)[0].kick_ns - 2_000_000_000
    started = {"monotonic_ns": monotonic_ns, "realtime_ns": 1_800_000_000_000_000_000}
    named = [
        replace(each, metadata={**each.metadata, **more, "pair": "first"})
        for each, more in ((guest, {}), (host, {"started": started}))
    ]
    report = analyse(*named)
    assert report.header.pair == "first"
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.pairs == 2
    assert any("made with the same name of --pair" in note for note in report.host.pairing.notes)
    other = replace(named[1], metadata={**named[1].metadata, "pair": "second"})
    with pytest.raises(RecordingError, match="different names of record --pair"):
        analyse(named[0], other)
    # `--pair "$NAME"` of a name that was never set proves nothing.
    nameless = [replace(each, metadata={**each.metadata, "pair": " "}) for each in named]
    with pytest.raises(RecordingError, match="too few to be matched by their times alone"):
        analyse(*nameless)

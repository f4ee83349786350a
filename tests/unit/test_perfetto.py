# SPDX-License-Identifier: GPL-2.0-or-later
"""The time line, read as trace_processor reads it: sorted by time, a stack for each thread."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import collection
import numpy as np
import pytest
import synthetic
from click.testing import CliRunner
from collection import NAMES, ROOT
from flows import Flow, Times, typical_flow
from patched_flows import PatchedFlow
from synthetic_both import sides
from synthetic_host import OFFSET_NS, Batch, batches, host_recording, pack_batch

from balloontrace.analysis.columns import Spans
from balloontrace.analysis.make_report import Examined, examine
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.commands.export import export
from balloontrace.errors import RecordingError
from balloontrace.export.make_time_line import build_timeline
from balloontrace.export.tracks import lanes as make_lanes
from balloontrace.format.vocabulary import Function, Queue
from balloontrace.render.export.perfetto import render_perfetto

SENDS = {"tell_host", "send_resp_data"}
NOT_SPANS = {"buffer", "calls", "inflate", "deflate"}


@dataclass
class Slice:
    name: str
    track: tuple[int, int]
    start_ns: int
    args: dict[str, Any]
    parent: Slice | None
    end_ns: int = -1

    @property
    def path(self) -> tuple[str, ...]:
        return (*(self.parent.path if self.parent else ()), self.name)


@dataclass
class Read:
    """What a reader of the file knows."""

    slices: list[Slice] = field(default_factory=list)
    instants: list[tuple[str, int]] = field(default_factory=list)
    counters: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    flows: list[tuple[Slice, Slice]] = field(default_factory=list)
    processes: dict[int, str] = field(default_factory=dict)
    tracks: dict[tuple[int, int], str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def nanoseconds(event: dict[str, Any]) -> int:
    """As trace_processor has it: the product cut off."""
    assert event["ts"] >= 0
    return int(event["ts"] * 1000)


def read(text: str) -> Read:
    """Read the file, holding it to all rules of the format."""
    whole = json.loads(text)
    assert list(whole) == ["traceEvents", "otherData"]
    found = Read(about=whole["otherData"])
    stacks: dict[tuple[int, int], list[Slice]] = {}
    arrows: dict[int, Slice] = {}
    events = whole["traceEvents"]
    for event in (event for event in events if event["ph"] == "M"):
        if event["name"] == "process_name":
            assert event["pid"] not in found.processes
            found.processes[event["pid"]] = event["args"]["name"]
        elif event["name"] == "thread_name":
            # A name is looked up by the thread's number alone.
            assert event["tid"] not in {tid for _, tid in found.tracks} | set(found.processes)
            found.tracks[event["pid"], event["tid"]] = event["args"]["name"]
    timed = [event for event in events if event["ph"] != "M"]
    for event in sorted(timed, key=nanoseconds):
        at_ns, track = nanoseconds(event), (event["pid"], event["tid"])
        assert track in found.tracks
        assert event["pid"] in found.processes
        stack = stacks.setdefault(track, [])
        match event["ph"]:
            case "B":
                parent = stack[-1] if stack else None
                stack.append(Slice(event["name"], track, at_ns, event.get("args", {}), parent))
            case "E":
                stack[-1].end_ns = at_ns
                found.slices.append(stack.pop())
            case "i":
                assert event["s"] == "t"
                found.instants.append((event["name"], at_ns))
            case "C":
                ((unit, value),) = event["args"].items()
                found.counters.setdefault(f"{event['name']} {unit}", []).append((at_ns, value))
            case "s":
                assert event["id"] not in arrows
                assert stack[-1].start_ns <= at_ns
                arrows[event["id"]] = stack[-1]
            case "f":
                assert event["bp"] == "e"
                found.flows.append((arrows.pop(event["id"]), stack[-1]))
            case other:
                pytest.fail(f"nobody expects {other}")
    assert not arrows
    assert not any(stacks.values())
    return found


def rendered(examined: Examined) -> Read:
    return read("".join(render_perfetto(build_timeline(examined))))


@functools.cache
def shown(name: str) -> Read:
    return rendered(collection.examined(name))


def raw_spans(spans: Spans) -> Iterator[tuple[int, str, int, int]]:
    """Thread, function, start and end of each span."""
    names = {int(function): function.symbol for function in Function}
    for tid, function, start_ns, end_ns in zip(
        *(spans.int64(name).tolist() for name in ("tid", "function", "start_ns")),
        spans.end_ns.tolist(),
        strict=True,
    ):
        yield tid, names[function], start_ns, end_ns


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_every_event_is_there_once_and_exact(name: str) -> None:
    examined = collection.examined(name)
    found = shown(name)
    origin_ns = found.about["origin_ns"]
    spans = [] if examined.guest is None else list(raw_spans(examined.guest.spans))
    ran = Counter(
        (tid, function, start_ns, end_ns)
        for tid, function, start_ns, end_ns in spans
        if function != "virtballoon_changed"
    )
    others = [each for each in found.slices if "function" in each.args]
    assert Counter(each.name for each in others) == Counter(
        each.what for each in examined.report.other_operations
    )
    calls = [each for each in found.slices if each.name not in NOT_SPANS and "tid" in each.args]
    assert ran == Counter(
        (each.args["tid"], each.name, each.start_ns + origin_ns, each.end_ns + origin_ns) for each in calls
    )
    moments = {"virtballoon_changed": "configuration change", "virtio_balloon_oom_notify": "out of memory"}
    assert Counter(
        (name, at_ns + origin_ns) for name, at_ns in found.instants if name in moments.values()
    ) == (Counter((moments[function], start_ns) for _, function, start_ns, _ in spans if function in moments))
    served = [each for each in found.slices if each.name == "buffer"]
    assert len(served) == (len(examined.host.batches) if examined.host else 0)
    assert len([each for each in found.slices if each.name == "calls"]) == len(served)
    pairing = examined.report.host.pairing if examined.report.host else None
    assert len(found.flows) == (pairing.pairs if pairing else 0)
    operations = [each for each in found.slices if each.name in ("inflate", "deflate")]
    assert sorted((each.start_ns + origin_ns, each.end_ns - each.start_ns) for each in operations) == sorted(
        (each.started_ns, each.wall_ns) for each in examined.report.operations
    )


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_slices_of_a_track_nest_and_are_of_one_thread(name: str) -> None:
    found = shown(name)
    for each in found.slices:
        assert each.end_ns >= each.start_ns
        if each.parent is not None:
            assert each.parent.start_ns <= each.start_ns
            assert each.end_ns <= each.parent.end_ns
    threads: dict[tuple[int, int], set[int]] = {}
    for each in found.slices:
        if "tid" in each.args:
            threads.setdefault(each.track, set()).add(each.args["tid"])
    assert all(len(of_track) == 1 for of_track in threads.values())


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_was_lost(name: str) -> None:
    report = collection.examined(name).report
    about = shown(name).about
    assert about["events_lost"] == report.events_lost
    assert about["warnings"] == list(report.warnings)
    assert about["header"]["recording"] == report.header.recording
    assert [loss["events_lost"] for loss in about["losses"]] == [loss.events_lost for loss in report.losses]
    assert about["clock"].endswith("of the host" if report.header.side == "host" else "of the guest")
    assert "operations" not in about


def test_calls_are_inside_those_that_made_them() -> None:
    stock = {each.path for each in shown("stock-inflate").slices}
    send = ("update_balloon_size_func", "tell_host")
    parts = {(*send, "until the interrupt"), (*send, "interrupt to running again")}
    assert stock == {("inflate",), send[:1], send, *parts}
    bitmap = {each.path for each in shown("bitmap-inflate").slices}
    assert ("update_balloon_size_func", "set_page_bitmap", "tell_host", "send_resp_data") in bitmap
    flow = Flow(fill_is_symbol=True)
    flow.resize(300)
    assert ("update_balloon_size_func", "fill_balloon", "tell_host") in {
        each.path for each in rendered(examine(synthetic.recording(flow))).slices
    }


@pytest.mark.parametrize("name", ["nested-qemu", "both sides"])
def test_arrows_lead_from_each_send_to_its_buffer(name: str) -> None:
    examined = collection.examined(name)
    found = shown(name)
    assert examined.guest is not None
    assert examined.both is not None
    starts_ns = examined.guest.spans.int64("start_ns")
    for send, buffer in found.flows:
        assert send.name in SENDS
        assert buffer.name == "buffer"
        assert found.processes[send.track[0]].startswith("guest")
        assert found.processes[buffer.track[0]].startswith("host")
        assert starts_ns[buffer.args["send"]] == send.start_ns + found.about["origin_ns"]
        assert send.start_ns <= buffer.start_ns <= send.end_ns
    assert {id(buffer) for _, buffer in found.flows} == {
        id(each) for each in found.slices if each.name == "buffer" and "send" in each.args
    }
    # The guest goes on no earlier than the last call for its buffer returned.
    ends_ns = {
        each.parent.args["send"]: each.end_ns for each in found.slices if each.name == "calls" and each.parent
    }
    assert len(ends_ns) == len(found.flows)
    for send, buffer in found.flows:
        assert ends_ns[buffer.args["send"]] <= send.end_ns + 1


def test_the_host_is_shown_by_the_guest_s_clock() -> None:
    guest, host = sides()
    found = rendered(examine(guest, host))
    error_ns = found.about["host"]["pairing"]["clock_error_ns"]
    assert 0 < error_ns < 500_000
    for each in found.slices:
        if each.name == "buffer":
            seen_ns = each.start_ns + found.about["origin_ns"]
            assert abs(each.args["kick_ns"] - OFFSET_NS - seen_ns) <= error_ns + 1


def test_sides_that_do_not_belong_together_make_no_time_line() -> None:
    guest, _ = sides()
    other = Flow(times=Times(send=1_480_000, allocate=47_000))
    other.resize(50 * 256)
    with pytest.raises(RecordingError):
        examine(guest, host_recording(batches(other)))


def test_a_batch_of_another_thread_has_no_arrow() -> None:
    flow = Flow(times=Times(send=1_500_000))
    flow.resize(100 * 256)
    found_batches = batches(flow)
    own = [
        Batch(batch.kick_ns + 5, batch.done_ns + 5, 10, 1, Queue.INFLATE) for batch in found_batches[:20:7]
    ]
    raw = b"".join(map(pack_batch, found_batches)) + b"".join(pack_batch(batch, tid=9) for batch in own)
    guest, _ = sides(flow)
    found = rendered(examine(guest, host_recording(found_batches, raw=raw)))
    by_thread = Counter(each.args["tid"] for each in found.slices if each.name == "buffer")
    assert by_thread == {4242: 100, 9: 3}
    assert {buffer.args["tid"] for _, buffer in found.flows} == {4242}


def test_counters_of_size_and_rate() -> None:
    flow = Flow()
    inflate = flow.resize(4096)
    flow.now += 1_000_000
    deflate = flow.resize(512)
    found = rendered(examine(synthetic.recording(flow)))
    sizes, rates = found.counters["balloon of virtio0 MiB"], found.counters["rate of virtio0 MiB/s"]
    assert [sizes[0][1], max(value for _, value in sizes), sizes[-1][1]] == [0, 16, 2]
    assert len(sizes) == 2 + inflate.sends + deflate.sends
    # What the rate says, added up over time, is what moved.
    moved = sum(value * (then_ns - at_ns) / 1e9 for (at_ns, value), (then_ns, _) in itertools.pairwise(rates))
    assert moved == pytest.approx((inflate.pages + deflate.pages) / 256)
    assert [value for at_ns, value in rates if at_ns + found.about["origin_ns"] == inflate.end_ns] == [0]


def test_what_was_not_measured_is_no_counter() -> None:
    found = rendered(examine(synthetic.recording(typical_flow(config_traced=False))))
    assert "balloon of virtio0 MiB" not in found.counters
    assert "rate of virtio0 MiB/s" in found.counters
    sends = [each for each in found.slices if each.name == "tell_host"]
    assert not any({"target_pages", "config_ns", "result"} & set(each.args) for each in sends)


def test_calls_that_a_thread_cannot_have_made_are_left_out() -> None:
    flow = Flow()
    flow.resize(2048)
    last = flow.spans[-1]
    flow.spans += [last._replace(start_ns=last.start_ns + later_ns) for later_ns in (1000, 2000)]
    guest = examine(synthetic.recording(flow))
    lanes = {name.partition(", ")[2] for name in rendered(guest).tracks.values() if "thread" in name}
    assert lanes == {""}
    assert "2 records that contradict others" in guest.report.warnings[0]
    assert not guest.report.complete


def test_slices_that_overlap_get_tracks_of_their_own() -> None:
    assert make_lanes([0, 10, 20, 40], [30, 40, 50, 60], "x") == [[0, 3], [1], [2]]
    with pytest.raises(RecordingError, match="overlap: the recording is damaged"):
        make_lanes(range(100), range(1000, 1100), "x")


def test_idle_tasks_are_told_apart_by_their_cpu() -> None:
    flow = Flow(tid=0)
    flow.resize(256)
    (first, *others) = flow.spans
    flow.spans = [first, *(span._replace(cpu=1) for span in others)]
    flow.migrate(tid=0)
    names = set(rendered(examine(synthetic.recording(flow))).tracks.values())
    assert any("idle task of CPU 0" in name for name in names)
    assert any("idle task of CPU 1" in name for name in names)


def test_windows_have_their_sends_inside() -> None:
    flow = PatchedFlow(sends_of_windows=(2, 1, 3))
    flow.resize(1 << 16)
    found = rendered(examine(synthetic.recording(flow)))
    inside = Counter(id(each.parent) for each in found.slices if each.name == "send_resp_data")
    assert sorted(inside.values()) == [1, 2, 3]


def test_the_command_writes_both_sides(tmp_path: Path) -> None:
    out = tmp_path / "timeline.json"
    files = [str(ROOT / "examples" / f"nested-qemu-{side}.bt") for side in ("guest", "host")]
    done = CliRunner().invoke(export, [*files, "--format", "perfetto", "-o", str(out)])
    assert (done.exit_code, done.output) == (0, "")
    found = read(out.read_text())
    assert len(found.flows) == 1024
    assert len(found.processes) == 2
    assert np.count_nonzero([each.name == "tell_host" for each in found.slices]) == 1024
    assert NO_SPAN not in {each.args.get("send") for each in found.slices}


def test_it_is_written_piece_by_piece() -> None:
    pieces = list(render_perfetto(build_timeline(collection.examined("stock-deflate"))))
    assert len(pieces) > 10
    assert max(map(len, pieces)) < sum(map(len, pieces)) / 5

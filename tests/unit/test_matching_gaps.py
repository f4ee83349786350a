# SPDX-License-Identifier: GPL-2.0-or-later
"""Sends and buffers that were lost: what is left is matched as in the whole recordings, or not at all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from command_process import ROOT
from flows import Flow, Times
from matched_calls import both_sides
from other_buffers import MIB, discard
from page_reporting import report_span
from patched_flows import PatchedFlow
from synthetic_both import guest_recording
from synthetic_host import OFFSET_NS, Batch, HostTimes, batches, host_recording, pack_batch

from balloontrace.analysis.make_report import Examined, examine
from balloontrace.analysis.matching_gaps import match_with_gaps
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.errors import RecordingError
from balloontrace.format.guest_layout import parse_span_layout
from balloontrace.format.host_layout import parse_batch_layout
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import Function, Queue
from balloontrace.results.host_side import Pairing

EXAMPLES = ROOT / "examples"
PAIRS = (
    EXAMPLES / "before" / "before-001",
    EXAMPLES / "nested-qemu",
    EXAMPLES / "other-formats-stock",  # with payloads
)
SENDS = (Function.TELL_HOST, Function.SEND_RESP_DATA)
# What is lost, as parts of all sends: at random, and a run of them.
LOST = ("1 %", "5 %", "first", "last", "start", "middle", "end", "last of an operation")

Numbers = frozenset[int]


def chosen(what: str, count: int, seed: int) -> Numbers:
    """Which of so many sends are lost."""
    runs = {
        "first": (0, 1),
        "last": (count - 1, count),
        "start": (0, count // 5),
        "middle": (count * 2 // 5, count * 3 // 5),
        "end": (count * 4 // 5, count),
        "last of an operation": (count // 2 - 1, count // 2),
    }
    if what in runs:
        return frozenset(range(*runs[what]))
    share = int(what.split()[0]) / 100
    return frozenset(random.Random(seed).sample(range(count), max(1, round(count * share))))


def without(pieces: Sequence[memoryview], stride: int, gone: Numbers) -> tuple[memoryview, ...]:
    """Pieces of records of so many bytes without those, counted over all pieces."""
    records = [piece[at : at + stride] for piece in pieces for at in range(0, len(piece), stride)]
    return (memoryview(b"".join(each for place, each in enumerate(records) if place not in gone)),)


def without_sends(recording: Recording, gone: Numbers) -> Recording:
    layout = parse_span_layout(recording.metadata.get("span_layout"))
    (at,) = [offset for name, _, offset in layout.fields if name == "function"]
    functions = [
        piece[start + layout.header_bytes + at]
        for piece in recording.spans
        for start in range(0, len(piece), layout.stride_bytes)
    ]
    # The page-bitmap driver's tell_host has sends inside it.
    kind = Function.SEND_RESP_DATA if Function.SEND_RESP_DATA in functions else Function.TELL_HOST
    sends = [place for place, function in enumerate(functions) if function == kind]
    spans = without(recording.spans, layout.stride_bytes, frozenset(sends[number] for number in gone))
    return replace(recording, spans=spans)


def without_batches(recording: Recording, gone: Numbers) -> Recording:
    layout = parse_batch_layout(recording.metadata.get("batch_layout"))
    return replace(recording, batches=without(recording.batches, layout.stride_bytes, gone))


def pairs_of(examined: Examined) -> dict[int, int]:
    """When each send that was matched began, by when its buffer's first call began."""
    assert examined.guest
    assert examined.host
    assert examined.both
    spans = examined.guest.spans
    send = examined.both.send_of_batch
    rows = np.flatnonzero(send != NO_SPAN)
    rows = rows[np.isin(spans.columns["function"][send[rows]], SENDS)]
    begun_ns = spans.int64("start_ns")[send[rows]].tolist()
    return dict(zip(examined.host.batches.int64("first_call_ns")[rows].tolist(), begun_ns, strict=True))


def pairing_of(examined: Examined) -> Pairing:
    assert examined.report.host
    assert examined.report.host.pairing
    return examined.report.host.pairing


def assert_told(found: Examined, whole: Examined, lost_sends: int, lost_batches: int) -> None:
    """All that can be matched is, rightly; what is not is counted; what is not known is left out."""
    truth, pairs, pairing = pairs_of(whole), pairs_of(found), pairing_of(found)
    assert pairs.items() <= truth.items()
    assert len(pairs) == pairing.pairs
    assert pairing.pairs + pairing.sends_alone <= pairing.sends == len(truth) - lost_sends
    assert pairing.pairs + pairing.batches_alone <= pairing.batches == len(truth) - lost_batches
    told = " ".join(pairing.notes)
    assert ("no buffer" in told) == (pairing.sends_alone > 0)
    assert ("no send" in told) == (pairing.batches_alone > 0)
    for operation in found.report.operations:
        stages = {row.stage: row.total_ns for row in operation.stages if row.part_of is None}
        assert (operation.served is None) == ("b+c+d" in stages)
        if operation.served and all(total_ns is not None for total_ns in stages.values()):
            assert operation.served.buffers == operation.sends
            assert sum(total_ns or 0 for total_ns in stages.values()) == operation.wall_ns


@cache
def recorded(source: Path) -> tuple[Recording, Recording, Examined]:
    guest, host = (read_recording(source.with_name(f"{source.name}-{side}.bt")) for side in ("guest", "host"))
    return guest, host, examine(guest, host)


@pytest.mark.parametrize("what", LOST)
@pytest.mark.parametrize("sides", ["guest", "host", "guest and host"])
@pytest.mark.parametrize("source", PAIRS, ids=lambda source: source.name)
def test_what_is_left_is_matched(source: Path, sides: str, what: str) -> None:
    guest, host, whole = recorded(source)
    count = pairing_of(whole).pairs
    of_guest, of_host = (
        chosen(what, count, seed) if side in sides else frozenset()
        for seed, side in enumerate(("guest", "host"))
    )
    found = examine(without_sends(guest, of_guest), without_batches(host, of_host))
    assert_told(found, whole, len(of_guest), len(of_host))
    assert pairing_of(found).pairs == count - len(of_guest | of_host)


class Uneven(Flow):
    """Sends that take as different times as real ones."""

    def _send(self, queue: Queue, pages: int, *, tid: int) -> int:
        self.times = uneven(self._items)
        return super()._send(queue, pages, tid=tid)


class UnevenPatched(PatchedFlow):
    def _send_records(self, queue: Queue, count: int, *, tid: int) -> int:
        self.times = uneven(len(self.spans))
        self.now += self.times.pass_
        return super()._send_records(queue, count, tid=tid)


def uneven(seed: int) -> Times:
    draw = random.Random(seed)
    return Times(
        send=draw.randrange(1_500_000, 1_700_000),
        allocate=draw.randrange(900_000),
        pass_=draw.randrange(900_000),
    )


SERVES = HostTimes(call=5_200, spread=10)


def flow_of(*, patched: bool) -> Flow:
    flow = UnevenPatched(sends_of_windows=(1,) * 150) if patched else Uneven()
    for pages in (150 * 256, 0):
        flow.resize(pages)
        flow.now += 500_000_000
    return flow


class MadeUp(NamedTuple):
    """A guest's recording, its host's buffers, and those of page reports."""

    guest: Recording
    served: list[Batch]
    reported: list[bytes]

    def host(self, gone: Numbers = frozenset()) -> Recording:
        left = [pack_batch(each) for place, each in enumerate(self.served) if place not in gone]
        return host_recording(self.served, raw=b"".join([*left, *self.reported]))


@cache
def made_up(*, patched: bool, reports: bool) -> tuple[MadeUp, Examined]:
    flow = flow_of(patched=patched)
    served, reported = batches(flow, SERVES), list[bytes]()
    if reports:
        made = [report_span(flow.spans[40 * number].start_ns + 9_000, {10: 3}) for number in range(1, 6)]
        flow.spans += [each._replace(duration_ns=200_000) for each in made]
        reported = [discard(each.start_ns + OFFSET_NS + 40_000, calls=3, size=4 * MIB) for each in made]
    sides = MadeUp(guest_recording(flow), served, reported)
    return sides, examine(sides.guest, sides.host())


@pytest.mark.parametrize("reports", [False, True], ids=["alone", "with reports"])
@pytest.mark.parametrize("patched", [False, True], ids=["stock", "patched"])
@pytest.mark.parametrize("side", ["guest", "host"])
@pytest.mark.parametrize("what", LOST)
def test_either_driver_and_page_reports(what: str, side: str, *, patched: bool, reports: bool) -> None:
    made, whole = made_up(patched=patched, reports=reports)
    gone = chosen(what, len(made.served), 3)
    of_guest, of_host = (gone if side == each else frozenset() for each in ("guest", "host"))
    found = examine(without_sends(made.guest, of_guest), made.host(of_host))
    assert_told(found, whole, len(of_guest), len(of_host))
    assert pairing_of(found).pairs == len(made.served) - len(gone)


@pytest.mark.parametrize("number", range(60))
def test_no_send_is_matched_with_the_buffer_of_another(number: int) -> None:
    """Regular sends and irregular ones, short buffers and long ones, of one guest or of two."""
    draw = random.Random(number)
    count, other = draw.randrange(8, 300), draw.randrange(8, 300)
    times = {
        "jitter_ns": draw.choice([1, 1_000, 20_000, 400_000]),
        "latency_jitter_ns": draw.choice([1, 40_000, 150_000]),
        "to_host_ns": draw.choice([1_000, 20_000, 300_000, 800_000]),
    }
    pages, same = draw.choice([None, 256]), draw.random() < 0.5
    guest, _ = both_sides(count, seed=number, pages=pages, **times)
    _, host = both_sides(count if same else other, seed=number if same else number + 1, pages=pages, **times)
    kept = [
        np.array([draw.random() >= loss for _ in range(len(side))])
        for side in (guest, host)
        for loss in [draw.choice([0, 0.01, 0.05, 0.2])]
    ]
    sends, served = (np.flatnonzero(each) for each in kept)
    try:
        found = match_with_gaps(guest.only(kept[0]), host.only(kept[1]))
    except RecordingError:
        return
    assert same
    assert sends[found.sends].tolist() == served[found.batches].tolist()


def test_few_pairs_prove_nothing() -> None:
    guest, host = both_sides(30)
    with pytest.raises(RecordingError, match="nothing is proved"):
        match_with_gaps(guest.only(np.arange(30) != 17), host)


def test_what_comes_at_equal_intervals_proves_nothing() -> None:
    guest, host = both_sides(300, jitter_ns=1, latency_jitter_ns=1, pages=None)
    kept = np.arange(300) != 150
    with pytest.raises(RecordingError, match="nothing is proved"):
        match_with_gaps(guest.only(kept), host)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole files with impossible records: these are reported and left out, and nothing negative comes out."""

from __future__ import annotations

import functools
import io
import itertools
import random
from typing import Any

import pytest
import synthetic
from flows import Flow, Span, Times, typical_flow
from mutations import change_fields, join, split
from patched_flows import PatchedFlow
from sound_reports import assert_sound
from synthetic_host import batches, host_stream, sampled_stream

from balloontrace.errors import BalloontraceError
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.results.report import Report

pytestmark = pytest.mark.thorough

Fields = dict[str, int]
MUTATIONS = 112


@functools.cache
def originals() -> tuple[tuple[bytes, ...], ...]:
    """Small recordings of everything: drivers, payloads, out of memory, compaction, both sides, samples."""
    flow, patched = Flow(times=Times(send=1_500_000)), PatchedFlow(sends_of_windows=(2, 1))
    for pages in (20 * 256, 0):
        flow.resize(pages)
        flow.now += 3_000_000_000
    patched.resize(4096)
    patched.migrate()
    patched.resize(0)
    eventful = Flow(fill_is_symbol=True)
    eventful.resize(7 * 256, moves={3: 5 * 256})
    eventful.oom()
    eventful.migrate()
    eventful.resize(300)
    eventful.carry(Function.TELL_HOST, bytes(range(64)))
    ended = {"ended": {"monotonic_ns": flow.now + 2_000_000_000}}
    guest = synthetic.recording_bytes(flow, end=ended)
    host, sampled = host_stream(batches(flow)).getvalue(), sampled_stream(batches(flow), 39_989).getvalue()
    alone = [
        synthetic.recording_bytes(each, ended=flag) for each, flag in ((patched, True), (eventful, False))
    ]
    return (guest,), (guest, host), (host,), (guest, sampled), (sampled,), (alone[0],), (alone[1],)


def mutated(number: int) -> tuple[Recording, ...]:
    source, given = random.Random(number), originals()[number % len(originals())]
    files = [join(change_fields(split(data), source), version=(1, 1)) for data in given]
    return tuple(read_recording(io.BytesIO(data)) for data in files)


def test_nothing_negative_comes_out_of_values_that_cannot_be() -> None:
    told, refusals = 0, []
    for number in range(MUTATIONS):
        try:
            report = assert_sound(*mutated(number))
        except BalloontraceError as error:
            refusals.append(str(error))
        except BaseException as error:
            raise AssertionError(f"mutation {number} is not handled") from error
        else:
            told += any("left out" in sentence for sentence in report.warnings)
    assert not [sentence for sentence in refusals if "\n" in sentence]
    assert told
    assert len(refusals) < MUTATIONS // 3


def changed(change: Any) -> Report:
    """The report of a typical flow after a change of its list of spans, each its fields by name."""
    flow = typical_flow()
    spans = [span._asdict() for span in flow.spans]
    change(spans)
    flow.spans = [Span(**span) for span in spans]
    return assert_sound(synthetic.recording(flow))


def work(spans: list[Fields]) -> list[Fields]:
    return [span for span in spans if span["function"] == Function.UPDATE_BALLOON_SIZE_FUNC]


def sends(spans: list[Fields]) -> list[Fields]:
    return [span for span in spans if span["function"] == Function.TELL_HOST]


def longer_config(spans: list[Fields]) -> None:
    work(spans)[3]["config_ns"] = work(spans)[3]["duration_ns"] + 1


def config_beside_sends(spans: list[Fields]) -> None:
    work(spans)[3]["config_ns"] = work(spans)[3]["duration_ns"]


def late_end(spans: list[Fields]) -> None:
    sends(spans)[4]["duration_ns"] = 10**13


def early_start(spans: list[Fields]) -> None:
    sends(spans)[0]["start_ns"] = 2**62 - 1


def sums_beyond(spans: list[Fields]) -> None:
    for span in spans:
        span["duration_ns"] = 2**53 - 1


def past_send(spans: list[Fields]) -> None:
    sends(spans)[4]["duration_ns"] = 2 * work(spans)[4]["duration_ns"]


def overlapping_items(spans: list[Fields]) -> None:
    first, other = work(spans)[4], dict(work(spans)[4])
    other["start_ns"], other["tid"] = first["start_ns"] + 10, 4711
    spans.append(other)


def too_far(spans: list[Fields]) -> None:
    work(spans)[-1]["start_ns"] = 2**61


@pytest.mark.parametrize(
    "change",
    [
        longer_config, config_beside_sends, late_end, early_start, sums_beyond, past_send, overlapping_items,
        too_far,
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_each_kind_of_impossible_value_is_told_and_left_out(change: Any) -> None:
    report = changed(change)
    assert any("left out" in sentence for sentence in report.warnings)
    assert not report.complete


def test_what_is_left_out_costs_nothing_else() -> None:
    whole, spoilt = changed(list), changed(longer_config)
    assert whole.complete
    assert spoilt.spans == whole.spans - 1
    assert [each.work_items for each in spoilt.operations] == [
        each.work_items - (number == 0) for number, each in enumerate(whole.operations)
    ]


def test_metadata_that_cannot_be_is_not_measured() -> None:
    flow = typical_flow()
    end = synthetic.end_record([flow])
    cost = {**dict(end["own_cost"]), "attach_s": -1.5, "cpu_ns": -1}  # type: ignore[call-overload]
    vmstat = dict.fromkeys(("balloon_inflate", "balloon_deflate", "balloon_migrate"), 3)
    devices = [{"name": "virtio0", "index": 0, "feature_bits": [-1, 3, 10**30]}]
    data = synthetic.recording_bytes(
        flow, end={"own_cost": cost, "vmstat": vmstat}, changes={"devices": devices}
    )
    report = assert_sound(read_recording(io.BytesIO(data)))
    assert report.own_cost is not None
    assert (report.own_cost.attach_s, report.own_cost.cpu_ns) == (None, None)
    assert report.header.devices[0].feature_bits == (3,)
    assert all(check.independent is None for check in report.checks if check.name.startswith("balloon_"))


def test_flags_that_say_nothing_measure_nothing() -> None:
    def unflag(spans: list[Fields]) -> None:
        for span in spans:
            span["flags"] &= ~int(SpanFlag.CONFIG)
            span["config_ns"] = 2**64 - 1

    assert not [each for each in itertools.chain(changed(unflag).warnings) if "left out" in each]

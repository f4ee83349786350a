# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver that went away and came back: nothing spans the gap, and the report shows it."""

from __future__ import annotations

import io
import json

import pytest
import synthetic
from flows import Flow, typical_flow
from mutations import join, split
from people import render_table

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import MAX_DRIVER_EVENTS, read_recording
from balloontrace.format.vocabulary import Function
from balloontrace.results.recording_header import DriverGap
from balloontrace.results.report import Report

Event = dict[str, object]


def event(what: str, at_ns: int, seen_ns: int, **more: object) -> Event:
    return {"what": what, "at": {"monotonic_ns": at_ns}, "seen_ns": seen_ns, "devices": ["virtio0"], **more}


def with_events(flow: Flow, *events: object) -> Report:
    """The report of a recording in which these were written down, before the end."""
    pieces = split(synthetic.recording_bytes(flow))
    *rest, (kind, sequence, payload) = pieces
    added = [(b"DRVR", sequence + n, json.dumps(each).encode()) for n, each in enumerate(events)]
    whole = join([*rest, *added, (kind, sequence + len(events), payload)], version=(1, 2))
    return analyse(read_recording(io.BytesIO(whole)))


def interrupted(*, interrupt_lost_in_gap: bool = False) -> tuple[Flow, int, int]:
    """An inflate that the driver's leaving cuts off, unseen, and another of the driver that came back."""
    flow = Flow()
    flow.resize(2000, max_items=3)
    if interrupt_lost_in_gap:
        flow.interrupt(2000)
    gone_ns = flow.now + 1_000_000
    flow.now += 5_000_000_000
    flow.actual = 0  # who emptied it was not seen: its probes had gone too
    back_ns = flow.now - 1_000_000
    flow.resize(1000)
    return flow, gone_ns, back_ns


@pytest.mark.parametrize("interrupt_lost_in_gap", [False, True])
def test_no_operation_spans_the_gap(interrupt_lost_in_gap: bool) -> None:
    flow, gone_ns, back_ns = interrupted(interrupt_lost_in_gap=interrupt_lost_in_gap)
    found = with_events(
        flow, event("gone", gone_ns, gone_ns - 9), event("back", back_ns, gone_ns, reattached=True)
    )
    assert [(each.kind, each.outcome, each.pages) for each in found.operations] == [
        ("inflate", "driver removed", 3 * 256),
        ("inflate", "reached", 1000),
    ]
    first, second = found.operations
    assert first.started_ns + first.wall_ns < gone_ns
    assert second.started_ns > back_ns
    assert (second.actual_before_pages, second.actual_after_pages) == (0, 1000)
    assert found.driver_gaps == (DriverGap(("virtio0",), gone_ns - 9, gone_ns, back_ns, reattached=True),)


def test_without_the_gap_they_would_be_one() -> None:
    flow, _, _ = interrupted()
    assert len(with_events(flow).operations) == 1


def test_an_operation_whose_start_no_probe_saw_is_told_apart() -> None:
    flow, gone_ns, back_ns = interrupted()
    changed = Function.VIRTBALLOON_CHANGED
    flow.spans = [span for span in flow.spans if not (span.function == changed and span.start_ns > gone_ns)]
    assert len(flow.spans) < len(interrupted()[0].spans)
    events = [event("gone", gone_ns, gone_ns), event("back", back_ns, gone_ns, reattached=True)]
    found = with_events(flow, *events).operations
    assert [each.started_before_recording for each in found] == [False, True]


def test_the_report_tells_of_each_gap() -> None:
    flow = Flow()
    flow.resize(512)
    started_ns = 10**12
    second_ns = 1_000_000_000
    told = render_table(
        with_events(
            flow,
            event("gone", started_ns + second_ns, started_ns),
            event("back", started_ns + 2 * second_ns, started_ns, reattached=False),
            event("back", started_ns + 3 * second_ns, started_ns + 2 * second_ns, reattached=False),
            event("gone", started_ns + 4 * second_ns, started_ns + 3 * second_ns),
        )
    )
    text = " ".join(told.split())
    assert "WARNING: virtio0 had no driver from" in text
    assert "probes stayed attached" in text
    assert "virtio0 lost its driver and was bound again before" in text
    assert "it did not come back" in text


@pytest.mark.parametrize(
    "odd",
    [
        {}, {"what": 5}, {"what": "back"}, {"what": "gone", "at": 7}, {"what": "gone", "at": {}},
        {"what": "gone", "at": {"monotonic_ns": -1}}, {"what": "back", "at": {"monotonic_ns": 1 << 70}},
    ],
)  # fmt: skip
def test_events_that_say_nothing_are_no_gap(odd: Event) -> None:
    assert with_events(typical_flow(), odd).driver_gaps == ()


def test_a_stranger_may_write_as_many_as_he_likes() -> None:
    events = [event("back", 5, 4)] * (MAX_DRIVER_EVENTS + 10)
    assert len(with_events(typical_flow(), *events).driver_gaps) == MAX_DRIVER_EVENTS

# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest and its host, recorded at the same time."""

from __future__ import annotations

from dataclasses import replace

import synthetic
from flows import Flow, Times
from synthetic_host import Batch, HostTimes, batches, host_recording

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import Recording
from balloontrace.results.report import Report

MIB_PAGES = 256
TIMES = HostTimes()


def flow_of(mib: int = 100, running_ns: int | None = None) -> Flow:
    """An inflate and a deflate, with sends long enough for what the host does."""
    flow = Flow(times=Times(send=1_500_000, running=running_ns))
    flow.resize(mib * MIB_PAGES)
    flow.now += 3_000_000_000
    flow.resize(0)
    return flow


def other_flow() -> Flow:
    flow = Flow(times=Times(send=1_480_000, allocate=47_000))
    flow.resize(100 * MIB_PAGES)
    flow.now += 2_000_000_000
    flow.resize(0)
    return flow


def guest_recording(flow: Flow) -> Recording:
    ended_ns = flow.now + 2_000_000_000
    recording = synthetic.recording(flow)
    assert recording.end is not None
    end = {**recording.end, "ended": {"monotonic_ns": ended_ns}}
    return replace(recording, end=end)


def sides(flow: Flow | None = None) -> tuple[Recording, Recording]:
    """A guest and its host, whose clocks differ by `synthetic_host.OFFSET_NS`."""
    flow = flow or flow_of()
    return guest_recording(flow), host_recording(batches(flow))


def report_of(flow: Flow, found: list[Batch], **changes: object) -> Report:
    return analyse(guest_recording(flow), host_recording(found, **changes))

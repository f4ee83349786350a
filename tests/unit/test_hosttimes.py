# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host shows of each send: kick and completion count as seen, unless proved otherwise."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from flows import Flow, Times
from hypothesis import given, settings
from hypothesis import strategies as st
from report_checks import assert_adds_up, stage
from synthetic_both import guest_recording
from synthetic_host import OFFSET_NS, REALTIME_NS, Batch, HostTimes, batches, host_recording

from balloontrace.analysis.clocks import MAX_DRIFT, fit_clock
from balloontrace.analysis.make_report import analyse, examine
from balloontrace.analysis.send_series import NOT_SERVED
from balloontrace.format.vocabulary import Function

S = 1_000_000_000
WAY_NS = 20_000
CALLS_NS = 700 * 256


def flow_of(sends: int, lead_ns: int) -> tuple[Flow, list[Batch]]:
    """An inflate whose sends spend `WAY_NS` each way, and `lead_ns` before the first call: their c."""
    flow = Flow(times=Times(send=2 * WAY_NS + lead_ns + CALLS_NS))
    flow.resize(256 * sends)
    times = HostTimes(to_host=WAY_NS, translate=lead_ns, call=700, spread=0, lead=lead_ns, tail=0)
    return flow, batches(flow, times)


@pytest.mark.parametrize(("sends", "lead_ns"), [(1000, 200_000), (1, 200_000_000)])
def test_what_passes_before_the_first_call_is_c(sends: int, lead_ns: int) -> None:
    flow, found = flow_of(sends, lead_ns)
    report = analyse(guest_recording(flow), host_recording(found))
    assert_adds_up(report)
    (operation,) = report.operations
    assert stage(operation.stages, "c").total_ns == 200_000_000
    assert stage(operation.stages, "d").total_ns == CALLS_NS * sends
    assert report.host is not None
    assert report.host.served_ns == 200_000_000 + CALLS_NS * sends


def test_ways_are_not_told_where_the_clocks_are_not_known() -> None:
    flow, found = flow_of(1000, 200_000)
    (operation,) = analyse(guest_recording(flow), host_recording(found)).operations
    assert stage(operation.stages, "b.to_host").total_ns is None
    assert stage(operation.stages, "b.back").total_ns is None
    assert 0 < (stage(operation.stages, "b").total_ns or 0) < 1000 * (2 * WAY_NS + 1000)


def in_host_clock(guest_ns: int, offset_ns: int, drift: float) -> int:
    return guest_ns + offset_ns + round(drift * (guest_ns - S))


@pytest.mark.thorough
@settings(max_examples=30, deadline=None)
@given(
    sends=st.integers(70, 120),
    times=st.builds(
        HostTimes,
        to_host=st.integers(0, 300_000),
        translate=st.integers(10_000, 400_000),
        call=st.integers(1, 2_000),
        spread=st.sampled_from([0, 1, 20]),
        lead=st.integers(0, 9_000),
        tail=st.just(0),
    ),
    back_ns=st.integers(2, 300_000),
    lead_of_all=st.booleans(),
    offset_ns=st.integers(2 * S, 10**6 * S),
    drift=st.floats(-MAX_DRIFT * 0.9, MAX_DRIFT * 0.9),
    early=st.integers(0, 9),
    late=st.integers(0, 9),
)
def test_c_is_never_less_than_what_is_proved(
    *,
    sends: int,
    times: HostTimes,
    back_ns: int,
    lead_of_all: bool,
    offset_ns: int,
    drift: float,
    early: int,
    late: int,
) -> None:
    if lead_of_all:
        times = replace(times, lead=times.translate - 5_000)
    longest_ns = times.to_host + times.spread * 7919 + times.translate + times.call * 256
    flow = Flow(times=Times(send=longest_ns + back_ns))
    flow.resize(256 * sends)
    found, served_ns = [], []
    starts = [span.start_ns for span in flow.spans if span.function == Function.TELL_HOST]
    for number, batch in enumerate(batches(flow, times, offset_ns=0)):
        start_ns = starts[number]
        # A tenth of the kicks were for the buffer before, a tenth of the interrupts came too late.
        kick_ns = start_ns - 300 if number % 10 == early else batch.kick_ns
        done_ns = batch.done_ns + back_ns + 2_000_000 if number % 10 == late else batch.done_ns
        ends = [in_host_clock(at, offset_ns, drift) for at in (kick_ns, batch.kick_ns + times.lead)]
        last_ns, shown_ns = (in_host_clock(at, offset_ns, drift) for at in (batch.done_ns, done_ns))
        found.append(
            replace(
                batch,
                kick_ns=ends[0],
                done_ns=shown_ns,
                lead_ns=ends[1] - ends[0],
                tail_ns=shown_ns - last_ns,
            )
        )
        # At least this: from the kick or the send, until the completion or the return.
        seen_ns = max(kick_ns, start_ns)
        served_ns.append(min(done_ns, start_ns + longest_ns + back_ns) - seen_ns)
    started_ns = found[0].kick_ns - S
    realtime_ns = REALTIME_NS - 900_000_000 + started_ns - offset_ns
    started = {"monotonic_ns": started_ns, "realtime_ns": realtime_ns}
    host = host_recording(found, started_ns=started_ns, changes={"started": started})
    examined = examine(guest_recording(flow), host)
    assert_adds_up(examined.report)
    assert examined.both is not None
    told = examined.both.times
    which = told.served_ns != NOT_SERVED
    assert int(which.sum()) == sends
    assert np.all(told.served_ns[which] >= np.array(served_ns) * (1 - MAX_DRIFT) - 3)
    assert np.all(told.calls_ns[which] <= told.served_ns[which])
    for row in examined.report.operations[0].stages:
        assert (row.total_ns or 0) >= 0


@given(
    st.lists(st.tuples(st.integers(0, 100 * S), st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1),
    st.floats(-MAX_DRIFT, MAX_DRIFT),
    st.lists(st.floats(-MAX_DRIFT, MAX_DRIFT), min_size=1, max_size=9),
)
def test_bounds_hold_for_every_line_between_them(
    points: list[tuple[int, int, int]], drift: float, others: list[float]
) -> None:
    times, below, above = (np.array(column) for column in zip(*sorted(points), strict=True))
    true_ns = OFFSET_NS + np.round(drift * times).astype(np.int64)
    lows, highs = true_ns - below - 1, true_ns + above + 1
    clock = fit_clock(times, lows, highs)
    assert clock is not None
    asked = np.append(times, [-S, 200 * S])
    low_ns, high_ns = clock.bounds.low_ns(asked), clock.bounds.high_ns(asked)
    for other in (drift, clock.drift, *others):
        # The lowest and the highest line of this drift that is possible at all.
        least, most = (lows - other * times).max(), (highs - other * times).min()
        for offset in (least, most) if least <= most else ():
            line_ns = offset + other * asked
            assert np.all(low_ns <= line_ns + 1)
            assert np.all(line_ns <= high_ns + 1)
    assert np.all(low_ns[: len(times)] >= lows - 1)
    assert np.all(high_ns[: len(times)] <= highs + 1)


def test_a_bound_of_many_points_is_exact() -> None:
    random = np.random.default_rng(3)
    times = np.cumsum(random.integers(1, 2_000_000, 100_000))
    lows, highs = -random.integers(1, 10**6, 100_000), random.integers(1, 10**6, 100_000)
    whole = fit_clock(times, lows, highs)
    assert whole is not None
    for at, drift in itertools.product((0, 50_000, 99_999), (-1e-9, 0.0, 1e-9)):
        least, most = (lows - drift * times).max(), (highs - drift * times).min()
        if least <= most:
            when = times[at : at + 1]
            assert whole.bounds.low_ns(when)[0] <= least + drift * when[0]
            assert whole.bounds.high_ns(when)[0] >= most + drift * when[0]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which buffer is which send: found where it can be proved, refused where it cannot, and never wrong."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matched_calls import OFFSET_NS, REALTIME_NS, S, both_sides, on_another_day

from balloontrace.analysis.clocks import MAX_DRIFT, Clock, fit_clock
from balloontrace.analysis.matching import match
from balloontrace.analysis.matching_calls import UNKNOWN_QUEUE, Calls, Window
from balloontrace.errors import RecordingError

DEFLATE = 1


def part(calls: Calls, first: int, end: int) -> Calls:
    """What a recording would hold that was made between two of the calls."""
    which = np.zeros(len(calls), dtype=np.bool_)
    which[first:end] = True
    before = calls.window.start_ns if first == 0 else int(calls.start_ns[first]) - 1
    after = calls.window.end_ns if end >= len(calls) else int(calls.start_ns[end]) - 1
    return replace(calls.only(which), window=replace(calls.window, start_ns=before, end_ns=after))


def refusal(guest: Calls, host: Calls) -> str:
    with pytest.raises(RecordingError) as caught:
        match(guest, host)
    return str(caught.value)


def test_the_same_operation_on_both_sides() -> None:
    guest, host = both_sides(500)
    found = match(guest, host)
    assert found.sends.tolist() == found.batches.tolist() == list(range(500))
    assert abs(found.clock.offset_ns - OFFSET_NS) <= found.clock.error_ns
    assert found.clock.error_ns < 60_000


@pytest.mark.parametrize("drift", [0.0, 20e-6, -400e-6])
def test_clocks_may_drift(drift: float) -> None:
    guest, host = both_sides(20_000, drift=drift)
    clock = match(guest, host).clock
    truth = OFFSET_NS + drift * (guest.start_ns - 10 * S)
    off_ns = clock.offset_ns - OFFSET_NS + (clock.to_host_ns(guest.start_ns) - clock.offset_ns)
    assert np.abs(off_ns - (truth - OFFSET_NS)).max() <= clock.error_ns + 1
    assert clock.error_ns < 60_000


@pytest.mark.parametrize(("first", "end"), [(0, 300), (7, 500), (100, 400), (1, 499)])
def test_a_recording_of_a_part_is_aligned(first: int, end: int) -> None:
    guest, host = both_sides(500)
    found = match(guest, part(host, first, end))
    assert found.sends.tolist() == list(range(first, end))
    found = match(part(guest, first, end), host)
    assert found.batches.tolist() == list(range(first, end))


def test_both_in_part() -> None:
    guest, host = both_sides(500)
    found = match(part(guest, 0, 400), part(host, 50, 500))
    assert found.sends.tolist() == list(range(50, 400))
    assert found.batches.tolist() == list(range(350))


def test_a_buffer_lost_in_the_middle_is_refused() -> None:
    guest, host = both_sides(500)
    lost = np.ones(500, dtype=np.bool_)
    lost[250] = False
    assert "do not belong together" in refusal(guest, host.only(lost))


def test_another_operation_of_the_same_size_is_refused() -> None:
    guest, _ = both_sides(500, seed=1)
    _, host = both_sides(500, seed=2)
    assert "by no offset of the clocks" in refusal(guest, host)


def test_another_size_is_refused() -> None:
    guest, host = both_sides(500)
    assert "page counts do not agree" in refusal(guest, replace(host, pages=host.pages + 1))


def test_what_times_alone_cannot_tell_is_refused() -> None:
    guest, host = both_sides(300, jitter_ns=1, latency_jitter_ns=1)
    same = np.full(300, 256)
    guest, host = replace(guest, pages=same), replace(host, pages=same)
    assert "ways to align" in refusal(part(guest, 0, 200), part(host, 50, 250))


def test_what_is_as_regular_as_a_clock_needs_wall_clocks_that_agree() -> None:
    guest, host = both_sides(300, jitter_ns=1, latency_jitter_ns=1)
    same = np.full(300, 256)
    guest, host = replace(guest, pages=same), replace(host, pages=same)
    assert len(match(guest, host).sends) == 300
    _, other = both_sides(300, jitter_ns=1, latency_jitter_ns=1, seed=2)
    assert "so regular that their times prove nothing" in refusal(
        guest, on_another_day(replace(other, pages=same))
    )


@pytest.mark.thorough
def test_no_file_keeps_matching_busy() -> None:
    count = 20_000
    guest, host = both_sides(count, jitter_ns=1, latency_jitter_ns=1)
    same = np.full(count, 256)
    # Windows that are shut before they open, so that no call is in any.
    shut = [Window(int(each.start_ns[-1]), int(each.start_ns[0]), REALTIME_NS) for each in (guest, host)]
    late = host.end_ns.copy()
    late[count // 3] += S
    guest = replace(guest, pages=same, window=shut[0])
    host = replace(host, pages=same, end_ns=late, window=shut[1])
    started_s = time.process_time()
    assert "so similar" in refusal(guest, host)
    assert time.process_time() - started_s < 60


@pytest.mark.parametrize("where", [0, 1, 777, 1999])
def test_one_other_number_of_pages_anywhere_is_seen(where: int) -> None:
    guest, host = both_sides(2000)
    pages = host.pages.copy()
    pages[where] += 1
    assert "do not belong together" in refusal(guest, replace(host, pages=pages))


def test_one_send_needs_wall_clocks_that_agree() -> None:
    guest, host = both_sides(1)
    assert match(guest, host).sends.tolist() == [0]
    day_before = REALTIME_NS - OFFSET_NS - 86400 * S
    other_day = replace(host, window=replace(host.window, realtime_offset_ns=day_before))
    assert "wall clocks of the sides differ by 86400 s" in refusal(guest, other_day)
    unknown = replace(host, window=replace(host.window, realtime_offset_ns=None))
    assert "wall clocks of the sides are not both known" in refusal(guest, unknown)


def called(calls: Calls, pair: str | None) -> Calls:
    return replace(calls, window=replace(calls.window, pair=pair))


@pytest.mark.parametrize("count", [1, 3, 60])
def test_few_sends_of_one_pair_need_no_wall_clock(count: int) -> None:
    guest, host = both_sides(count)
    paired = called(guest, "7"), called(on_another_day(host), "7")
    found = match(*paired)
    assert found.sends.tolist() == found.batches.tolist() == list(range(count))
    assert found.is_one_pair
    assert found.wall_clocks_apart_ns == pytest.approx(86400 * S, abs=S)
    assert match(called(guest, "7"), called(host, "7")).wall_clocks_apart_ns is None


@pytest.mark.parametrize("count", [1, 500])
def test_recordings_of_different_pairs_never_match(count: int) -> None:
    guest, host = both_sides(count)
    assert "different names of record --pair" in refusal(called(guest, "7"), called(host, "8"))
    assert len(match(called(guest, "7"), called(host, None)).sends) == count  # as before there were names


@pytest.mark.parametrize("count", [1, 3, 500])
def test_one_pair_with_other_page_counts_is_refused(count: int) -> None:
    guest, host = (called(side, "7") for side in both_sides(count))
    pages = host.pages.copy()
    pages[count // 2] += 1
    assert "page counts do not agree" in refusal(guest, replace(host, pages=pages))


def test_one_pair_whose_times_contradict_each_other_is_refused() -> None:
    guest, host = (called(side, "7") for side in both_sides(3, pages=None))
    longer = replace(host, end_ns=host.end_ns + 10 * S)
    assert "agree by no offset of the clocks" in refusal(guest, longer)


def regular(count: int, extra: int = 0) -> tuple[Calls, Calls]:
    """Both sides of alike calls at alike times, recorded from right before them to right after."""
    guest, host = (
        replace(
            side,
            pages=np.full(count, 256),
            window=replace(side.window, start_ns=int(side.start_ns[0]) - 1, end_ns=int(side.end_ns[-1]) + 1),
        )
        for side in both_sides(count, jitter_ns=1, latency_jitter_ns=1)
    )
    return called(guest, "7"), called(part(host, 0, count - extra), "7")


def test_of_alike_sends_of_one_pair_nothing_is_left_over() -> None:
    found = match(*regular(4))
    assert found.sends.tolist() == found.batches.tolist() == [0, 1, 2, 3]


def test_alike_sends_of_one_pair_that_leave_one_over_prove_nothing() -> None:
    assert "at least 2 ways" in refusal(*regular(4, extra=1))


def test_few_sends_with_a_name_on_one_side_alone_need_wall_clocks() -> None:
    guest, host = both_sides(1)
    problem = refusal(called(guest, "7"), on_another_day(host))
    assert "give both the same record --pair" in problem


def test_many_sends_may_have_another_wall_clock_and_that_is_told() -> None:
    guest, host = both_sides(500)
    assert match(guest, host).wall_clocks_apart_ns is None
    apart_ns = match(guest, on_another_day(host)).wall_clocks_apart_ns
    assert apart_ns == pytest.approx(86400 * S, abs=S)


def test_a_drift_at_its_limit_needs_wall_clocks_that_agree() -> None:
    guest, host = both_sides(20_000, drift=MAX_DRIFT * 1.000_001)
    assert abs(match(guest, host).clock.drift) == pytest.approx(MAX_DRIFT, rel=1e-3)
    problem = refusal(guest, on_another_day(host))
    assert "500 ppm faster" in problem
    assert "differ by 86400 s" in problem


def test_a_queue_the_host_did_nothing_for_is_left_out() -> None:
    guest, host = both_sides(100)
    start_ns = guest.end_ns[-1] + S + np.arange(3) * 1_000_000
    both = Calls(
        np.append(guest.start_ns, start_ns),
        np.append(guest.end_ns, start_ns + 1000),
        np.append(guest.queue, [DEFLATE] * 3),
        np.append(guest.pages, [256] * 3),
        replace(guest.window, end_ns=int(start_ns[-1]) + S),
    )
    found = match(both, host)
    assert found.sends.tolist() == list(range(100))
    assert found.unseen_queues == (DEFLATE,)


def test_a_host_that_cannot_tell_queues_is_matched_by_time() -> None:
    guest, host = both_sides(100)
    found = match(guest, replace(host, queue=np.full(100, UNKNOWN_QUEUE)))
    assert len(found.sends) == 100


def test_a_guest_that_cannot_tell_queues_is_matched_by_time() -> None:
    guest, host = both_sides(100)
    found = match(replace(guest, queue=np.full(100, UNKNOWN_QUEUE)), host)
    assert found.sends.tolist() == found.batches.tolist() == list(range(100))
    assert found.unseen_queues == ()


def test_nothing_on_one_side() -> None:
    guest, host = both_sides(10)
    nothing = np.zeros(10, dtype=np.bool_)
    assert "host served no buffer" in refusal(guest, host.only(nothing))
    assert "guest sent nothing" in refusal(guest.only(nothing), host)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 120),
    seed=st.integers(0, 1000),
    drift=st.floats(-300e-6, 300e-6),
    cuts=st.tuples(*[st.integers(0, 60)] * 4),
    known=st.booleans(),
)
def test_what_is_matched_is_right(
    count: int, seed: int, drift: float, cuts: tuple[int, ...], *, known: bool
) -> None:
    guest, host = both_sides(count, seed=seed, drift=drift, pages=256 if known else None)
    first, end = min(cuts[0], count - 1), max(count - cuts[1], 1)
    first_host, end_host = min(cuts[2], count - 1), max(count - cuts[3], 1)
    try:
        found = match(
            part(guest, first, max(end, first + 1)), part(host, first_host, max(end_host, first_host + 1))
        )
    except RecordingError:
        return
    assert (found.sends + first).tolist() == (found.batches + first_host).tolist()
    assert abs(found.clock.offset_ns - OFFSET_NS) <= found.clock.error_ns + abs(drift) * 60 * S


def test_bounds_without_room_have_no_clock() -> None:
    times = np.arange(4) * S
    assert fit_clock(times, np.array([0, 0, 90, 0]), np.array([50, 50, 150, 150])) is not None
    assert fit_clock(times, np.array([0, 0, S, 0]), np.array([50, 50, 50, 50])) is None


def test_a_bound_is_no_tighter_than_what_it_bounds() -> None:
    clock = fit_clock(np.array([0, S]), np.array([-100, -100]), np.array([100, 100]))
    assert isinstance(clock, Clock)
    assert clock.error_ns >= 100
    assert clock.offset_ns == pytest.approx(0, abs=1)

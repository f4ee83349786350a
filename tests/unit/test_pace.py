# SPDX-License-Identifier: GPL-2.0-or-later
"""When the recorder drains, and when it has the kernel time its programs."""

from __future__ import annotations

from dataclasses import replace

from balloontrace.format.guest_counters import Counters, parse_counters
from balloontrace.format.guest_layout import COUNTERS
from balloontrace.format.host_counters import HostCounters, parse_host_counters
from balloontrace.format.vocabulary import Call, Function
from balloontrace.trace.pace import DrainPace, HostTimingPace, TimingPace

EMPTY = parse_counters(bytes(COUNTERS.size_bytes))
TRACED = frozenset({Function.TELL_HOST, Function.LEAK_BALLOON, Function.VIRTBALLOON_CHANGED})


def called(**calls: int) -> Counters:
    functions = dict(EMPTY.functions)
    for name, count in calls.items():
        function = Function[name.upper()]
        functions[function] = replace(functions[function], entries=count, returns=count)
    return replace(EMPTY, functions=functions)


def test_drains_when_the_balloon_rests() -> None:
    pace = DrainPace()
    assert [pace.is_due(waiting, waiting / 1000, now) for now, waiting in enumerate([0, 10, 10, 0, 0])] == [
        False, False, True, False, False,
    ]  # fmt: skip


def test_drains_before_the_ring_is_full() -> None:
    pace = DrainPace()
    assert not pace.is_due(249, 0.249, 0.0)
    assert pace.is_due(250, 0.25, 0.1)


def test_drains_before_what_waits_is_old() -> None:
    pace = DrainPace()
    due = [pace.is_due(10 + now, 0.01, float(now)) for now in range(6)]
    # Noticed at 0, due at 2; what is left counts anew from 3, due at 5.
    assert due == [False, False, True, False, False, True]


def test_timing_goes_on_while_nothing_is_known() -> None:
    assert TimingPace(TRACED).is_wanted(EMPTY, timing=True)


def test_timing_ends_when_what_is_called_is_known() -> None:
    pace = TimingPace(TRACED)
    assert pace.is_wanted(called(tell_host=1000), timing=True)
    assert not pace.is_wanted(called(tell_host=1100), timing=True)


def test_timing_comes_back_for_what_was_never_timed() -> None:
    pace = TimingPace(TRACED)
    assert not pace.is_wanted(called(tell_host=2000), timing=True)
    # The balloon rests: the next thing to be called may be the other function.
    assert pace.is_wanted(called(tell_host=2000), timing=False)
    assert not pace.is_wanted(called(tell_host=4000, leak_balloon=2000), timing=True)
    assert not pace.is_wanted(called(tell_host=4000, leak_balloon=2000), timing=False)


def test_calls_that_were_not_timed_do_not_count() -> None:
    pace = TimingPace(TRACED)
    assert pace.is_wanted(called(tell_host=2000), timing=False)


def test_what_is_seldom_called_keeps_nothing_on() -> None:
    pace = TimingPace(TRACED)
    pace.is_wanted(called(tell_host=2000, leak_balloon=2000), timing=True)
    assert not pace.is_wanted(called(tell_host=2000, leak_balloon=2000, virtballoon_changed=1), timing=False)


def served(**calls: int) -> HostCounters:
    nothing = parse_host_counters(b"")
    sums = {
        call: replace(each, calls=calls.get(call.name.lower(), 0)) for call, each in nothing.calls.items()
    }
    return replace(nothing, calls=sums)


def test_a_host_is_timed_until_its_calls_are_known_however_late_they_come() -> None:
    pace = HostTimingPace()
    for _ in range(1000):  # wake-ups, each a second
        assert pace.is_wanted(served(), timing=True)
    assert pace.is_wanted(served(madvise_dontneed=1000), timing=True)
    assert not pace.is_wanted(served(madvise_dontneed=1100), timing=True)
    assert not pace.is_wanted(served(madvise_dontneed=1100), timing=False)


def test_a_host_whose_calls_were_timed_while_attaching_is_timed_for_others_alone() -> None:
    pace = HostTimingPace(("madvise",))
    assert not pace.at_start
    assert not pace.is_wanted(served(), timing=False)
    assert not pace.is_wanted(served(madvise_dontneed=10), timing=False)
    assert pace.is_wanted(served(madvise_dontneed=10, fallocate_punch_hole=1), timing=False)


def test_a_host_is_timed_again_for_calls_of_another_kind() -> None:
    pace = HostTimingPace()
    assert not pace.is_wanted(served(madvise_dontneed=2000), timing=True)
    late = {"madvise_dontneed": 2000, "fallocate_punch_hole": 10}
    assert pace.is_wanted(served(**late), timing=False)
    # Rarely called, but called: what a run of it costs is still not known.
    assert pace.is_wanted(served(**late), timing=True)
    assert not pace.is_wanted(served(madvise_dontneed=2000, fallocate_punch_hole=1034), timing=True)


def test_system_calls_that_are_never_made_keep_nothing_on() -> None:
    assert {call.name for call in Call if call.name.startswith("PROCESS")}
    pace = HostTimingPace()
    assert not pace.is_wanted(served(madvise_dontneed=2000), timing=True)

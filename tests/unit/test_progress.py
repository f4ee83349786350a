# SPDX-License-Identifier: GPL-2.0-or-later
"""The line a terminal shows, from two looks at the counters."""

from __future__ import annotations

from balloontrace.console.progress import progress_line
from balloontrace.format.guest_counters import Counters, DeviceState, FunctionCounts, parse_counters
from balloontrace.format.guest_layout import COUNTERS, DEVICES
from balloontrace.format.vocabulary import Function

MIB_PAGES = 256
SECOND_NS = 1_000_000_000
NOTHING = FunctionCounts(0, 0, 0, 0, 0, 0, 0, 0)
NOWHERE = DeviceState(0, 0, 0, 0, False)


def look(
    sent_mib: int, *, work_ns: int = 0, send_ns: int = 0, devices: tuple[DeviceState, ...] = (NOWHERE,)
) -> Counters:
    """Counters after `sent_mib` sends of one MiB, each in a work item of its own."""
    functions = dict.fromkeys(Function, NOTHING)
    functions[Function.UPDATE_BALLOON_SIZE_FUNC] = FunctionCounts(sent_mib, sent_mib, 0, 0, 0, 0, work_ns, 0)
    functions[Function.TELL_HOST] = FunctionCounts(
        sent_mib, sent_mib, 0, 0, 0, 0, send_ns, sent_mib * MIB_PAGES
    )
    return Counters(functions, devices)


def test_before_anything_moved() -> None:
    assert progress_line(look(0), look(0), SECOND_NS) == "waiting for the balloon to move"


def test_position_rate_and_share() -> None:
    device = DeviceState(7168 * MIB_PAGES, 300 * MIB_PAGES, 0, 5, True)
    now = look(300, work_ns=4 * SECOND_NS, send_ns=3 * SECOND_NS, devices=(NOWHERE, device))
    line = progress_line(look(100), now, 2 * SECOND_NS)
    assert line == (
        "balloon 300 MiB, target 7168 MiB, 100 MiB/s, 300 sends; time from sending to going on: 75 %"
    )


def test_a_first_look_and_unknown_positions() -> None:
    line = progress_line(look(3), look(3), 0)
    assert line == "balloon moving, 0 MiB/s, 3 sends; time from sending to going on: -"


def test_of_two_balloons_the_one_that_moved_last() -> None:
    first, second = DeviceState(512, 256, 0, 9, True), DeviceState(1024, 768, 0, 3, True)
    assert "balloon 1 MiB, target 2 MiB" in progress_line(look(0), look(1, devices=(first, second)), 1)


def test_counters_of_zeroes_are_where_everything_starts() -> None:
    raw = bytes(COUNTERS.size_bytes)
    counters = parse_counters(raw)
    assert set(counters.functions.values()) == {NOTHING}
    assert set(counters.devices) == {NOWHERE}
    assert len(counters.devices) == DEVICES
    assert counters.operations == 0

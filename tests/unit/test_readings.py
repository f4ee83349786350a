# SPDX-License-Identifier: GPL-2.0-or-later
"""How the machine stands, read at wake-ups: what is read, which readings are kept, and how they come back."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import synthetic
from flows import Flow

from balloontrace.format.guest_counters import raw_returns
from balloontrace.format.recording import MAX_READINGS, read_recording
from balloontrace.format.recording_writer import RecordingWriter
from balloontrace.format.vocabulary import Function
from balloontrace.system.guest_state import parse_pressure, parse_ticks, read_available, read_guest_state
from balloontrace.system.kernel_log import Killed, OomKills, parse_killed
from balloontrace.trace.readings import Readings


def kept(*activities: int, last: int | None = None, before: int = 1) -> list[object]:
    """Which of some wake-ups, by number, are kept; at the last one the recording ends."""
    written: list[Mapping[str, object]] = []
    readings = Readings(written.append, before)
    for number, activity in enumerate(activities):
        readings.follow(activity)
        readings.take({"number": number})
    if last is not None:
        readings.finish({"number": len(activities)}, last)
    return [reading["number"] for reading in written]


@pytest.mark.parametrize(
    ("activities", "last", "numbers"),
    [
        ((7, 7, 7, 7), 7, []),  # at rest
        ((7, 7, 7, 8, 8, 8, 8), 8, [2, 3, 4]),  # one before, one while it moves, one behind
        ((7, 8, 9, 9, 9, 9, 10, 10), 10, [0, 1, 2, 3, 5, 6, 7]),
        ((7, 7), 8, [1, 2]),  # moved right before the end
        ((7, 8), 8, [0, 1, 2]),
        ((7, 8, 8), 8, [0, 1, 2]),
    ],
)
def test_an_operation_has_a_reading_before_and_one_behind(
    activities: tuple[int, ...], last: int, numbers: list[int]
) -> None:
    assert kept(*activities, last=last) == numbers


def test_where_it_shows_late_that_something_moved_two_readings_from_before_are_kept() -> None:
    assert kept(7, 7, 7, 8, 8, 8, before=2) == [1, 2, 3, 4]
    assert kept(7, 7, 7, 7, before=2) == []


def test_nothing_is_kept_of_a_side_that_reads_nothing() -> None:
    written: list[Mapping[str, object]] = []
    readings = Readings(written.append)
    for activity in range(5):
        readings.follow(activity)
        readings.take({})
    readings.finish({}, 9)
    assert written == []


def recording_with(readings: list[dict[str, object]]) -> bytes:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as stream, os.fdopen(write_end, "wb") as out:
        writer = RecordingWriter(out.fileno())
        writer.write_metadata({"side": "guest"})
        for reading in readings:
            writer.write_reading(reading)
        out.close()
        return stream.read()


def test_readings_come_back_as_they_were_written() -> None:
    readings: list[dict[str, object]] = [{"monotonic_ns": 5, "counts": {"oom_kill": 1}}, {"monotonic_ns": 9}]
    assert list(read_recording(io.BytesIO(recording_with(readings))).readings) == readings


def test_more_readings_than_a_recording_can_need_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "many.bt"
    with path.open("wb") as out:
        writer = RecordingWriter(out.fileno())
        writer.write_metadata({"side": "guest"})
        for number in range(MAX_READINGS + 3):
            writer.write_reading({"monotonic_ns": number})
    recording = read_recording(path)
    assert len(recording.readings) == MAX_READINGS
    assert recording.notes == (f"3 readings of the machine left out, behind {MAX_READINGS}",)


def test_a_guest_s_state_is_read_from_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  100 kB\nMemFree:  5 kB\nMemAvailable:   7 kB\n")
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 1\noom_kill 3\nallocstall_normal 4\npswpin 0\n")
    (tmp_path / "proc/stat").write_text("cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    (tmp_path / "proc/pressure/memory").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=12\n")
    assert read_available(tmp_path) == {"memory_bytes": {"MemAvailable": 7168}}
    state = read_guest_state(tmp_path)
    assert json.loads(json.dumps(state)) == {
        "memory_bytes": {"MemAvailable": 7168, "MemFree": 5120},
        "counts": {"oom_kill": 3, "allocstall_normal": 4, "pswpin": 0},
        "pressure_us": {"memory_some": 12},
        "cpu_ticks": {
            "user": 1, "nice": 2, "system": 3, "idle": 4, "iowait": 5, "irq": 6, "softirq": 7, "steal": 8,
        },
    }  # fmt: skip


def test_a_kernel_that_shows_nothing_leaves_everything_out(tmp_path: Path) -> None:
    assert not any(read_guest_state(tmp_path).values())
    assert read_available(tmp_path) == {}
    assert parse_pressure("") == parse_ticks("intr 5") == {}


@pytest.mark.parametrize(
    ("record", "killed"),
    [
        (
            "3,1009,21600123,-;Out of memory: Killed process 812 (stress) total-vm:5kB, anon-rss:3kB\n",
            Killed(21600123, 812, "stress"),
        ),
        (
            "3,5,77,-,caller=T8;Memory cgroup out of memory: Killed process 9 (a (b) c) total-vm:1kB\n X=x\n",
            Killed(77, 9, "a (b) c"),
        ),
        ("6,5,77,-;Out of memory: nothing was killed\n", None),
        ("6,5,77,-;somebody wrote Killed process 9 (x) total-vm:1kB\n", None),
        ("", None),
    ],
)
def test_who_was_killed_is_in_the_kernel_s_log(record: str, killed: Killed | None) -> None:
    assert parse_killed(record) == killed


def test_a_log_that_cannot_be_read_tells_of_nobody(tmp_path: Path) -> None:
    assert OomKills(tmp_path / "kmsg").read() == []


def test_what_returned_is_compared_without_decoding_all_counts() -> None:
    def counters(**returns: int) -> bytes:
        flow = Flow()
        for symbol, count in returns.items():
            for _ in range(count):
                flow.span(Function[symbol.upper()], flow.now)
        return synthetic.pack_counters(flow.spans)

    moving = (Function.TELL_HOST, Function.LEAK_BALLOON)
    rest = raw_returns(counters(tell_host=3), moving)
    assert raw_returns(counters(tell_host=3, stats_request=7), moving) == rest
    assert raw_returns(counters(tell_host=4), moving) != rest
    assert raw_returns(counters(tell_host=3, leak_balloon=1), moving) != rest

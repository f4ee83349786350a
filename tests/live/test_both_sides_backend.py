# SPDX-License-Identifier: GPL-2.0-or-later
"""Both sides of the patched driver and the lab's own device: both recordings agree with the device's log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pairs import (
    COUNTERS,
    FULL_MIB,
    MOVE_S,
    MOVED_MIB,
    MOVED_PAGES,
    SPLIT,
    booted,
    host_calls,
    read_batches,
    report_both,
    top_stages,
    top_sum_ns,
    touch_memory,
)
from tracing import (
    PAGE_BYTES,
    Recorder,
    assert_sums,
    assert_whole,
    change,
    move,
    outcomes,
    report,
    shell,
    stage,
    start_recording,
)

import lab
from balloontrace.format.vocabulary import Call
from lab.patched_driver import load_patched

CALL_OF_QUEUE = {"inflate": Call.MADVISE_REMOVE, "deflate": Call.MADVISE_WILLNEED}
COUNT_OF_QUEUE = {"inflate": "discards", "deflate": "willneeds"}


@dataclass(frozen=True)
class Course:
    """An inflate and a deflate: what was recorded of them, and what the device wrote down."""

    guest: Path
    host: Path
    longer: Recorder
    device_pid: int
    pages: list[int]
    buffers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def pair() -> Iterator[lab.Nested]:
    with booted(device="backend", page_bitmap=True, dump=True) as both:
        load_patched(both.guest)
        yield both


@pytest.fixture(scope="module")
def course(pair: lab.Nested, tmp_path_factory: pytest.TempPathFactory) -> Course:
    host, guest, device = pair.host, pair.guest, pair.guest.backend
    folder = tmp_path_factory.mktemp("sides")
    touch_memory(guest)
    device_pid = str(pair.vmm_pid)
    in_host, longer = [
        each.wait_attached()
        for each in (
            start_recording(host, "/root/host.bt", "--side", "host", "-p", device_pid),
            start_recording(host, "/root/longer.bt", "-p", device_pid),
        )
    ]
    in_guest = start_recording(guest, "/root/guest.bt", "--capture", "payload").wait_attached()
    before, known = guest.vmstat(), len(device.buffers())
    move(guest, FULL_MIB - MOVED_MIB, MOVE_S)
    move(guest, FULL_MIB, MOVE_S)
    pages = change(before, guest.vmstat(), COUNTERS)
    in_host.end()
    in_guest.end()
    return Course(
        guest=in_guest.pull(folder),
        host=in_host.pull(folder),
        longer=longer,
        device_pid=pair.vmm_pid,
        pages=pages,
        buffers=device.buffers()[known:],
    )


def test_driver_device_and_both_recordings_count_the_same(course: Course) -> None:
    found, alone = report(course.guest), report(course.host)
    assert_whole(found)
    assert outcomes(found) == [("inflate", "reached", MOVED_PAGES), ("deflate", "reached", MOVED_PAGES)]
    assert course.pages == [MOVED_PAGES, MOVED_PAGES]
    host = alone["host"]
    assert (host["complete"], host["events_lost"]) == (True, 0)
    assert host["process"].startswith(f"{course.device_pid} (")
    sends = sum(operation["sends"] for operation in found["operations"])
    assert len(course.buffers) == host["batches"] == sends
    for operation, (queue, call) in zip(found["operations"], CALL_OF_QUEUE.items(), strict=True):
        logged = [each for each in course.buffers if each["queue"] == queue]
        row = host_calls(alone, call)
        assert row["calls"] == sum(each[COUNT_OF_QUEUE[queue]] for each in logged) < MOVED_PAGES
        assert row["calls"] == operation["payload"]["runs_named"]
        assert row["bytes"] == sum(each["pages"] for each in logged) * PAGE_BYTES
        assert row["bytes"] == operation["payload"]["pages_named"] * PAGE_BYTES
        assert operation["sends"] == len(logged)


def test_every_buffer_is_that_of_the_devices_log(course: Course) -> None:
    batches = read_batches(course.host)
    assert len(batches) == len(course.buffers)
    for queue, call in CALL_OF_QUEUE.items():
        expected = [each[COUNT_OF_QUEUE[queue]] if each["queue"] == queue else 0 for each in course.buffers]
        assert batches.calls(call).tolist() == expected
    logged_bytes = [each["pages"] * PAGE_BYTES for each in course.buffers]
    assert batches.int64("madvise_bytes").tolist() == logged_bytes


def test_four_stages_add_up_and_building_is_part_of_b(course: Course) -> None:
    found = report_both(course.guest, course.host)
    assert_sums(found)
    assert all(check["agrees"] for check in found["checks"])
    for operation in found["operations"]:
        assert top_stages(operation) == SPLIT
        assert top_sum_ns(operation) == operation["wall_ns"]
        build, b = stage(operation, "b.build"), stage(operation, "b")
        assert build["part_of"] == "b"
        assert 0 < build["total_ns"] < b["total_ns"]


def test_a_guest_that_powers_off_ends_its_devices_recording(
    pair: lab.Nested, course: Course, tmp_path: Path
) -> None:
    with pytest.raises(lab.VMLost, match="QEMU ended with status 0"):
        pair.guest.run(shell("echo o > /proc/sysrq-trigger; sleep 1000"), timeout_s=600)
    done = course.longer.wait()
    assert done.status == 0, done.describe()
    assert "balloontrace: process exited: " in done.stderr
    recording = course.longer.pull(tmp_path)
    alone = report(recording)
    assert (alone["complete"], alone["ended"], alone["events_lost"]) == (True, "process exited", 0)

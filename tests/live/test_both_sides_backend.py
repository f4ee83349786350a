# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested, the patched driver and the lab's own device: driver, device and both recordings count the same."""

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
    REMOVE,
    SPLIT,
    assert_rss_followed,
    booted,
    counted_madvise,
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
    stage,
    start_recording,
)

import lab
from balloontrace.analysis.metadata import mapping
from balloontrace.analysis.processes import split_processes, vm_name
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Call
from lab.patched_driver import load_patched

CALL_OF_QUEUE = {"inflate": Call.MADVISE_REMOVE, "deflate": Call.MADVISE_WILLNEED}
COUNT_OF_QUEUE = {"inflate": "discards", "deflate": "willneeds"}


@dataclass(frozen=True)
class Course:
    """An inflate and a deflate: what was recorded of them, and what the device wrote down."""

    guest: Path
    host: Path
    of_all: Path
    longer: Recorder
    device_pid: int
    pages: list[int]
    buffers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def pair() -> Iterator[lab.Nested]:
    with booted(device="backend", page_bitmap=True, dump=True) as both:
        load_patched(both.guest)
        yield both


def test_page_bitmaps_on_the_labs_own_device(pair: lab.Nested) -> None:
    host, guest, device = pair.host, pair.guest, pair.guest.backend
    touch_memory(guest)
    before, device_before = guest.vmstat(), device.status()["inflate"]
    before_bytes, known = pair.guest_rss_bytes(), len(device.buffers("inflate"))
    with counted_madvise(host) as calls:
        move(guest, FULL_MIB - MOVED_MIB, MOVE_S)
    status = device.status()
    done = {name: status["inflate"][name] - device_before[name] for name in device_before}
    assert (status["mode"], status["ballooned_pages"]) == ("bitmap", MOVED_PAGES)
    assert change(before, guest.vmstat(), COUNTERS) == [MOVED_PAGES, 0]
    assert (done["pages"] - done["already"], done["refused"], done["errors"]) == (MOVED_PAGES, 0, 0)
    assert calls[pair.vmm_pid, REMOVE] == done["discards"] < MOVED_PAGES
    assert_rss_followed(before_bytes, pair.guest_rss_bytes())
    logged = device.buffers("inflate")[known:]
    assert sum(each["pages"] for each in logged) == done["pages"]
    assert [len(raw) for raw in device.payloads("inflate")[known:]] == [each["bytes"] for each in logged]
    move(guest, FULL_MIB, MOVE_S)
    assert device.status()["ballooned_pages"] == 0


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
    of_all = start_recording(host, "/root/all.bt", "--side", "host", "--all", "-v").wait_attached()
    of_all.process.wait_for(f"tracing {device_pid} (".encode(), 60)
    in_guest = start_recording(guest, "/root/guest.bt", "--capture", "payload").wait_attached()
    before, known = guest.vmstat(), len(device.buffers())
    move(guest, FULL_MIB - MOVED_MIB, MOVE_S)
    move(guest, FULL_MIB, MOVE_S)
    pages = change(before, guest.vmstat(), COUNTERS)
    in_host.end()
    of_all.end()
    in_guest.end()
    return Course(
        guest=in_guest.pull(folder),
        host=in_host.pull(folder),
        of_all=of_all.pull(folder),
        longer=longer,
        device_pid=pair.vmm_pid,
        pages=pages,
        buffers=device.buffers()[known:],
    )


def test_a_recording_of_all_has_the_backend_beside_its_vm(course: Course) -> None:
    """It has no /dev/kvm open, but the memory of its VM mapped; and it is the one that served the guest."""
    parts = split_processes(read_recording(course.of_all))
    processes = {vm_name(part): mapping(part.metadata, "process") for part in parts}
    (vmm,) = (name for name, each in processes.items() if each["backend_of"] is None)
    (backend,) = (name for name in processes if name != vmm)
    assert processes[backend]["pid"] == course.device_pid
    assert processes[backend]["backend_of"] == processes[vmm]["pid"]
    alone, of_all = report(course.host)["host"], report_both(course.guest, course.of_all)["host"]
    assert of_all["process"].startswith(f"{course.device_pid} (")
    counts = [
        [(each["call"], each["calls"], each["bytes"]) for each in side["calls"]] for side in (alone, of_all)
    ]
    assert counts[0] == counts[1]


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


def test_a_qemu_that_is_killed_is_a_guest_lost_and_ends_its_devices_recording(
    pair: lab.Nested, course: Course, tmp_path: Path
) -> None:
    host, guest = pair.host, pair.guest
    sleeper = guest.start(["sleep", "1000"])
    host.run(["kill", "-KILL", str(pair.qemu_pid)], check=True)
    with pytest.raises(lab.VMLost, match="ended by signal 9"):
        sleeper.wait(600)
    with pytest.raises(lab.VMLost):
        guest.run(["true"])
    done = course.longer.wait()
    assert done.status == 0, done.describe()
    assert "balloontrace: process exited: " in done.stderr
    alone = report(course.longer.pull(tmp_path))
    assert (alone["complete"], alone["ended"], alone["events_lost"]) == (True, "process exited", 0)
    assert host.run(["cat", f"/proc/{course.device_pid}/comm"]).status != 0
    host.kill()
    with pytest.raises(lab.VMLost):
        host.run(["true"])

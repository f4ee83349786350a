# SPDX-License-Identifier: GPL-2.0-or-later
"""Discards that come while a balloon moves: of a disk in the balloon's own thread, and page reports.

No disk of QEMU's does the first: its discards are calls of worker threads. That was looked at with raw images
(aio=threads, native and io_uring) and qcow2, discarded, unmapped, resized and snapshotted (QEMU 11.1). So the
lab's device does it, whose only thread serves its queues.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
from memory_use import use_memory
from pairs import MOVE_S, SPLIT, booted, host_calls, read_batches, report_both, top_stages, top_sum_ns
from tracing import ATTACH_S, MIB_PAGES, PAGE_BYTES, Json, assert_whole, move, outcomes, start_recording

import lab
from balloontrace.analysis.make_report import examine
from balloontrace.analysis.page_reports import reported
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Call
from lab.vhost import ExtraTime

GUEST_MIB, MOVED_MIB = 640, 67
DISK, HOLE_BYTES = "/root/disk.img", 1 << 20
# So long does the device hold each buffer, that the disk is discarded between some of them on any machine.
HELD = ExtraTime(per_buffer_ns=20_000_000)
USED_MIB, MOVED_LONG_MIB = 200, 251
# Twice the delay of page reporting (PAGE_REPORTING_DELAY, mm/page_reporting.c).
LONG_INFLATE_S, LONG_INFLATES = 4, 3
CONTROL = "/sys/fs/cgroup"
SLOW_DOWN = f"""set -e
mountpoint -q {CONTROL} || mount -t cgroup2 none {CONTROL}
echo +cpu > {CONTROL}/cgroup.subtree_control
mkdir -p {CONTROL}/slow
echo $1 > {CONTROL}/slow/cgroup.procs
echo $2 100000 > {CONTROL}/slow/cpu.max
"""
REPORTING = {"free-page-reporting": "on"}


def test_a_disk_discarded_by_the_thread_that_serves(tmp_path: Path) -> None:
    with booted(memory_mib=GUEST_MIB, device="backend", backend_args=["--disk", DISK]) as pair:
        guest, tid = pair.guest, pair.vmm_pid
        guest.backend.set_extra_time(HELD)
        in_host = start_recording(
            pair.host, "/root/host.bt", "--side", "host", "-p", str(tid)
        ).wait_attached()
        in_guest = start_recording(guest, "/root/guest.bt").wait_attached()
        for target_mib in (GUEST_MIB - MOVED_MIB, GUEST_MIB):
            move_and_discard(guest, target_mib)
        in_guest.end()
        in_host.end()
        disk = guest.backend.status()["disk"]
        sides = in_guest.pull(tmp_path), in_host.pull(tmp_path)
    found = report_both(*sides)
    assert_whole(found)
    assert_moved(found, MOVED_MIB)
    punched = host_calls(found, Call.FALLOCATE_PUNCH_HOLE)
    assert (punched["calls"], punched["bytes"]) == (disk["discards"], disk["discarded_bytes"])
    (others,) = [each for each in found["host"]["others"] if each["what"] == "file discard"]
    assert (others["tid"], others["file"]) == (tid, DISK)
    assert (others["calls"], others["bytes"]) == (disk["discards"], disk["discarded_bytes"])
    batches = read_batches(sides[1])
    is_hole, is_send = batches.int64("fallocate_bytes") > 0, batches.int64("madvise_bytes") > 0
    assert not (is_hole & is_send).any()
    assert set(batches.int64("tid").tolist()) == {tid}
    # Of the thread's calls some holes are between sends of an inflate.
    inflating_ns = batches.int64("first_call_ns")[is_send & (batches.calls(Call.MADVISE_REMOVE) > 0)]
    holes_ns = batches.int64("first_call_ns")[is_hole]
    between = ((holes_ns > inflating_ns[0]) & (holes_ns < inflating_ns[-1])).sum()
    print(f"{between} of {len(holes_ns)} holes between sends of an inflate")
    assert between >= 2


def move_and_discard(guest: lab.Guest, target_mib: int) -> None:
    """Moves the balloon, and has the disk discarded over and over meanwhile."""
    wanted = (GUEST_MIB - target_mib) * MIB_PAGES

    def is_there() -> bool:
        guest.backend.discard_disk(1, HOLE_BYTES)
        return guest.backend.actual_pages() == wanted

    guest.set_balloon(target_mib=target_mib)
    guest.wait_until(is_there, MOVE_S, what="the balloon")


def test_reports_while_the_balloon_inflates(tmp_path: Path) -> None:
    """What a program or a deflate freed is reported in the midst of an inflate.

    The VM gets half the processor time of before until an inflate takes twice as long as a report is put off.
    A report may yet come just before it or just after: so there are several of them.
    """
    with booted(memory_mib=GUEST_MIB, balloons=[REPORTING]) as pair:
        guest = pair.guest
        in_host = start_recording(
            pair.host, "/root/host.bt", "--side", "host", "-p", str(pair.vmm_pid)
        ).wait_attached()
        in_guest = start_recording(guest, "/root/guest.bt").wait_attached()
        user = use_memory(guest, USED_MIB)
        user.wait_for(b"used", ATTACH_S, stream="stdout")
        guest.set_balloon(target_mib=GUEST_MIB - MOVED_LONG_MIB)
        user.signal(signal.SIGUSR1)
        guest.wait_balloon(timeout_s=MOVE_S)
        moves, inflate_s, quota_us, long_ones = 1, 0.0, 100_000, 0
        while long_ones < LONG_INFLATES:
            if inflate_s < LONG_INFLATE_S:
                quota_us //= 2
                slow_down = ["sh", "-c", SLOW_DOWN, "sh", str(pair.vmm_pid), str(quota_us)]
                pair.host.run(slow_down, timeout_s=60, check=True)
            move(guest, GUEST_MIB, MOVE_S)
            began_s = time.monotonic()
            move(guest, GUEST_MIB - MOVED_LONG_MIB, MOVE_S)
            inflate_s = time.monotonic() - began_s
            long_ones += inflate_s >= LONG_INFLATE_S
            moves += 1
        move(guest, GUEST_MIB, MOVE_S)
        pair.host.run([*slow_down[:-1], "max"], timeout_s=60, check=True)  # its recorder ends at its own pace
        user.kill()
        in_guest.end()
        in_host.end()
        sides = in_guest.pull(tmp_path), in_host.pull(tmp_path)
    found = report_both(*sides)
    assert_whole(found)
    assert_moved(found, MOVED_LONG_MIB, moves)
    of_guest = examine(read_recording(sides[0])).guest
    assert of_guest is not None
    spans = of_guest.spans
    inside = 0
    for inflate in found["operations"][::2]:
        started_ns, wall_ns = inflate["started_ns"], inflate["wall_ns"]
        in_time = (spans.int64("start_ns") > started_ns) & (spans.end_ns < started_ns + wall_ns)
        inside += int(np.count_nonzero(reported(spans) & in_time))
    print(f"{inside} reports inside {moves} inflates, the last of which took {inflate_s:.1f} s")
    assert inside >= 1
    reporting, others = found["page_reporting"], found["host"]["others"]
    matched = [each for each in others if (each["what"], each["told_by"]) == ("page report", "matching")]
    assert sum(each["bytes"] for each in matched) == reporting["pages"] * PAGE_BYTES
    assert sum(each["calls"] for each in matched) == reporting["blocks"]
    advised = sum(each["bytes"] for each in others if each["call"] == "madvise_dontneed")
    inflated = moves * MOVED_LONG_MIB * MIB_PAGES * PAGE_BYTES
    assert host_calls(found, Call.MADVISE_DONTNEED)["bytes"] == inflated + advised


def assert_moved(found: Json, mib: int, moves: int = 1) -> None:
    """So many inflates and deflates of so much, each with four stages and a call for each page."""
    pages = mib * MIB_PAGES
    assert outcomes(found) == [("inflate", "reached", pages), ("deflate", "reached", pages)] * moves
    for operation in found["operations"]:
        assert top_stages(operation) == SPLIT
        assert top_sum_ns(operation) == operation["wall_ns"]
        assert operation["served"]["calls"] == pages

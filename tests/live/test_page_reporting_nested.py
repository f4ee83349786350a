# SPDX-License-Identifier: GPL-2.0-or-later
"""Page reports, a disk that discards, statistics and a balloon that moves at once: each apart, on both sides.

So are its queues, those too whose buffers take no call.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_use import use_memory
from migrating import (
    cancel_migration,
    migrated_bytes,
    record_apart,
    start_migration,
    wait_attached_apart,
    without_folders,
)
from pairs import MOVE_S, SPLIT, booted, host_calls, report_both, top_stages, top_sum_ns
from statistics_queue import ask_for_statistics, asked_for_statistics
from tracing import (
    ATTACH_S,
    MIB_PAGES,
    PAGE_BYTES,
    Json,
    assert_whole,
    move,
    outcomes,
    shell,
    start_recording,
)

import lab
from balloontrace.format.vocabulary import Call

GUEST_MIB, USED_MIB, MOVED_MIB, FILE_MIB = 1536, 900, 61, 31
# Of a migration: while it lasts the guest hints at its free memory.
SLOW_BYTES_PER_S, MIGRATED_BYTES = 4 << 20, 8 << 20
POLLS, TRIES = 3, 3
FIRMWARE_BYTES = 32 << 20
BALLOON = {"free-page-reporting": "on", "free-page-hint": "on", "iothread": "hints"}
HINTING = ("-object", "iothread,id=hints")
# What the guest writes goes to a file that vanishes with QEMU; of what it discards there, holes are made.
DISCARDING = ("-set", "drive.root.discard=unmap")
TRIM = f"head -c {FILE_MIB}M /dev/urandom > /root/file && sync && rm /root/file && sync && fstrim /"


@pytest.fixture(scope="module")
def pair() -> Iterator[lab.Nested]:
    with booted(memory_mib=GUEST_MIB, balloons=[BALLOON], extra_args=(*DISCARDING, *HINTING)) as found:
        yield found


def test_queues_whose_buffers_take_no_call(pair: lab.Nested, tmp_path: Path) -> None:
    """Statistics that are asked for, and hints of a migration that is cancelled.

    Where QEMU hears of a kick late, that is on a busy machine, a queue is not told: then all is done again.
    """
    for _ in range(TRIES):
        found = record_queues(pair, tmp_path)
        queues = {each["queue"]: each for each in found["host"]["queues"]}
        if {"statistics", "hint"} <= set(queues):
            break
    (hinted,) = found["page_hinting"]["operations"]
    print(hinted["pages"], "pages hinted,", found["statistics"])
    assert hinted["pages"] > 0
    assert {queues[name]["told_by"] for name in ("statistics", "hint")} == {"matching"}
    (statistics,) = found["statistics"]
    assert queues["statistics"]["matched"] == statistics["answers"] >= POLLS
    assert 0 < queues["hint"]["matched"] <= queues["hint"]["kicks"]
    told = [each["queue"] for each in found["host"]["queues"] if each["queue"] is not None]
    assert len(set(told)) == len(told)


def record_queues(pair: lab.Nested, folder: Path) -> Json:
    """The report of both sides of an inflate, a deflate, questions for statistics, and a migration."""
    host, guest = pair.host, pair.guest
    in_host = start_recording(
        host, "/root/queues-host.bt", "-f", "--side", "host", "-p", str(pair.vmm_pid)
    ).wait_attached()
    in_guest = record_apart(guest, "queues", "-f")
    wait_attached_apart(guest, "queues")
    move(guest, GUEST_MIB - MOVED_MIB, MOVE_S)
    move(guest, GUEST_MIB, MOVE_S)
    ask_for_statistics(guest, POLLS)
    with without_folders(guest):
        start_migration(guest, SLOW_BYTES_PER_S)
        guest.wait_until(
            lambda: migrated_bytes(guest) >= MIGRATED_BYTES, MOVE_S, what="a migration under way"
        )
        cancel_migration(guest)
    in_guest.end()
    in_host.end()
    return report_both(in_guest.pull(folder), in_host.pull(folder))


def test_each_is_told_apart(pair: lab.Nested, tmp_path: Path) -> None:
    host, guest = pair.host, pair.guest
    in_host = start_recording(
        host, "/root/host.bt", "--side", "host", "-p", str(pair.vmm_pid)
    ).wait_attached()
    in_guest = start_recording(guest, "/root/guest.bt").wait_attached()
    user = use_memory(guest, USED_MIB)
    user.wait_for(b"used", ATTACH_S, stream="stdout")
    used_bytes = pair.guest_rss_bytes()
    with asked_for_statistics(guest):
        user.signal(signal.SIGUSR1)
        user.wait_for(b"freed", ATTACH_S, stream="stdout")
        move(guest, GUEST_MIB - MOVED_MIB, MOVE_S)
        guest.run(shell(TRIM), timeout_s=ATTACH_S, check=True)
        guest.wait_until(
            lambda: pair.guest_rss_bytes() < used_bytes - (USED_MIB // 2 << 20), MOVE_S, what="reports"
        )
        move(guest, GUEST_MIB, MOVE_S)
    user.kill()
    in_guest.end()
    in_host.end()
    sides = in_guest.pull(tmp_path), in_host.pull(tmp_path)
    found = report_both(*sides)
    assert_whole(found)
    assert outcomes(found) == [
        ("inflate", "reached", MOVED_MIB * MIB_PAGES),
        ("deflate", "reached", MOVED_MIB * MIB_PAGES),
    ]
    for operation in found["operations"]:
        assert top_stages(operation) == SPLIT
        assert top_sum_ns(operation) == operation["wall_ns"]
        assert operation["served"]["calls"] == MOVED_MIB * MIB_PAGES
    (statistics,) = found["statistics"]
    assert statistics["answers"] > 0
    reporting, others = found["page_reporting"], found["host"]["others"]
    # Besides what the guest may use, KVM has slots for firmware.
    assert 0 <= found["host"]["guest_memory_bytes"] - (GUEST_MIB << 20) < FIRMWARE_BYTES
    queues = {each["queue"]: each for each in found["host"]["queues"] if each["told_by"] == "matching"}
    assert {name: queues[name]["matched"] for name in ("inflate", "deflate")} == {
        operation["kind"]: operation["sends"] for operation in found["operations"]
    }
    assert 0 < queues["report"]["matched"] <= queues["report"]["buffers"]
    of_reports = [each for each in others if (each["what"], each["told_by"]) == ("page report", "matching")]
    # What was reported before the guest was recorded is known by its eventfd.
    assert {each["told_by"] for each in others if each["what"] == "page report"} <= {"matching", "eventfd"}
    assert sum(each["bytes"] for each in of_reports) == reporting["pages"] * PAGE_BYTES
    assert sum(each["calls"] for each in of_reports) == reporting["blocks"]
    # QEMU may read a kick for statistics before it tells that a report is done: then c is not known.
    assert (reporting["host_c_ns"] or 0) + reporting["host_d_ns"] < reporting["transport_ns"]
    # Nothing else was advised so but what is named apart.
    advised = sum(each["bytes"] for each in others if each["call"] == "madvise_dontneed")
    assert host_calls(found, Call.MADVISE_DONTNEED)["bytes"] == MOVED_MIB * MIB_PAGES * PAGE_BYTES + advised
    punched = [each for each in others if each["what"] == "file discard"]
    (name,) = {each["file"] for each in punched}  # of the drive: it vanishes with QEMU
    assert name.endswith(" (deleted)")
    assert sum(each["bytes"] for each in punched) >= FILE_MIB << 20
    assert sum(each["bytes"] for each in punched) == host_calls(found, Call.FALLOCATE_PUNCH_HOLE)["bytes"]

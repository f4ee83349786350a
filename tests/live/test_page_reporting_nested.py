# SPDX-License-Identifier: GPL-2.0-or-later
"""Page reports, a disk that discards and a balloon that moves at once: each apart, on both sides."""

from __future__ import annotations

import signal
from pathlib import Path

from memory_use import use_memory
from pairs import MOVE_S, SPLIT, booted, host_calls, report_both, top_stages, top_sum_ns
from tracing import ATTACH_S, MIB_PAGES, PAGE_BYTES, assert_whole, move, outcomes, shell, start_recording

from balloontrace.format.vocabulary import Call

GUEST_MIB, USED_MIB, MOVED_MIB, FILE_MIB = 768, 300, 61, 31
REPORTING = {"free-page-reporting": "on"}
# What the guest writes goes to a file that vanishes with QEMU; of what it discards there, holes are made.
DISCARDING = ("-set", "drive.root.discard=unmap")
TRIM = f"head -c {FILE_MIB}M /dev/urandom > /root/file && sync && rm /root/file && sync && fstrim /"


def test_each_is_told_apart(tmp_path: Path) -> None:
    with booted(memory_mib=GUEST_MIB, balloons=[REPORTING], extra_args=DISCARDING) as pair:
        host, guest = pair.host, pair.guest
        in_host = start_recording(
            host, "/root/host.bt", "--side", "host", "-p", str(pair.vmm_pid)
        ).wait_attached()
        in_guest = start_recording(guest, "/root/guest.bt").wait_attached()
        user = use_memory(guest, USED_MIB)
        user.wait_for(b"used", ATTACH_S, stream="stdout")
        used_bytes = pair.guest_rss_bytes()
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
    reporting, others = found["page_reporting"], found["host"]["others"]
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
    assert reporting["host_c_ns"] + reporting["host_d_ns"] < reporting["transport_ns"]
    # Nothing else was advised so but what is named apart.
    advised = sum(each["bytes"] for each in others if each["call"] == "madvise_dontneed")
    assert host_calls(found, Call.MADVISE_DONTNEED)["bytes"] == MOVED_MIB * MIB_PAGES * PAGE_BYTES + advised
    punched = [each for each in others if each["what"] == "file discard"]
    (name,) = {each["file"] for each in punched}  # of the drive: it vanishes with QEMU
    assert name.endswith(" (deleted)")
    assert sum(each["bytes"] for each in punched) >= FILE_MIB << 20
    assert sum(each["bytes"] for each in punched) == host_calls(found, Call.FALLOCATE_PUNCH_HOLE)["bytes"]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the host gets a guest's memory back, shared (memfd) or in huge pages, and what taking it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pairs import FULL_MIB, MOVE_S, MOVED_MIB, SLACK_MIB, TOUCHED_MIB, booted, report_both, touch_memory
from tracing import MIB_PAGES, Json, balloontrace, move, start_recording

import lab

MEMFD = (
    "-object", f"memory-backend-memfd,id=memory,size={FULL_MIB}M,share=on",
    "-machine", "memory-backend=memory",
)  # fmt: skip
MOVED_BYTES, TRIES = MOVED_MIB << 20, 3


@pytest.fixture(scope="module")
def pair() -> Iterator[lab.Nested]:
    with booted(extra_args=MEMFD) as both:
        yield both


def test_shared_memory_of_a_guest_is_freed_and_taken_back(pair: lab.Nested, tmp_path: Path) -> None:
    guest, host = pair.guest, pair.host
    touch_memory(guest)
    recorders = [
        start_recording(host, "/root/host.bt", "-p", str(pair.vmm_pid)),
        start_recording(guest, "/root/guest.bt"),
    ]
    for recorder in recorders:
        recorder.wait_attached()
    # The recorder in the host looks each second.
    host.run(["sleep", "3"], check=True)
    move(guest, FULL_MIB - MOVED_MIB, MOVE_S)
    host.run(["sleep", "3"], check=True)
    move(guest, FULL_MIB, MOVE_S)
    touch_memory(guest)
    host.run(["sleep", "8"], check=True)
    for recorder in reversed(recorders):
        recorder.end()
    found = report_both(recorders[1].pull(tmp_path), recorders[0].pull(tmp_path))
    inflate, deflate = found["operations"]
    print(inflate["freed"], deflate["taken_back"], found["host"]["regions"], sep="\n")
    freed, taken = inflate["freed"], deflate["taken_back"]
    assert (freed["verdict"], freed["reason"]) == ("freed", None)
    assert freed["asked_bytes"] == MOVED_BYTES
    assert abs(freed["resident_bytes"] - MOVED_BYTES) <= SLACK_MIB << 20
    assert freed["memory"] == "shared memory"
    assert any("memfd" in (region["name"] or "") for region in found["host"]["regions"])
    # What the guest uses again, the kernel has to find: each page by one fault.
    assert deflate["freed"] is None
    # Counted twice, and read one after the other while the process goes on: 7 of 6 345 apart were seen.
    assert abs(taken["faults"] - taken["traced_faults"]) <= taken["faults"] // 50
    assert taken["traced_faults"] + taken["faults"] // 50 >= taken["bytes"] // 4096 > 0
    assert taken["bytes"] <= TOUCHED_MIB + SLACK_MIB << 20
    assert taken["fault_ns"] > 0
    assert deflate["pages"] == MOVED_MIB * MIB_PAGES


def test_memory_in_huge_pages_is_known_to_be_free(tmp_path: Path) -> None:
    """Page by page, out of huge pages, without a control group: the kernel says how many are left in part.

    A recorder that samples the same calls counts as many by what KVM is told, and says the same of them.
    """
    with booted() as pair:
        guest, host = pair.guest, pair.host
        touch_memory(guest)
        # Free pages that a processor keeps for itself do not count as free.
        keep_none = "echo 1000000 > /proc/sys/vm/percpu_pagelist_high_fraction"
        host.run(["sh", "-c", keep_none], check=True)
        for _ in range(TRIES):
            more_bytes, traced, sampled = record_inflate(pair, tmp_path)
            # A second without a call ends a period, and a busy machine may have one.
            if len(traced["periods"]) == len(sampled["periods"]) == 1:
                break
            move(guest, FULL_MIB, MOVE_S)
            touch_memory(guest)
    for host_side in (traced, sampled):
        freed = host_side["periods"][0]["freed"]
        print(freed, more_bytes)
        assert freed["huge_pages_split"] > 0
        assert (freed["verdict"], freed["reason"], freed["memory"]) == ("freed", None, "anonymous")
        assert freed["asked_bytes"] == MOVED_BYTES
        assert abs(freed["resident_bytes"] - more_bytes) <= SLACK_MIB << 20
        # Less by all huge pages of the machine that are mapped in part; uncounted, `least` would be near 0.
        assert 0.8 * freed["resident_bytes"] <= freed["least_bytes"] <= freed["resident_bytes"]
    assert sampled["discards"] == traced["periods"][0]["freed"]["calls"] == MOVED_MIB * MIB_PAGES
    assert sampled["discarded_bytes"] == MOVED_BYTES
    assert sampled["thp_splits"] == traced["periods"][0]["freed"]["huge_pages_split"]
    assert (sampled["calls_in_batches"], traced["discards"]) == (None, None)


def record_inflate(pair: lab.Nested, folder: Path) -> tuple[int, Json, Json]:
    """How much more is free after it, and what two recorders of the host say: one traces, one samples."""
    host = pair.host
    recorders = [
        start_recording(host, f"/root/{name}.bt", "-f", "-p", str(pair.vmm_pid), *options).wait_attached()
        for name, options in (("traced", ()), ("sampled", ("--sample", "--count-discards")))
    ]
    host.run(["sleep", "3"], check=True)
    before_bytes = free_bytes(host)
    move(pair.guest, FULL_MIB - MOVED_MIB, MOVE_S)
    host.run(["sleep", "3"], check=True)
    more_bytes = free_bytes(host) - before_bytes
    for recorder in recorders:
        recorder.end()
    recordings = [recorder.pull(folder) for recorder in recorders]
    traced, sampled = (
        json.loads(balloontrace("report", "--format", "json", recording).stdout)["host"]
        for recording in recordings
    )
    return more_bytes, traced, sampled


def free_bytes(machine: lab.Guest) -> int:
    """The machine's free memory."""
    words = machine.run(["cat", "/proc/meminfo"], check=True).stdout.split()
    return int(words[words.index("MemFree:") + 1]) * 1024

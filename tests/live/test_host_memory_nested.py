# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest of QEMU's with shared memory (memfd): the host gets it back, and what taking it again costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pairs import FULL_MIB, MOVE_S, MOVED_MIB, SLACK_MIB, TOUCHED_MIB, booted, report_both, touch_memory
from tracing import MIB_PAGES, move, start_recording

import lab

MEMFD = (
    "-object", f"memory-backend-memfd,id=memory,size={FULL_MIB}M,share=on",
    "-machine", "memory-backend=memory",
)  # fmt: skip
MOVED_BYTES = MOVED_MIB << 20


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
    assert taken["traced_faults"] >= taken["bytes"] // 4096 > 0
    assert taken["bytes"] <= TOUCHED_MIB + SLACK_MIB << 20
    assert taken["fault_ns"] > 0
    assert deflate["pages"] == MOVED_MIB * MIB_PAGES

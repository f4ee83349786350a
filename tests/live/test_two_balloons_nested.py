# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with two balloons, each served by a process of its own, and page reporting.

One recording of the guest goes with either recording of the host.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from memory_use import use_memory
from pairs import MOVE_S, SPLIT, booted, report_both, top_stages, top_sum_ns
from tracing import ATTACH_S, MIB_PAGES, PAGE_BYTES, Json, assert_whole, start_recording

import lab

GUEST_MIB, USED_MIB, QEMUS_MIB, LABS_MIB = 640, 260, 37, 53
GONE_MIB = USED_MIB * 3 // 4  # by reports or by a balloon, what was used is no longer with the host
REPORTING = {"free-page-reporting": "on"}


def test_each_goes_with_its_own_process(tmp_path: Path) -> None:
    with booted(memory_mib=GUEST_MIB, device="backend", balloons=[REPORTING]) as pair:
        host, guest = pair.host, pair.guest
        in_host = [
            start_recording(host, f"/root/{name}.bt", "--side", "host", "-p", str(pid))
            for name, pid in (("qemu", pair.qemu_pid), ("lab", pair.vmm_pid))
        ]
        in_guest = start_recording(guest, "/root/guest.bt")
        for recorder in (*in_host, in_guest):
            recorder.wait_attached()
        user = use_memory(guest, USED_MIB)
        user.wait_for(b"used", ATTACH_S, stream="stdout")
        used_bytes = pair.guest_rss_bytes()
        user.kill()
        # Both move at once, and what the program freed is reported meanwhile.
        for taken_mib, qemus_mib in ((LABS_MIB, QEMUS_MIB), (0, 0)):
            guest.qmp("balloon", value=(GUEST_MIB - qemus_mib) << 20)
            guest.set_balloon(target_mib=GUEST_MIB - taken_mib)
            guest.wait_balloon(timeout_s=MOVE_S)
            guest.wait_until(partial(leaves, guest, GUEST_MIB - qemus_mib), MOVE_S, what="QEMU's balloon")
        # Reports come two seconds after; on a fast machine both have moved by then.
        guest.wait_until(
            lambda: pair.guest_rss_bytes() < used_bytes - (GONE_MIB << 20), MOVE_S, what="reports"
        )
        in_guest.end()
        for recorder in in_host:
            recorder.end()
        guests = in_guest.pull(tmp_path)
        hosts = [recorder.pull(tmp_path) for recorder in in_host]
    of_qemu, of_lab = (report_both(guests, host) for host in hosts)
    for found, mib in ((of_qemu, QEMUS_MIB), (of_lab, LABS_MIB)):
        assert_whole(found)
        assert_served(found, mib)
    reporting = of_qemu["page_reporting"]
    assert reporting["pages"] * PAGE_BYTES > GONE_MIB - QEMUS_MIB - LABS_MIB << 20
    # One from before the guest's recording is told by its eventfd.
    of_reports = [each for each in of_qemu["host"]["others"] if each["what"] == "page report"]
    matched = [each for each in of_reports if each["told_by"] == "matching"]
    assert sum(each["bytes"] for each in matched) == reporting["pages"] * PAGE_BYTES
    assert not [each for each in of_lab["host"]["others"] if each["what"] == "page report"]
    assert of_lab["page_reporting"]["host_d_ns"] is None


def leaves(guest: lab.Guest, mib: int) -> bool:
    """Whether QEMU's own balloon leaves so much to the guest."""
    return bool(guest.qmp("query-balloon")["actual"] == mib << 20)


def assert_served(found: Json, mib: int) -> None:
    """The operations of one balloon have four stages; those of the other do not know the host's."""
    pages = mib * MIB_PAGES
    kinds = [(each["kind"], each["pages"]) for each in found["operations"]]
    assert sorted(kinds) == sorted(
        (kind, each * MIB_PAGES) for kind in ("inflate", "deflate") for each in (QEMUS_MIB, LABS_MIB)
    )
    for operation in found["operations"]:
        assert top_sum_ns(operation) == operation["wall_ns"]
        is_own = operation["pages"] == pages
        assert (top_stages(operation) == SPLIT) is is_own
        assert (operation["served"] is not None) is is_own

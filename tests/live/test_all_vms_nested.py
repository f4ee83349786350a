# SPDX-License-Identifier: GPL-2.0-or-later
"""`record --side host --all` beside a real QEMU and another process: the guest's recording finds its VM."""

from __future__ import annotations

from pathlib import Path

from hostserve import WARM_UP, Server, build_hostserve
from pairs import FULL_MIB, MOVE_S, booted, report_both
from tracing import MIB_PAGES, change, move, record, stage

from balloontrace.analysis.processes import split_processes, vm_name
from balloontrace.format.recording import read_recording

MOVED_MIB = 131  # so many sends of a MiB prove that both recordings are of one balloon
OTHER_SENDS = 7
COUNTERS = ("balloon_inflate", "balloon_deflate")


def test_a_guest_finds_its_vm(tmp_path: Path) -> None:
    with booted(memory_mib=FULL_MIB) as pair:
        host, guest, vmm_pid = pair.host, pair.guest, pair.vmm_pid
        build_hostserve(host)
        other = Server(host, "other", vm="other")
        in_host = record(host, "/root/all.bt", "--side", "host", "--all")
        in_guest = record(guest, "/root/guest.bt")
        other.serve(WARM_UP, *["dontneed 256"] * OTHER_SENDS)
        before = guest.vmstat()
        move(guest, FULL_MIB - MOVED_MIB, MOVE_S)
        move(guest, FULL_MIB, MOVE_S)
        pages = change(before, guest.vmstat(), COUNTERS)
        in_host.end()
        in_guest.end()
        other.end()
        of_all, of_guest = in_host.pull(tmp_path), in_guest.pull(tmp_path)
    assert pages == [MOVED_MIB * MIB_PAGES] * 2
    parts = {vm_name(part): part for part in split_processes(read_recording(of_all))}
    assert len(parts) == 2
    assert "other" in parts
    found = report_both(of_guest, of_all)
    assert f"{vmm_pid} (" in found["host"]["process"]
    inflate, deflate = found["operations"]
    assert [inflate["pages"], deflate["pages"]] == pages
    for operation in (inflate, deflate):
        assert stage(operation, "d")["count"] == operation["sends"]
    # Of `--all` a worker that ends may meet the main thread's slot; then its one call is not followed.
    losses = {each["function"]: each["events_lost"] or 0 for each in found["host"]["losses"]}
    assert (losses["batches"], losses["calls"] <= 2) == (0, True)
    assert [operation["served"]["calls"] for operation in (inflate, deflate)] == pages
    (madvised,) = (each for each in found["host"]["calls"] if each["call"] == "madvise_dontneed")
    assert madvised["calls"] >= pages[0]

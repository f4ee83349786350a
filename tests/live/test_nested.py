# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested, QEMU's balloon: driver, QEMU and the host's own kernel count the same."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pairs import (
    COUNTERS,
    DONTNEED,
    FULL_MIB,
    MOVE_S,
    MOVED_MIB,
    MOVED_PAGES,
    SPLIT,
    assert_rss_followed,
    booted,
    counted_madvise,
    host_calls,
    report_both,
    top_stages,
    top_sum_ns,
    touch_memory,
)
from tracing import ATTACH_S, ATTACHED, MIB_PAGES, assert_whole, change, move, outcomes, shell

import lab
from balloontrace.events import Call
from lab.scenario import record_moves


@pytest.fixture(scope="module")
def pair() -> Iterator[lab.Nested]:
    with booted() as both:
        yield both


def test_commands_run_in_either_and_kvm_is_used(pair: lab.Nested) -> None:
    host, guest = pair.host, pair.guest
    for side, processor in ((host, "QEMU"), (guest, "QEMU")):
        done = side.run(shell("cat; grep -m1 'model name' /proc/cpuinfo >&2; exit 3"), stdin=b"\0in\n")
        assert (done.status, done.stdout_bytes) == (3, b"\0in\n")
        assert processor in done.stderr
    assert guest.qmp("query-kvm")["enabled"] is True
    assert "Hypervisor detected: KVM" in guest.run(["dmesg"], check=True).stdout
    opened = host.run(shell(f"ls -l /proc/{pair.vmm_pid}/fd"), check=True).stdout
    assert "anon_inode:kvm-vm" in opened


def test_files_go_in_and_out_of_either(pair: lab.Nested, tmp_path: Path) -> None:
    sent = tmp_path / "sent.bin"
    for side in (pair.host, pair.guest):
        sent.write_bytes(side.name.encode() + bytes(range(256)) * 1009)
        inside = side.push(sent)
        side.run(["cp", inside, "/root/kept.bin"], check=True)
        assert side.pull("/root/kept.bin") == sent.read_bytes()


def test_qemus_balloon_counted_from_four_sides(pair: lab.Nested) -> None:
    host, guest = pair.host, pair.guest
    touch_memory(guest)
    before, before_bytes = guest.vmstat(), pair.guest_rss_bytes()
    with counted_madvise(host) as calls:
        move(guest, FULL_MIB - MOVED_MIB, MOVE_S)
    assert change(before, guest.vmstat(), COUNTERS) == [MOVED_PAGES, 0]
    assert guest.qmp("query-balloon")["actual"] == FULL_MIB - MOVED_MIB << 20
    assert calls[pair.vmm_pid, DONTNEED] == MOVED_PAGES
    assert_rss_followed(before_bytes, pair.guest_rss_bytes())
    move(guest, FULL_MIB, MOVE_S)
    assert change(before, guest.vmstat(), COUNTERS) == [MOVED_PAGES, MOVED_PAGES]


def test_recorded_on_both_sides(pair: lab.Nested) -> None:
    argv = ["balloontrace", "record", "-o", "/io/host.bt", "--side", "host", "-p", str(pair.vmm_pid)]
    recorder = pair.host.start(argv)
    recorder.wait_for(ATTACHED, ATTACH_S)
    guest_file = record_moves(pair.guest, "guest.bt", (FULL_MIB - 61, FULL_MIB))
    recorder.signal(signal.SIGINT)
    recorder.wait(60, check=True)
    found = report_both(guest_file, pair.host.io / "host.bt")
    assert_whole(found)
    pages = 61 * MIB_PAGES
    assert outcomes(found) == [("inflate", "reached", pages), ("deflate", "reached", pages)]
    host = found["host"]
    assert host["process"].startswith(f"{pair.vmm_pid} (")
    assert (host["pairing"]["pairs"], host["delimited"]) == (122, 122)
    assert host_calls(found, Call.MADVISE_WILLNEED)["calls"] == pages
    # Its other threads give their stacks back when they end.
    assert host["calls_in_batches"] - 2 * pages == host["batches"] - 122 < 10
    for operation in found["operations"]:
        assert top_stages(operation) == SPLIT
        assert top_sum_ns(operation) == operation["wall_ns"]


def test_a_guest_that_powers_off_leaves_its_host(pair: lab.Nested) -> None:
    with pytest.raises(lab.VMLost, match="QEMU ended with status 0"):
        pair.guest.run(shell("echo o > /proc/sysrq-trigger; sleep 1000"), timeout_s=600)
    assert pair.host.run(["cat", f"/proc/{pair.qemu_pid}/comm"]).status != 0
    assert pair.host.run(["echo", "alive"], check=True).stdout == "alive\n"

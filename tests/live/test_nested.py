# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested, QEMU's balloon: driver, QEMU and the host's own kernel count the same."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostserve import WARM_UP, Server, build_hostserve
from pairs import (
    COUNTERS,
    DONTNEED,
    FULL_MIB,
    MOVE_S,
    MOVED_MIB,
    MOVED_PAGES,
    assert_rss_followed,
    booted,
    counted_madvise,
    report_both,
    touch_memory,
)
from tracing import MIB_PAGES, change, move, record, shell, stage

import lab
from balloontrace.analysis.processes import split_processes, vm_name
from balloontrace.format.recording import read_recording
from lab.tsc import measure_tsc_khz

# At the start the time of day is a message to the guest's agent, which a busy machine may hear late.
CLOCK_SLACK_S = 5
ALL_MIB = 131  # so many sends of a MiB prove that both recordings are of one balloon
OTHER_SENDS = 7
RATE_SLACK_S = 0.1  # a clock may run faster by the thousandth part until it is set again


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


def test_their_clocks_are_those_of_this_machine(pair: lab.Nested) -> None:
    for side, source in ((pair.host, "tsc"), (pair.guest, "kvm-clock")):
        used = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        assert side.run(["cat", used], check=True).stdout.strip() == source
        before_s = time.time()
        assert before_s - CLOCK_SLACK_S < time_of_day_s(side) < time.time() + RATE_SLACK_S
        before_s = time.time()
        side.set_clock()  # heard before what is asked next
        assert before_s <= time_of_day_s(side) <= time.time() + RATE_SLACK_S
    rate_khz = measure_tsc_khz()
    if rate_khz is not None:
        log = pair.host.run(["dmesg"], check=True).stdout
        told_khz = [float(mhz) * 1000 for mhz in re.findall(r"tsc: Detected ([0-9.]+) MHz", log)]
        assert told_khz == [pytest.approx(rate_khz, rel=0.01)] * len(told_khz)
        assert told_khz


def time_of_day_s(side: lab.Guest) -> float:
    return float(side.run(["date", "+%s.%N"], check=True).stdout)


def test_a_guest_finds_its_vm(pair: lab.Nested, tmp_path: Path) -> None:
    """`record --side host --all` beside another process: the guest's recording finds its VM."""
    host, guest, vmm_pid = pair.host, pair.guest, pair.vmm_pid
    build_hostserve(host)
    other = Server(host, "other", vm="other")
    in_host = record(host, "/root/all.bt", "--side", "host", "--all")
    in_guest = record(guest, "/root/guest.bt")
    other.serve(WARM_UP, *["dontneed 256"] * OTHER_SENDS)
    before = guest.vmstat()
    move(guest, FULL_MIB - ALL_MIB, MOVE_S)
    move(guest, FULL_MIB, MOVE_S)
    pages = change(before, guest.vmstat(), COUNTERS)
    in_host.end()
    in_guest.end()
    other.end()
    of_all, of_guest = in_host.pull(tmp_path), in_guest.pull(tmp_path)
    assert pages == [ALL_MIB * MIB_PAGES] * 2
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


def test_a_guest_that_powers_off_leaves_its_host(pair: lab.Nested) -> None:
    with pytest.raises(lab.VMLost, match="QEMU ended with status 0"):
        pair.guest.run(shell("echo o > /proc/sysrq-trigger; sleep 1000"), timeout_s=600)
    assert pair.host.run(["cat", f"/proc/{pair.qemu_pid}/comm"]).status != 0
    assert pair.host.run(["echo", "alive"], check=True).stdout == "alive\n"

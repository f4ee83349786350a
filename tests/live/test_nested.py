# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested: a guest under KVM in a host VM. Driver, device and the host's own kernel count the same."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tracing import MIB_PAGES, assert_whole, change, move, outcomes, report, shell

import lab
from lab.cache import run_folder
from lab.driver import load_patched
from lab.folders import read_state
from lab.scenario import record_moves

FULL_MIB = 1024
TOUCHED_MIB = 400
MOVED_MIB = 251
MOVED_PAGES = MOVED_MIB * MIB_PAGES
# What the guest does of its own meanwhile: a few programs started, their files read.
SLACK_MIB = 16
COUNTERS = ("balloon_inflate", "balloon_deflate")
MOVE_S = 300
# In the host: madvise calls by process and advice, counted by the kernel; the tool has no part in it.
# The intervals are attached before and after: when both have passed, so is what is between them.
COUNT_MADVISE = """
interval:ms:100 { @before = 1; }
tracepoint:syscalls:sys_enter_madvise { @calls[pid, args.behavior] = count(); }
interval:ms:150 /@before/ { printf("counting\\n"); }
"""
DONTNEED, REMOVE = 4, 9


@contextmanager
def booted(**options: Any) -> Iterator[lab.Nested]:
    """A pair; afterwards neither VM has a process or a folder."""
    with lab.nested(memory_mib=FULL_MIB, **options) as pair:
        vm_folders = [run_folder() / vm.name for vm in (pair.guest, pair.host)]
        states = [read_state(folder) for folder in vm_folders]
        yield pair
    assert not any(folder.exists() for folder in vm_folders)
    assert not any(state is None or state.qemu.is_alive() for state in states)


@pytest.fixture(scope="module")
def qemu_pair() -> Iterator[lab.Nested]:
    with booted() as pair:
        yield pair


@pytest.fixture(scope="module")
def backend_pair() -> Iterator[lab.Nested]:
    with booted(device="backend", page_bitmap=True, dump=True) as pair:
        load_patched(pair.guest)
        yield pair


def touch_memory(guest: lab.Guest) -> None:
    """Has the guest use so much, once: what it never touched is not there to be freed."""
    guest.run(
        shell(f"head -c {TOUCHED_MIB}M /dev/zero > /dev/shm/x; rm /dev/shm/x"), timeout_s=300, check=True
    )


@contextmanager
def counted_madvise(host: lab.Guest) -> Iterator[dict[tuple[int, int], int]]:
    """The calls in the host meanwhile, by process id and advice; there when the block has ended."""
    calls: dict[tuple[int, int], int] = {}
    counter = host.start(["bpftrace", "-f", "json", "-e", COUNT_MADVISE])
    counter.wait_for(b"counting", 120, stream="stdout")
    yield calls
    counter.signal(signal.SIGINT)
    for line in counter.wait(60, check=True).stdout.splitlines():
        message: dict[str, Any] = json.loads(line)
        if message["type"] == "map":
            for key, count in message["data"].get("@calls", {}).items():
                process, advice = map(int, key.split(","))
                calls[process, advice] = count


def assert_rss_followed(before_bytes: int, after_bytes: int) -> None:
    assert abs((before_bytes - after_bytes >> 20) - MOVED_MIB) <= SLACK_MIB


def test_commands_run_in_either_and_kvm_is_used(qemu_pair: lab.Nested) -> None:
    host, guest = qemu_pair.host, qemu_pair.guest
    for side, processor in ((host, "QEMU"), (guest, "QEMU")):
        done = side.run(shell("cat; grep -m1 'model name' /proc/cpuinfo >&2; exit 3"), stdin=b"\0in\n")
        assert (done.status, done.stdout_bytes) == (3, b"\0in\n")
        assert processor in done.stderr
    assert guest.qmp("query-kvm")["enabled"] is True
    assert "Hypervisor detected: KVM" in guest.run(["dmesg"], check=True).stdout
    opened = host.run(shell(f"ls -l /proc/{qemu_pair.vmm_pid}/fd"), check=True).stdout
    assert "anon_inode:kvm-vm" in opened


def test_files_go_in_and_out_of_either(qemu_pair: lab.Nested, tmp_path: Path) -> None:
    sent = tmp_path / "sent.bin"
    for side in (qemu_pair.host, qemu_pair.guest):
        sent.write_bytes(side.name.encode() + bytes(range(256)) * 1009)
        inside = side.push(sent)
        side.run(["cp", inside, "/root/kept.bin"], check=True)
        assert side.pull("/root/kept.bin") == sent.read_bytes()


def test_qemus_balloon_counted_from_four_sides(qemu_pair: lab.Nested) -> None:
    host, guest = qemu_pair.host, qemu_pair.guest
    touch_memory(guest)
    before, before_bytes = guest.vmstat(), qemu_pair.guest_rss_bytes()
    with counted_madvise(host) as calls:
        move(guest, FULL_MIB - MOVED_MIB, MOVE_S)
    assert change(before, guest.vmstat(), COUNTERS) == [MOVED_PAGES, 0]
    assert guest.qmp("query-balloon")["actual"] == FULL_MIB - MOVED_MIB << 20
    assert calls[qemu_pair.vmm_pid, DONTNEED] == MOVED_PAGES
    assert_rss_followed(before_bytes, qemu_pair.guest_rss_bytes())
    move(guest, FULL_MIB, MOVE_S)
    assert change(before, guest.vmstat(), COUNTERS) == [MOVED_PAGES, MOVED_PAGES]


def test_recorded_in_the_guest_and_brought_out(qemu_pair: lab.Nested) -> None:
    found = report(record_moves(qemu_pair.guest, "nested.bt", (FULL_MIB - 61, FULL_MIB)))
    assert_whole(found)
    assert outcomes(found) == [("inflate", "reached", 61 * MIB_PAGES), ("deflate", "reached", 61 * MIB_PAGES)]


def test_a_guest_that_powers_off_leaves_its_host(qemu_pair: lab.Nested) -> None:
    with pytest.raises(lab.VMLost, match="QEMU ended with status 0"):
        qemu_pair.guest.run(shell("echo o > /proc/sysrq-trigger; sleep 1000"), timeout_s=600)
    assert qemu_pair.host.run(["cat", f"/proc/{qemu_pair.qemu_pid}/comm"]).status != 0
    assert qemu_pair.host.run(["echo", "alive"], check=True).stdout == "alive\n"


def test_page_bitmaps_on_the_labs_own_device(backend_pair: lab.Nested) -> None:
    host, guest, device = backend_pair.host, backend_pair.guest, backend_pair.guest.backend
    touch_memory(guest)
    before, device_before = guest.vmstat(), device.status()["inflate"]
    before_bytes, known = backend_pair.guest_rss_bytes(), len(device.buffers("inflate"))
    with counted_madvise(host) as calls:
        move(guest, FULL_MIB - MOVED_MIB, MOVE_S)
    status = device.status()
    done = {name: status["inflate"][name] - device_before[name] for name in device_before}
    assert (status["mode"], status["ballooned_pages"]) == ("bitmap", MOVED_PAGES)
    assert change(before, guest.vmstat(), COUNTERS) == [MOVED_PAGES, 0]
    assert (done["pages"] - done["already"], done["refused"], done["errors"]) == (MOVED_PAGES, 0, 0)
    assert calls[backend_pair.vmm_pid, REMOVE] == done["discards"] < MOVED_PAGES
    assert_rss_followed(before_bytes, backend_pair.guest_rss_bytes())
    logged = device.buffers("inflate")[known:]
    assert sum(each["pages"] for each in logged) == done["pages"]
    assert [len(raw) for raw in device.payloads("inflate")[known:]] == [each["bytes"] for each in logged]
    move(guest, FULL_MIB, MOVE_S)
    assert device.status()["ballooned_pages"] == 0


def test_a_qemu_that_is_killed_is_a_guest_lost(backend_pair: lab.Nested) -> None:
    host, guest = backend_pair.host, backend_pair.guest
    sleeper = guest.start(["sleep", "1000"])
    device_pid = backend_pair.vmm_pid
    host.run(["kill", "-KILL", str(backend_pair.qemu_pid)], check=True)
    with pytest.raises(lab.VMLost, match="ended by signal 9"):
        sleeper.wait(600)
    with pytest.raises(lab.VMLost):
        guest.run(["true"])
    assert host.run(["cat", f"/proc/{device_pid}/comm"]).status != 0
    host.kill()
    with pytest.raises(lab.VMLost):
        host.run(["true"])

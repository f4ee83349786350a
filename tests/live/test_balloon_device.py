# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock driver on the lab's own device, under sanitizers: driver, device and recorder count the same."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tracing import MIB_PAGES, PAGE_BYTES, assert_whole, change, move, outcomes, record, report

import lab
from lab.vhost import NO_EXTRA, BackendClient, ExtraTime

MEMORY_MIB = 1024
PRIME_MIB = 211
PRIME_PAGES = PRIME_MIB * MIB_PAGES
COUNTERS = ("balloon_inflate", "balloon_deflate")
# So long does the device hold each buffer, that the guest is stopped between some of them on any machine.
STOPS, HELD = 5, ExtraTime(per_buffer_ns=20_000_000)
QUIET_COUNTS = ("already", "refused", "errors", "words", "plain_runs")


@pytest.fixture(scope="module")
def backend_guest() -> Iterator[lab.Guest]:
    with lab.solo(memory_mib=MEMORY_MIB, device="backend", dump=True, sanitize=True) as booted:
        yield booted


def numbers(payloads: list[bytes]) -> list[int]:
    return [pfn for data in payloads for pfn in struct.unpack(f"<{len(data) // 4}I", data)]


def test_driver_device_and_recorder_count_the_same(backend_guest: lab.Guest, tmp_path: Path) -> None:
    guest, device = backend_guest, backend_guest.backend
    recorder = record(guest, "/root/backend.bt", "--operations", "2")
    before, device_before = guest.vmstat(), device.status()
    move(guest, MEMORY_MIB - PRIME_MIB)
    inflated = device.status()
    move(guest, MEMORY_MIB)
    done = recorder.wait()
    assert done.status == 0, done.describe()
    assert change(before, guest.vmstat(), COUNTERS) == [PRIME_PAGES, PRIME_PAGES]

    found = report(recorder.pull(tmp_path))
    assert_whole(found)
    assert outcomes(found) == [("inflate", "reached", PRIME_PAGES), ("deflate", "reached", PRIME_PAGES)]
    assert [operation["sends"] for operation in found["operations"]] == [PRIME_MIB, PRIME_MIB]

    assert (inflated["mode"], inflated["actual_pages"], inflated["ballooned_pages"]) == (
        "pfn", PRIME_PAGES, PRIME_PAGES,
    )  # fmt: skip
    status = device.status()
    assert (status["actual_pages"], status["ballooned_pages"]) == (0, 0)
    for queue, calls in (("inflate", "discards"), ("deflate", "willneeds")):
        counted = {name: status[queue][name] - device_before[queue][name] for name in status[queue]}
        assert (counted["buffers"], counted["pages"], counted[calls]) == (PRIME_MIB, PRIME_PAGES, PRIME_PAGES)
        assert counted["bytes"] == 4 * PRIME_PAGES
        assert [counted[name] for name in QUIET_COUNTS] == [0] * len(QUIET_COUNTS)
    assert status["inflate"]["discarded_bytes"] == PRIME_PAGES * PAGE_BYTES


def test_the_log_is_every_buffer_and_the_dump_every_page(backend_guest: lab.Guest) -> None:
    device = backend_guest.backend
    known = len(device.buffers())
    move(backend_guest, MEMORY_MIB - 53)
    move(backend_guest, MEMORY_MIB)
    events, payloads = device.buffers()[known:], device.payloads()[known:]
    assert [event["queue"] for event in events] == ["inflate"] * 53 + ["deflate"] * 53
    assert {(event["mode"], event["bytes"], event["pages"]) for event in events} == {("pfn", 1024, 256)}
    assert all(event["ns"] > 0 for event in events)
    given, taken = numbers(payloads[:53]), numbers(payloads[53:])
    assert len(set(given)) == 53 * MIB_PAGES
    assert sorted(given) == sorted(taken)
    assert max(given) < MEMORY_MIB * MIB_PAGES


def test_a_driver_that_is_loaded_anew(backend_guest: lab.Guest) -> None:
    guest, device = backend_guest, backend_guest.backend
    move(guest, MEMORY_MIB - 31)
    known = device.status()
    guest.run(["rmmod", "virtio_balloon"], check=True)
    unloaded = device.status()
    assert (unloaded["actual_pages"], unloaded["ballooned_pages"]) == (0, 0)
    guest.run(["modprobe", "virtio_balloon"], check=True)
    guest.wait_balloon(timeout_s=60)
    status = device.status()
    assert status["actual_pages"] == 31 * MIB_PAGES
    assert status["inflate"]["pages"] - known["inflate"]["pages"] == 31 * MIB_PAGES
    assert status["inflate"]["refused"] == 0
    move(guest, MEMORY_MIB)


def test_device_and_its_process_end_with_the_vm() -> None:
    with lab.solo(memory_mib=512, device="backend", page_bitmap=True, sanitize=True) as guest:
        device = guest.backend
        assert device.status()["connected"]
        guest.kill()
        until_s = time.monotonic() + 60
        while not has_ended(device):
            assert time.monotonic() < until_s, "the device still answers"
            time.sleep(0.02)
    assert not device.folder.exists()


def has_ended(device: BackendClient) -> bool:
    try:
        device.status()
    except lab.LabError:
        return True
    return False


def holds_more(guest: lab.Guest, pages: int) -> bool:
    return bool(guest.backend.status()["inflate"]["pages"] >= pages)


def test_a_stopped_guest_goes_on(backend_guest: lab.Guest) -> None:
    guest, device = backend_guest, backend_guest.backend
    before = device.status()["inflate"]["pages"]
    device.set_extra_time(HELD)
    guest.set_balloon(target_mib=MEMORY_MIB - PRIME_MIB)
    for stops in range(1, STOPS + 1):
        guest.wait_until(partial(holds_more, guest, before + stops * MIB_PAGES), 60, what="some pages more")
        guest.qmp("stop")
        assert device.status()["inflate"]["pages"] - before < PRIME_PAGES
        guest.qmp("cont")
    device.set_extra_time(NO_EXTRA)
    guest.wait_balloon(timeout_s=60)
    assert device.status()["inflate"]["pages"] - before == PRIME_PAGES
    move(guest, MEMORY_MIB)
    assert device.status()["ballooned_pages"] == 0

# SPDX-License-Identifier: GPL-2.0-or-later
"""The device and its frontend: features, rings, memory, configuration, and what no frontend says."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from backend_device import PFN, counts, started
from frontend import (
    BIT_3,
    BIT_30,
    CONFIG_CHANGE,
    GET_CONFIG,
    GET_FEATURES,
    GET_VRING_BASE,
    HIGH_BYTES,
    INFLATE,
    LOW_BYTES,
    PAGE,
    SET_CONFIG,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_CALL,
    SET_VRING_ENABLE,
    SET_VRING_ERR,
    SET_VRING_KICK,
    SET_VRING_NUM,
    USER,
    VERSION_1,
    Device,
    Frontend,
    mem_table,
    pack64,
    pfns,
    running,
    u64,
)


def test_features_offered(build: Path, tmp_path: Path) -> None:
    for number, (options, bit) in enumerate(
        [([], 0), (["--page-bitmap"], BIT_3), (["--free-page-hint"], BIT_3), (["--deflate-on-oom"], 1 << 2)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with running(build, folder, *options) as device:
            frontend = device.connect()
            # Not offered: packed rings (34), indirect descriptors (28), event index (29).
            assert u64(frontend.ask(GET_FEATURES)) == VERSION_1 | BIT_30 | bit
            frontend.close()


@pytest.mark.parametrize(
    ("request_number", "body"),
    [
        (SET_FEATURES, pack64(1 << 34 | VERSION_1 | BIT_30)),
        (SET_FEATURES, pack64(BIT_3 | VERSION_1)),
        (SET_PROTOCOL_FEATURES, pack64(1 << 12)),
        (SET_VRING_NUM, struct.pack("<II", 2, 16)),
        (SET_VRING_BASE, struct.pack("<II", 9, 0)),
        (SET_VRING_NUM, struct.pack("<II", 0, 32)),  # the queue is running
        (SET_VRING_ENABLE, struct.pack("<II", 2, 1)),
        (SET_VRING_ADDR, struct.pack("<IIQQQQ", 2, 0, 0, 0, 0, 0)),
        (SET_VRING_KICK, pack64(0)),
        (SET_VRING_CALL, pack64(0)),
        (SET_VRING_ERR, pack64(7)),
        (SET_CONFIG, struct.pack("<III", 0, 257, 0)),
        (SET_CONFIG, struct.pack("<III", 0, 8, 0) + b"1234"),
        (SET_MEM_TABLE, struct.pack("<II", 9, 0)),
        (SET_MEM_TABLE, mem_table([(0, LOW_BYTES, USER, 0)])),  # no descriptor comes with it
        (77, b""),
    ],
)
def test_a_mistake_of_the_frontend_fails_and_is_logged(
    nonsense_pfn: tuple[Device, Frontend], request_number: int, body: bytes
) -> None:
    device, frontend = nonsense_pfn
    assert not frontend.tell(request_number, body)
    assert device.events("frontend")[-1]["request"] == request_number
    frontend.queues[INFLATE].send(pfns(PFN))
    assert device.last_buffer()["pages"] == 1


@pytest.mark.parametrize(
    "words",
    [
        struct.pack("<III", GET_FEATURES, 2, 0),  # version 2
        struct.pack("<III", GET_FEATURES, 5, 0),  # an answer
        struct.pack("<III", SET_CONFIG, 1, 1 << 20),
        struct.pack("<III", SET_CONFIG, 1, 1025) + bytes(1025),
        struct.pack("<III", SET_FEATURES, 1, 4) + b"1234",
        struct.pack("<III", GET_VRING_BASE, 1, 8) + struct.pack("<II", 5, 0),
    ],
    ids=["version", "answer", "long", "longer by one", "short", "queue"],
)
def test_a_frontend_that_cannot_be_followed_is_disconnected(
    build: Path, tmp_path: Path, words: bytes
) -> None:
    with running(build, tmp_path) as device:
        frontend = device.connect()
        frontend.connection.sendall(words)
        assert frontend.is_disconnected()
        frontend.close()
        again = device.connect()
        again.start()
        again.queues[INFLATE].send(pfns(PFN))
        assert device.last_buffer()["pages"] == 1
        again.close()


BAD_TABLES = {
    "unaligned": [(1, LOW_BYTES, USER, 0)],
    "empty": [(0, 0, USER, 0)],
    "past the file": [(0, LOW_BYTES + HIGH_BYTES + PAGE, USER, 0)],
    "offset past the file": [(0, PAGE, USER, 1 << 40)],
    "too far": [(1 << 44, PAGE, USER, 0)],
    "wraps": [(2**64 - PAGE, PAGE, USER, 0)],
    "user wraps": [(0, PAGE, 2**64 - 1, 0)],
    "overlap": [(0, LOW_BYTES, USER, 0), (LOW_BYTES - PAGE, PAGE, USER + LOW_BYTES, 0)],
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_memory_that_cannot_be_is_refused_and_stops_the_rings(build: Path, tmp_path: Path, name: str) -> None:
    table = BAD_TABLES[name]
    with started(build, tmp_path) as (device, frontend):
        assert not frontend.tell(SET_MEM_TABLE, mem_table(table), [frontend.memory_fd] * len(table))
        frontend.queues[INFLATE].put(pfns(PFN))
        frontend.queues[INFLATE].offer()
        assert device.client.status()["regions"] == 0
        assert device.client.buffers() == []
        frontend.share_memory()
        assert frontend.queues[INFLATE].wait() == 0
        assert device.last_buffer()["pages"] == 1


@pytest.mark.parametrize("shift", [1 << 30, 8, LOW_BYTES + HIGH_BYTES - 0x2000])
def test_rings_outside_memory_are_not_served(build: Path, tmp_path: Path, shift: int) -> None:
    with started(build, tmp_path) as (device, frontend):
        queue = frontend.queues[INFLATE]
        assert frontend.tell(SET_VRING_ADDR, queue.addresses(shift))
        assert device.events("ring-lost")[-1]["why"] == "ring outside memory or not aligned"
        queue.put(pfns(PFN))
        queue.offer()
        assert device.client.buffers() == []
        assert frontend.tell(SET_VRING_ADDR, queue.addresses())
        assert queue.wait() == 0


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_ring_sizes_that_cannot_be(build: Path, tmp_path: Path, size: int) -> None:
    with started(build, tmp_path) as (device, frontend):
        queue = frontend.queues[INFLATE]
        queue.stop()
        assert frontend.tell(SET_VRING_NUM, struct.pack("<II", 0, size))
        assert frontend.tell(SET_VRING_KICK, pack64(0), [queue.kick_fd])
        assert device.events("ring-lost")[-1]["why"] == "ring size is not a power of two up to 32768"


def test_a_queue_that_is_not_enabled_waits(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    queue = frontend.queues[INFLATE]
    assert frontend.tell(SET_VRING_ENABLE, struct.pack("<II", 0, 0))
    queue.put(pfns(PFN))
    queue.offer()
    assert device.client.buffers() == []
    assert frontend.tell(SET_VRING_ENABLE, struct.pack("<II", 0, 1))
    assert queue.wait() == 0


def test_configuration(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    device.client.set_target_pages(53 * 256)
    assert frontend.channel is not None
    assert struct.unpack("<III", frontend.channel.recv(64)) == (CONFIG_CHANGE, 1, 0)
    for size in (16, 4, 8, 60, 256):
        ask = struct.pack("<III", 0, size, 0)
        answer = frontend.ask(GET_CONFIG, ask + bytes(size))
        assert answer == ask + struct.pack("<II", 53 * 256, 0).ljust(size, b"\0")[:size]
    assert frontend.ask(GET_CONFIG, struct.pack("<III", 4, 4, 0)) == struct.pack("<III4x", 4, 4, 0)
    assert frontend.ask(GET_CONFIG, struct.pack("<III", 0, 257, 0)) == b""
    # QEMU hands the whole space back when the driver writes a part of it; only `actual` is the driver's.
    assert frontend.tell(SET_CONFIG, struct.pack("<IIIIIII", 0, 16, 0, 99, 7, 3, 4))
    status = device.client.status()
    assert (status["target_pages"], status["actual_pages"]) == (53 * 256, 7)
    assert device.client.actual_pages() == 7
    assert frontend.tell(SET_CONFIG, struct.pack("<IIIHxx", 4, 2, 0, 1))
    assert device.client.actual_pages() == 7
    assert frontend.tell(SET_CONFIG, struct.pack("<IIII", 4, 4, 0, 2**32 - 1))
    assert device.client.actual_pages() == 2**32 - 1


def test_reset_and_a_new_start(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    inflate = frontend.queues[INFLATE]
    inflate.send(pfns(PFN))
    assert [queue.stop() for queue in frontend.queues] == [1, 0]
    inflate.put(pfns(PFN + 1))
    inflate.offer()
    device.client.status()
    assert len(device.client.buffers()) == 1
    # A driver that was loaded anew: its ring starts from nothing.
    frontend.write(inflate.base, bytes(0x4000))
    inflate.available = inflate.served = 0
    assert frontend.tell(SET_FEATURES, pack64(VERSION_1 | BIT_30))
    for queue in frontend.queues:
        queue.start()
    inflate.send(pfns(PFN + 2))
    assert counts(device.client.status()["inflate"], "buffers", "pages") == [2, 2]


def test_reconnect_forgets_the_guest_and_keeps_the_totals(build: Path, tmp_path: Path) -> None:
    with running(build, tmp_path) as device:
        for number in range(1, 4):
            frontend = device.connect()
            frontend.start()
            frontend.queues[INFLATE].send(pfns(PFN, PFN + 1))
            assert frontend.tell(SET_CONFIG, struct.pack("<IIII", 4, 4, 0, 2))
            status = device.client.status()
            assert (status["ballooned_pages"], status["actual_pages"]) == (2, 2)
            assert counts(status["inflate"], "pages", "already") == [2 * number, 0]
            frontend.close()
            while device.client.status()["connected"]:
                pass
        status = device.client.status()
        assert (status["regions"], status["actual_pages"], status["ballooned_pages"]) == (0, 0, 0)
        assert "memfd:guest" not in Path(f"/proc/{device.process.pid}/maps").read_text()
        assert len(device.events("disconnected")) == 3


def test_half_a_message_and_a_gone_frontend(build: Path, tmp_path: Path) -> None:
    with running(build, tmp_path) as device:
        frontend = device.connect()
        frontend.connection.sendall(b"\1\0\0")
        frontend.close()
        again = device.connect()
        again.negotiate()
        again.close()


def test_many_descriptors_are_not_kept(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    descriptors = Path(f"/proc/{device.process.pid}/fd")
    held = len(list(descriptors.iterdir()))
    for _ in range(20):
        frontend.send(SET_VRING_CALL, pack64(0), [frontend.memory_fd] * 8)
        assert not frontend.tell(GET_FEATURES + 100, b"", [frontend.memory_fd] * 20)
        frontend.share_memory()
        frontend.queues[INFLATE].set_call()
    assert len(list(descriptors.iterdir())) == held

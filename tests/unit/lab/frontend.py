# SPDX-License-Identifier: GPL-2.0-or-later
"""A vhost-user frontend and guest in one, for tests of the lab's device: memory and rings made by hand."""

from __future__ import annotations

import errno
import json
import mmap
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import folders
from lab.vhost import BackendClient

Json = dict[str, Any]

PAGE = 4096
MIB = 1 << 20
LOW_BYTES = 8 * MIB
HIGH_START = 1 << 32
HIGH_BYTES = 24 * MIB
USER = 0x7F00_0000_0000  # where this frontend pretends to have it all mapped
RINGS = 0  # the first MiB of guest memory is for rings and buffers
BUFFERS = 0x2_0000
FIRST_FREE_PFN = MIB // PAGE
LOW_PFNS = LOW_BYTES // PAGE
HIGH_PFN = HIGH_START // PAGE
HIGH_PFNS = HIGH_BYTES // PAGE

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG = 21, 24, 25
REPLY, NEED_REPLY = 4, 8
CONFIG_CHANGE = 2

BIT_3, BIT_30, VERSION_1 = 1 << 3, 1 << 30, 1 << 32
PROTOCOL = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 9

NEXT, WRITE, INDIRECT = 1, 2, 4
INFLATE, DEFLATE = 0, 1
RING_SIZE = 16
PATIENCE_S = 10
ENVIRONMENT = {
    **os.environ,
    "ASAN_OPTIONS": "exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


class Disconnected(Exception):  # noqa: N818
    """The backend has closed the connection."""


class Frontend:
    """One connection to a backend, and the guest's memory behind it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(PATIENCE_S)
        self.memory_fd = os.memfd_create("guest")
        os.ftruncate(self.memory_fd, LOW_BYTES + HIGH_BYTES)
        self.memory = mmap.mmap(self.memory_fd, LOW_BYTES + HIGH_BYTES)
        self.channel: socket.socket | None = None
        self.queues: list[Queue] = []

    def close(self) -> None:
        for queue in self.queues:
            queue.close()
        if self.channel is not None:
            self.channel.close()
        self.connection.close()
        self.memory.close()
        os.close(self.memory_fd)

    # ---- messages ----

    def send(self, request: int, body: bytes = b"", fds: Sequence[int] = (), flags: int = 1) -> None:
        words = struct.pack("<III", request, flags, len(body)) + body
        socket.send_fds(self.connection, [words], list(fds))

    def receive(self) -> tuple[int, int, bytes]:
        request, flags, length = struct.unpack("<III", self._receive_exactly(12))
        return request, flags, self._receive_exactly(length)

    def ask(self, request: int, body: bytes = b"") -> bytes:
        """The body of the answer."""
        self.send(request, body)
        answered, flags, answer = self.receive()
        assert (answered, flags) == (request, 1 | REPLY)
        return answer

    def tell(self, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> bool:
        """Whether the backend says it has done it; asks by NEED_REPLY."""
        self.send(request, body, fds, flags=1 | NEED_REPLY)
        answered, flags, answer = self.receive()
        assert (answered, flags, len(answer)) == (request, 1 | REPLY, 8)
        return u64(answer) == 0

    def is_disconnected(self) -> bool:
        try:
            return self.connection.recv(1) == b""
        except ConnectionResetError:
            return True

    def _receive_exactly(self, length: int) -> bytes:
        received = b""
        while len(received) < length:
            part = self.connection.recv(length - len(received))
            if not part:
                raise Disconnected
            received += part
        return received

    # ---- what QEMU does, in its order ----

    def negotiate(self, features: int = VERSION_1) -> None:
        assert u64(self.ask(GET_FEATURES)) & BIT_30
        assert u64(self.ask(GET_PROTOCOL_FEATURES)) == PROTOCOL
        self.send(SET_PROTOCOL_FEATURES, pack64(PROTOCOL))
        assert self.tell(SET_OWNER)
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE_S)
        assert self.tell(SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        theirs.close()
        self.channel = ours
        assert self.tell(SET_FEATURES, pack64(features | BIT_30))

    def share_memory(self) -> None:
        regions = [(0, LOW_BYTES, USER, 0), (HIGH_START, HIGH_BYTES, USER + LOW_BYTES, LOW_BYTES)]
        assert self.tell(SET_MEM_TABLE, mem_table(regions), [self.memory_fd] * 2)

    def start(self, features: int = VERSION_1, queues: int = 2) -> None:
        self.negotiate(features)
        self.queues = [Queue(self, index) for index in range(queues)]
        for queue in self.queues:
            queue.set_call()  # as QEMU does: before the ring has a size
        self.share_memory()
        for queue in self.queues:
            queue.start()

    def write(self, guest_address: int, data: bytes) -> None:
        offset = guest_address if guest_address < LOW_BYTES else guest_address - HIGH_START + LOW_BYTES
        self.memory[offset : offset + len(data)] = data

    def fill(self, pfn: int, pages: int = 1) -> None:
        self.write(pfn * PAGE, b"\xa5" * (PAGE * pages))

    def page(self, pfn: int) -> bytes:
        offset = pfn * PAGE if pfn < LOW_PFNS else pfn * PAGE - HIGH_START + LOW_BYTES
        return self.memory[offset : offset + PAGE]

    def resident_pages(self) -> int:
        """Pages of guest memory that really take memory."""
        return os.fstat(self.memory_fd).st_blocks * 512 // PAGE


@dataclass
class Descriptor:
    address: int
    length: int
    flags: int = 0
    next: int = 0


class Queue:
    """A split ring in guest memory, the driver's side."""

    def __init__(self, frontend: Frontend, index: int) -> None:
        self.frontend = frontend
        self.index = index
        self.base = RINGS + index * 0x4000
        self.data = BUFFERS + index * 0x2_0000
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.available = 0
        self.served = 0

    def close(self) -> None:
        os.close(self.kick_fd)
        os.close(self.call_fd)

    def set_call(self) -> None:
        assert self.frontend.tell(SET_VRING_CALL, pack64(self.index), [self.call_fd])

    def start(self, base: int | None = None) -> None:
        tell = self.frontend.tell
        assert tell(SET_VRING_NUM, struct.pack("<II", self.index, RING_SIZE))
        assert tell(SET_VRING_BASE, struct.pack("<II", self.index, self.available if base is None else base))
        assert tell(SET_VRING_ADDR, self.addresses())
        assert tell(SET_VRING_KICK, pack64(self.index), [self.kick_fd])
        assert tell(SET_VRING_ENABLE, struct.pack("<II", self.index, 1))

    def addresses(self, shift: int = 0) -> bytes:
        user = USER + self.base + shift
        return struct.pack("<IIQQQQ", self.index, 0, user, user + 0x2000, user + 0x1000, 0)

    def stop(self) -> int:
        """The base the backend answers with."""
        index, base = struct.unpack(
            "<II", self.frontend.ask(GET_VRING_BASE, struct.pack("<II", self.index, 0))
        )
        assert index == self.index
        return int(base)

    def describe(self, number: int, descriptor: Descriptor) -> None:
        words = struct.pack("<QIHH", descriptor.address, descriptor.length, descriptor.flags, descriptor.next)
        self.frontend.write(self.base + 16 * number, words)

    def offer(self, head: int = 0, *, kick: bool = True) -> None:
        slot = self.base + 0x1000 + 4 + 2 * (self.available % RING_SIZE)
        self.frontend.write(slot, struct.pack("<H", head))
        self.available = (self.available + 1) & 0xFFFF
        self.set_index(self.available)
        if kick:
            self.kick()

    def set_index(self, index: int) -> None:
        self.frontend.write(self.base + 0x1000 + 2, struct.pack("<H", index))

    def kick(self) -> None:
        os.eventfd_write(self.kick_fd, 1)

    def wait(self) -> int:
        """Waits until the next buffer is given back; the head of it."""
        while self.used_index() == self.served:
            ready, _, _ = select.select([self.call_fd], [], [], PATIENCE_S)
            assert ready, "the buffer did not come back"
            os.eventfd_read(self.call_fd)
        entry = self.base + 0x2000 + 4 + 8 * (self.served % RING_SIZE)
        head, written = struct.unpack("<II", self.frontend.memory[entry : entry + 8])
        assert written == 0
        self.served = (self.served + 1) & 0xFFFF
        return int(head)

    def used_index(self) -> int:
        return int(struct.unpack("<H", self.frontend.memory[self.base + 0x2002 : self.base + 0x2004])[0])

    def put(self, *parts: bytes) -> None:
        """Buffers into memory, and descriptors 0, 1, ... that chain them."""
        address = self.data
        for number, part in enumerate(parts):
            self.frontend.write(address, part)
            flags = NEXT if number < len(parts) - 1 else 0
            self.describe(number, Descriptor(address, len(part), flags, number + 1))
            address += len(part)

    def send(self, *parts: bytes) -> None:
        """One chain, sent and given back."""
        self.put(*parts)
        self.send_described()

    def send_described(self) -> None:
        self.offer()
        assert self.wait() == 0


@dataclass
class Device:
    """A backend that runs: how to talk to it, and what it wrote."""

    process: subprocess.Popen[bytes]
    folder: Path
    client: BackendClient

    def connect(self) -> Frontend:
        return Frontend(folders.connect(self.folder, "vhost"))

    def last_buffer(self) -> Json:
        return self.client.buffers()[-1]

    def events(self, name: str) -> list[Json]:
        return [event for event in self.client.log() if event["event"] == name]

    def refusal(self) -> str:
        return str(self.events("refused")[-1]["why"])


@contextmanager
def running(build: Path, folder: Path, *options: str) -> Iterator[Device]:
    """A backend; it must end in order, which under the sanitizers says a lot."""
    command = [
        str(build / "balloon-backend"), "--socket", "vhost", "--control", "control",
        "--log", "backend.log", "--dump", "payloads.bin", *options,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    client = BackendClient(folder, lambda: _connect(folder, process))
    try:
        client.status()
        yield Device(process, folder, client)
        client.command("quit")
        process.wait(PATIENCE_S)
    finally:
        client.close()
        process.kill()
        messages = process.communicate()[1].decode()
    assert (process.returncode, messages) == (0, "")
    lines = (folder / "backend.log").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "totals"


def _connect(folder: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    """The control socket is there soon after the start."""
    while True:
        try:
            return folders.connect(folder, "control")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ECONNREFUSED) or process.poll() is not None:
                raise
        select.select([], [], [], 0.005)


def pack64(value: int) -> bytes:
    return struct.pack("<Q", value)


def u64(body: bytes) -> int:
    return int(struct.unpack("<Q", body)[0])


def mem_table(regions: Sequence[tuple[int, int, int, int]]) -> bytes:
    return struct.pack("<II", len(regions), 0) + b"".join(struct.pack("<QQQQ", *region) for region in regions)


def pfns(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def response(payload: bytes, length: int | None = None, low: int = 0) -> tuple[bytes, bytes]:
    """Header and payload as the patched driver sends them."""
    return pack64((len(payload) if length is None else length) << 32 | low), payload


def word(pfn: int, bits: int, shift: int = 12) -> bytes:
    return struct.pack("<QQ", pfn | shift << 52 | 8 << 58, bits)


def plain(pfn: int, order: int) -> bytes:
    return pack64(pfn | (12 + order) << 52)

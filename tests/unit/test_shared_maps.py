# SPDX-License-Identifier: GPL-2.0-or-later
"""The consumer's end of a ring buffer, on memory that is written as the kernel does it."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloontrace.format.guest_layout import RING_HEADER_BYTES
from balloontrace.trace.shared_maps import RecordRing, SharedPage

PAGE_BYTES = mmap.PAGESIZE
RING_BYTES = PAGE_BYTES
PAYLOAD_BYTES = 56
STRIDE_BYTES = RING_HEADER_BYTES + PAYLOAD_BYTES
RING_RECORDS = RING_BYTES // STRIDE_BYTES
BUSY = 1 << 31


class KernelEnd:
    """The producer: a page for each position, then the data twice over, as kernel/bpf/ringbuf.c maps it.

    A file cannot show one page at two places, so every byte is written to both.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE_BYTES + 2 * RING_BYTES)
        self._memory = mmap.mmap(self.fd, 0)
        self.produced = 0

    def start_at(self, position: int) -> None:
        """As if `position` bytes had gone through already."""
        self.produced = position
        struct.pack_into("Q", self._memory, 0, position)
        struct.pack_into("Q", self._memory, PAGE_BYTES, position)

    @property
    def consumed(self) -> int:
        return int(struct.unpack_from("Q", self._memory, 0)[0])

    def reserve(self, payload: bytes) -> int:
        """A record that is still being written; its position, or -1 when there is no room."""
        if self.produced + STRIDE_BYTES - self.consumed > RING_BYTES:
            return -1
        position = self.produced
        self._put(position, struct.pack("II", len(payload) | BUSY, 0) + payload)
        self.produced += STRIDE_BYTES
        struct.pack_into("Q", self._memory, PAGE_BYTES, self.produced)
        return position

    def submit(self, position: int) -> None:
        self._put(position, struct.pack("I", PAYLOAD_BYTES))

    def output(self, payload: bytes) -> bool:
        position = self.reserve(payload)
        if position >= 0:
            self.submit(position)
        return position >= 0

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)

    def _put(self, position: int, content: bytes) -> None:
        for number, byte in enumerate(content):
            place = 2 * PAGE_BYTES + (position + number) % RING_BYTES
            self._memory[place] = self._memory[place + RING_BYTES] = byte


@pytest.fixture
def kernel() -> Iterator[KernelEnd]:
    end = KernelEnd()
    yield end
    end.close()


@pytest.fixture
def ring(kernel: KernelEnd) -> Iterator[RecordRing]:
    consumer = RecordRing(kernel.fd, RING_BYTES, STRIDE_BYTES)
    yield consumer
    consumer.close()


def payload(number: int) -> bytes:
    return struct.pack("Q", number) * (PAYLOAD_BYTES // 8)


def drained(ring: RecordRing) -> bytes:
    """What a drain hands over, copied out of the ring."""
    taken: list[bytes] = []
    count = ring.drain(lambda view: taken.append(bytes(view)))
    raw = b"".join(taken)
    assert len(raw) == count * STRIDE_BYTES
    return raw


def numbers(raw: bytes) -> list[int]:
    """What records are in drained bytes, each checked to be whole and not another's."""
    assert len(raw) % STRIDE_BYTES == 0
    found = []
    for start in range(0, len(raw), STRIDE_BYTES):
        length, _ = struct.unpack_from("II", raw, start)
        assert length == PAYLOAD_BYTES
        (number,) = struct.unpack_from("Q", raw, start + RING_HEADER_BYTES)
        assert raw[start + RING_HEADER_BYTES : start + STRIDE_BYTES] == payload(number)
        found.append(number)
    return found


def test_empty(kernel: KernelEnd, ring: RecordRing) -> None:
    assert drained(ring) == b""
    assert kernel.consumed == 0


def test_each_record_comes_once_and_in_order(kernel: KernelEnd, ring: RecordRing) -> None:
    for number in range(7):
        assert kernel.output(payload(number))
    assert numbers(drained(ring)) == list(range(7))
    assert drained(ring) == b""
    kernel.output(payload(7))
    assert numbers(drained(ring)) == [7]


def test_draining_frees_room(kernel: KernelEnd, ring: RecordRing) -> None:
    assert all(kernel.output(payload(number)) for number in range(RING_RECORDS))
    assert not kernel.output(payload(99))
    assert numbers(drained(ring)) == list(range(RING_RECORDS))
    assert kernel.consumed == kernel.produced
    assert kernel.output(payload(99))
    assert numbers(drained(ring)) == [99]


def test_a_record_being_written_holds_back_what_follows(kernel: KernelEnd, ring: RecordRing) -> None:
    kernel.output(payload(0))
    kernel.output(payload(1))
    unfinished = kernel.reserve(payload(2))
    kernel.output(payload(3))
    assert numbers(drained(ring)) == [0, 1]
    assert drained(ring) == b""
    assert kernel.consumed == 2 * STRIDE_BYTES
    kernel.submit(unfinished)
    assert numbers(drained(ring)) == [2, 3]


def test_only_a_record_being_written(kernel: KernelEnd, ring: RecordRing) -> None:
    unfinished = kernel.reserve(payload(5))
    assert drained(ring) == b""
    kernel.submit(unfinished)
    assert numbers(drained(ring)) == [5]


def test_a_stretch_across_the_end(kernel: KernelEnd, ring: RecordRing) -> None:
    kernel.start_at((RING_RECORDS - 3) * STRIDE_BYTES)
    for number in range(10):
        kernel.output(payload(number))
    assert numbers(drained(ring)) == list(range(10))


def test_positions_beyond_four_gibibytes(kernel: KernelEnd, ring: RecordRing) -> None:
    kernel.start_at((1 << 40) + (RING_RECORDS - 1) * STRIDE_BYTES)
    for number in range(RING_RECORDS):
        kernel.output(payload(number))
    assert numbers(drained(ring)) == list(range(RING_RECORDS))


# True outputs a record, False drains.
@given(steps=st.lists(st.tuples(st.integers(1, RING_RECORDS + 5), st.booleans()), max_size=12))
def test_nothing_is_lost_or_doubled_whatever_the_rhythm(steps: list[tuple[int, bool]]) -> None:
    kernel = KernelEnd()
    ring = RecordRing(kernel.fd, RING_BYTES, STRIDE_BYTES)
    written: list[int] = []
    seen: list[int] = []
    for count, drains in steps:
        for number in range(len(written), len(written) + count):
            if kernel.output(payload(number)):
                written.append(number)
            else:
                break
        if drains:
            seen += numbers(drained(ring))
    seen += numbers(drained(ring))
    ring.close()
    kernel.close()
    assert seen == written


def test_closing_gives_everything_back(kernel: KernelEnd) -> None:
    ring = RecordRing(kernel.fd, RING_BYTES, STRIDE_BYTES)
    ring.close()
    with pytest.raises(ValueError, match="released"):
        drained(ring)


@pytest.mark.parametrize("value_bytes", [8, PAGE_BYTES, PAGE_BYTES + 8])
def test_a_shared_value_is_read_as_it_stands(value_bytes: int) -> None:
    fd = os.memfd_create("value")
    os.ftruncate(fd, -(-value_bytes // PAGE_BYTES) * PAGE_BYTES)
    page = SharedPage(fd, value_bytes)
    assert page.read() == bytes(value_bytes)
    os.pwrite(fd, b"\x2a", value_bytes - 1)
    assert page.read() == bytes(value_bytes - 1) + b"\x2a"
    page.close()
    os.close(fd)


def test_closing_after_an_error_that_still_holds_the_view(kernel: KernelEnd) -> None:
    """A disk that is full while the ring is written out: the error's traceback looks into the ring."""

    def take(view: memoryview) -> None:
        part = view[:8]
        raise OSError(28, "No space left on device", part)

    consumer = RecordRing(kernel.fd, RING_BYTES, STRIDE_BYTES)
    kernel.output(payload(1))
    with pytest.raises(OSError, match="No space left") as raised:
        consumer.drain(take)
    assert kernel.consumed == 0
    consumer.close()
    assert raised.value.__traceback__ is not None

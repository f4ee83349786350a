# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps shared with the kernel, read without a system call or a callback per event.

bcc offers one Python callback per event; at one call per send that costs an inflate 32 % (measured in an
instruction-counted guest). Here the ring is copied as it is, and decoded for the report.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from contextlib import suppress

# Documentation/bpf/ringbuf.rst: two u32 before each record, length and page offset. The length's top bit says
# that the record is still being written, the next one that it was discarded.
_TOP_BYTE_OF_LENGTH = 3 if sys.byteorder == "little" else 0


class RecordRing:
    """The consumer's end of a BPF ring buffer whose records all have one size."""

    def __init__(self, fd: int, ring_bytes: int, record_bytes: int) -> None:
        """Map the ring of map `fd`; `record_bytes` counts the header and padding to 8."""
        page = mmap.PAGESIZE
        self._ring_bytes = ring_bytes
        self._stride = record_bytes
        self._consumer_page = mmap.mmap(fd, page)
        # The kernel maps the data twice in a row, so that a stretch across the end is contiguous.
        self._producer_pages = mmap.mmap(fd, page + 2 * ring_bytes, prot=mmap.PROT_READ, offset=page)
        self._consumer = memoryview(self._consumer_page).cast("Q")
        self._producer = memoryview(self._producer_pages)[:8].cast("Q")
        self._data = memoryview(self._producer_pages)[page:]

    @property
    def waiting(self) -> int:
        """Records in the ring, finished or not."""
        return (self._producer[0] - self._consumer[0]) // self._stride

    @property
    def capacity(self) -> int:
        """Records the ring has room for."""
        return self._ring_bytes // self._stride

    def drain(self, take: Callable[[memoryview], object]) -> int:
        """Give `take` every finished record since the last call, headers included, then free their room.

        The view lies in the ring itself and is valid inside `take` only; copying it would cost the guest more
        than all the rest of a wake-up. Nothing is freed when `take` raises. Returns the number of records.
        """
        position = self._consumer[0]
        start = position % self._ring_bytes
        finished = self._count_finished(start, self.waiting)
        if finished:
            with self._data[start : start + finished * self._stride] as whole:
                take(whole)
        self._consumer[0] = position + finished * self._stride
        return finished

    def _count_finished(self, start: int, waiting: int) -> int:
        """How many of the `waiting` records from `start` in the data on are finished, up to the first not."""
        # From the mapping and not from a view of it: that takes eight times as long for a slice with a step.
        first = mmap.PAGESIZE + start + _TOP_BYTE_OF_LENGTH
        marks = self._producer_pages[first : first + waiting * self._stride : self._stride]
        if marks == bytes(waiting):
            return waiting
        return len(marks) - len(marks.lstrip(b"\0"))

    def close(self) -> None:
        """Give the mappings back."""
        for view in (self._consumer, self._producer, self._data):
            view.release()
        for pages in (self._consumer_page, self._producer_pages):
            # An error on its way out still holds the view that `take` was given; the process's end unmaps it.
            with suppress(BufferError):
                pages.close()


class SharedPage:
    """A BPF array of one value, mapped: reading it costs no system call."""

    def __init__(self, fd: int, value_bytes: int, *, writable: bool = False) -> None:
        """Map the value of map `fd`, created with BPF_F_MMAPABLE."""
        self._value_bytes = value_bytes
        whole_pages = -(-value_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        writing = mmap.PROT_WRITE if writable else 0
        self._pages = mmap.mmap(fd, whole_pages, prot=mmap.PROT_READ | writing)

    def read(self) -> bytes:
        """The value as it stands now."""
        return self._pages[: self._value_bytes]

    def read_part(self, at: int, size_bytes: int) -> bytes:
        """So many bytes of it from byte `at` on."""
        return self._pages[at : at + size_bytes]

    def write(self, raw: bytes, at: int = 0) -> None:
        """Put `raw` there, from byte `at` on."""
        self._pages[at : at + len(raw)] = raw

    def close(self) -> None:
        """Give the mapping back."""
        self._pages.close()

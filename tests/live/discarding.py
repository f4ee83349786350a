# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest that has Python alone: serves buffers as a device does, with a discard for each page.

`discarding.py BUFFERS PAGES` begins with each line that comes in, and says "served" when all are.
"""

from __future__ import annotations

import mmap
import os
import sys

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Kicks itself, touches and discards pages, and completes, over and over."""
    buffers, pages = map(int, sys.argv[1:])
    kick, done = os.eventfd(0), os.eventfd(0)
    memory = mmap.mmap(-1, pages * PAGE_BYTES)
    print("ready", flush=True)
    for _ in sys.stdin:
        for _ in range(buffers):
            os.eventfd_write(kick, 1)
            os.eventfd_read(kick)
            for start in range(0, len(memory), PAGE_BYTES):
                memory[start] = 1
                memory.madvise(mmap.MADV_DONTNEED, start, PAGE_BYTES)
            os.eventfd_write(done, 1)
        print("served", flush=True)


if __name__ == "__main__":
    main()

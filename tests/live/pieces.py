# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose free memory is in single pages, and stays so: nothing larger than four pages is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import lab
from lab.aging import free_pages, read_free_blocks

_LEFT_MIB = 40  # to the guest while it is filled
# The lowest zone is kept for devices, the kernel's reserve is small, and nobody compacts unasked.
_SETTINGS = (
    "vm.lowmem_reserve_ratio=1 256 32 0 0",
    "vm.min_free_kbytes=4096",
    "vm.compaction_proactiveness=0",
)
# Sockets take blocks of eight pages without compaction, and without reclaim.
_PIECES = """
import mmap, os, random, socket, sys, time
def large_blocks():
    with open("/proc/buddyinfo") as lines:
        return sum(int(n) for line in lines if " DMA32 " in line for n in line.split()[4 + 3:])
size = int(sys.argv[1]) << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(0, size, 4096):
    memory[page] = 1
chance = random.Random(1)
for page in range(0, size, 4096):
    if chance.random() < 0.15:
        memory.madvise(mmap.MADV_DONTNEED, page, 4096)
os.nice(19)
pairs, full, said, since_s = [], True, False, time.monotonic()
while True:
    if not large_blocks():
        if not said and time.monotonic() - since_s > 3:
            said = True
            print("in pieces", flush=True)
        time.sleep(0.001)
        continue
    since_s = time.monotonic()
    if full:
        pairs.append(socket.socketpair())
        pairs[-1][0].setblocking(False)
    try:
        full = False
        pairs[-1][0].send(bytes(32768))
    except BlockingIOError:
        full = True
"""


@contextmanager
def in_pieces(guest: lab.Guest) -> Iterator[None]:
    """A guest of less than 3 GiB in that state, until the block ends. Raises LabError."""
    guest.run(["sysctl", "-w", *_SETTINGS], check=True)
    mib = free_pages(read_free_blocks(guest)) // 256 - _LEFT_MIB
    program = guest.start(["python3", "-c", _PIECES, str(mib)])
    try:
        program.wait_for(b"in pieces", 600, stream="stdout")
        yield
    finally:
        program.kill()
        program.wait(60)

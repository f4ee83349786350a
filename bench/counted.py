# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs balloontrace, and counts what it holds when it looks for processes, while somebody asks for that.

    python3 -P counted.py FILE balloontrace-words...

While FILE.ask is there, each look appends a line to FILE. Counted is what is in use: RSS has room in it, too.
"""

from __future__ import annotations

import ctypes
import gc
import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass

# mallinfo2(3) of the GNU C library
_FIELDS = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


@dataclass(frozen=True)
class Held:
    """What a process had in use: Python's blocks, and bytes of the C library's heap.

    Large blocks have mappings of their own and are not in it: the interpreter's table of names doubles once.
    """

    blocks: int
    heap_bytes: int

    def __str__(self) -> str:
        return f"{self.blocks} blocks, {self.heap_bytes} B"


class _Heap(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)


def parse_held(text: str) -> Held:
    """What was counted last."""
    blocks, heap_bytes = map(int, text.splitlines()[-1].split())
    return Held(blocks, heap_bytes)


def _counting(file: str) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook: procfs is listed at each look, by the thread that follows processes."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)  # nobody could not, later
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Heap

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.listdir" and str(arguments[0]) == "/proc" and os.access(f"{file}.ask", os.F_OK):
            gc.collect()
            # Names of attributes that C code has made: the interpreter keeps up to 4096, the less the fuller.
            sys._clear_type_cache()
            os.write(fd, f"{sys.getallocatedblocks()} {mallinfo2().uordblks}\n".encode())

    return count


if __name__ == "__main__":
    sys.addaudithook(_counting(sys.argv[1]))
    sys.argv = ["balloontrace", *sys.argv[2:]]
    runpy.run_module("balloontrace", run_name="__main__", alter_sys=True)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory of this process: its peak, and how to keep it from growing over days of the same work."""

from __future__ import annotations

import ctypes
import gc
import re
from contextlib import suppress
from pathlib import Path

# mallopt(3), in malloc.h of the GNU C library; others have no such function.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BYTES = 128 << 10


def keep_memory_flat() -> None:
    """To be called before threads are started.

    Threads share one heap, and large blocks are given back when they are freed. By default what is large
    grows with what was freed last, and the heap keeps holes of that size.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def set_objects_aside() -> None:
    """What is there now stays: the collector looks at the rest alone, and so more often."""
    gc.collect()
    gc.freeze()


def read_peak_memory_bytes() -> int | None:
    """VmHWM; ru_maxrss would count the process that started this one, before it became ours."""
    match = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else None

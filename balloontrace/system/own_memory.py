# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the memory of this process from growing over days, where it does the same again and again."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

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

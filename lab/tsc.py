# SPDX-License-Identifier: GPL-2.0-or-later
"""The rate of this machine's time stamp counter, which emulated guests read as their own."""

from __future__ import annotations

import ctypes
import mmap
import platform
import time
from collections.abc import Callable

# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ_TSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
_MEASURE_NS = 50_000_000
_TRIALS = 3
_TRIES = 9


def clock_arguments() -> tuple[str, ...]:
    """Words for the kernel of an emulated guest, so that it need not measure the counter itself.

    It would against an emulated timer, in 50 ms. On a busy machine it found 592 MHz instead of 2 596. It then
    distrusted the counter, and a KVM in it gave its own guest an equally wrong clock.
    """
    khz = measure_tsc_khz()
    return () if khz is None else (f"tsc_early_khz={khz}", "tsc=reliable")


def measure_tsc_khz() -> int | None:
    """Counts in a millisecond, the median of three measurements; None on a machine without this counter."""
    if platform.machine() != "x86_64":
        return None
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_READ_TSC)
        anchor = ctypes.c_char.from_buffer(page)
        # PYFUNCTYPE keeps other threads out, which could run between the two clocks else.
        read_tsc = ctypes.PYFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))
        rates: list[int] = []
        for _ in range(_TRIALS):
            begin, from_ns = _read_both(read_tsc)
            time.sleep(_MEASURE_NS / 1e9)
            end, to_ns = _read_both(read_tsc)
            rates.append((end - begin) * 1_000_000 // (to_ns - from_ns))
        del read_tsc, anchor  # the page cannot be given back before
    return sorted(rates)[_TRIALS // 2]


def _read_both(read_tsc: Callable[[], int]) -> tuple[int, int]:
    """The counter and the monotonic clock in ns at one moment: of some tries the quickest."""
    tries = [(read_tsc(), time.monotonic_ns(), read_tsc()) for _ in range(_TRIES)]
    before, now_ns, _ = min(tries, key=lambda each: each[2] - each[0])
    return before, now_ns

# SPDX-License-Identifier: GPL-2.0-or-later
"""Size and target of a balloon at one time, and what a kernel's counts tell of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES

CONFIGURATION_SPACE = "configuration space"
VMSTAT = "/proc/vmstat"

# Linux has 256 KiB at most (PAGE_SHIFT 18, on PowerPC and Hexagon).
_LARGEST_PAGE_BYTES = 1 << 20


@dataclass(frozen=True)
class BalloonSize:
    """One balloon at one time, in 4 KiB pages; `present` is False once the device has gone."""

    device: str  # virtioN
    present: bool
    size_pages: int | None = None
    target_pages: int | None = None
    source: str | None = None  # where both were read


def count_balloon_pages(vmstat: Mapping[str, int], page_bytes: int | None) -> int | None:
    """Pages of 4 KiB in all balloons of a kernel, by its counts since boot; None without them.

    `page_bytes` is the kernel's page size, in which it counts.
    """
    taken, given = vmstat.get("balloon_inflate"), vmstat.get("balloon_deflate")
    unit_pages = kernel_page_in_pages(page_bytes)
    if taken is None or given is None or given > taken or unit_pages is None:
        return None
    return (taken - given) * unit_pages


def kernel_page_in_pages(page_bytes: int | None) -> int | None:
    """Balloon pages, which are 4 KiB, in one page of a kernel; None where no kernel has such pages."""
    if page_bytes is None or not BALLOON_PAGE_BYTES <= page_bytes <= _LARGEST_PAGE_BYTES:
        return None
    return page_bytes // BALLOON_PAGE_BYTES

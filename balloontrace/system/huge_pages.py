# SPDX-License-Identifier: GPL-2.0-or-later
"""Transparent huge pages of the whole machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from balloontrace.system.kernel import ROOT, read_text

_SIZES = "sys/kernel/mm/transparent_hugepage"
_SIZE = re.compile(r"hugepages-(\d+)kB")


def read_partly_mapped_bytes(root: Path = ROOT) -> int | None:
    """How large the huge pages are, all together, of which some part is mapped no more and some part is.

    The kernel frees none of their memory while it has enough. `nr_anon_partially_mapped` counts those of
    anonymous memory by size, from Linux 6.12 on (Documentation/admin-guide/mm/transhuge.rst); None elsewhere.
    """
    total_bytes = None
    for size_bytes, file in _counts(root):
        count = (read_text(file) or "").strip()
        if count.isdecimal():
            total_bytes = (total_bytes or 0) + size_bytes * int(count)
    return total_bytes


@cache
def _counts(root: Path) -> tuple[tuple[int, Path], ...]:
    """Sizes and the files with their counts: a kernel has the same ones as long as it runs."""
    return tuple(_find_counts(root))


def _find_counts(root: Path) -> Iterator[tuple[int, Path]]:
    for folder in (root / _SIZES).glob("hugepages-*kB"):
        size, file = _SIZE.fullmatch(folder.name), folder / "stats/nr_anon_partially_mapped"
        if size and file.exists():
            yield int(size[1]) << 10, file

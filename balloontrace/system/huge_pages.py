# SPDX-License-Identifier: GPL-2.0-or-later
"""Transparent huge pages of the whole machine."""

from __future__ import annotations

import re
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
    for folder in (root / _SIZES).glob("hugepages-*kB"):
        size, count = _SIZE.fullmatch(folder.name), read_text(folder / "stats/nr_anon_partially_mapped")
        if size and count and count.strip().isdecimal():
            total_bytes = (total_bytes or 0) + (int(size[1]) << 10) * int(count)
    return total_bytes

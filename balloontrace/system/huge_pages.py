# SPDX-License-Identifier: GPL-2.0-or-later
"""Transparent huge pages of the whole machine: how large, how many were made, how many are in use in part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from balloontrace.system.kernel import ROOT, read_text

_SIZES = "sys/kernel/mm/transparent_hugepage"
_MODES = ("enabled", "shmem_enabled")
_SIZE = re.compile(r"hugepages-(\d+)kB")


def read_collapsed(root: Path = ROOT) -> int | None:
    """How many huge pages khugepaged has made of small ones since the machine was booted.

    It fills what is missing of each, so that pages which were given back are in use again without a fault.
    """
    return _number(root / _SIZES / "khugepaged/pages_collapsed")


def read_huge_page_bytes(root: Path = ROOT) -> int | None:
    """How large a huge page is that one entry of a page middle directory maps; None without them."""
    return _number(root / _SIZES / "hpage_pmd_size")


def read_sizes_enabled(root: Path = ROOT) -> list[int] | None:
    """Sizes of huge pages, in bytes, that a fault may be answered with; None before Linux 6.8.

    Each size has a mode of its own (Documentation/admin-guide/mm/transhuge.rst); `inherit` has that of all.
    """
    found = [(size_bytes, folder) for size_bytes, folder in _folders(root) if (folder / "enabled").exists()]
    if not found:
        return None
    return sorted(size_bytes for size_bytes, folder in found if _is_enabled(folder))


def _is_enabled(folder: Path) -> bool:
    for name in _MODES:
        mode = chosen_of(read_text(folder / name))
        if mode == "inherit":
            mode = chosen_of(read_text(folder.parent / name))
        if mode not in (None, "never", "deny"):
            return True
    return False


def chosen_of(text: str | None) -> str | None:
    """The word in brackets, which is how the kernel shows what is chosen of a list."""
    found = re.search(r"\[([\w+]+)\]", text or "")
    return found[1] if found else None


def read_partly_mapped_bytes(root: Path = ROOT) -> int | None:
    """How large the huge pages are, all together, of which some part is mapped no more and some part is.

    The kernel frees none of their memory while it has enough. `nr_anon_partially_mapped` counts those of
    anonymous memory by size, from Linux 6.12 on (Documentation/admin-guide/mm/transhuge.rst); None elsewhere.
    """
    total_bytes = None
    for size_bytes, file in _counts(root):
        count = _number(file)
        if count is not None:
            total_bytes = (total_bytes or 0) + size_bytes * count
    return total_bytes


@cache
def _counts(root: Path) -> tuple[tuple[int, Path], ...]:
    """Sizes and the files with their counts: a kernel has the same ones as long as it runs."""
    return tuple(_find_counts(root))


def _find_counts(root: Path) -> Iterator[tuple[int, Path]]:
    for size_bytes, folder in _folders(root):
        file = folder / "stats/nr_anon_partially_mapped"
        if file.exists():
            yield size_bytes, file


def _folders(root: Path) -> Iterator[tuple[int, Path]]:
    for folder in (root / _SIZES).glob("hugepages-*kB"):
        if size := _SIZE.fullmatch(folder.name):
            yield int(size[1]) << 10, folder


def _number(file: Path) -> int | None:
    count = (read_text(file) or "").strip()
    return int(count) if count.isdecimal() else None

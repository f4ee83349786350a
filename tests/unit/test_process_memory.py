# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process holds, by region, by kind and by control group, as the kernel's files say it."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from balloontrace.system.cgroup import read_cgroup_memory
from balloontrace.system.huge_pages import (
    read_collapsed,
    read_huge_page_bytes,
    read_partly_mapped_bytes,
    read_sizes_enabled,
)
from balloontrace.system.machine import read_swap
from balloontrace.system.process_memory import (
    Region,
    SharedFiles,
    parse_regions,
    read_children,
    read_fault_counts,
    read_memory,
    read_merged_pages,
    read_regions,
)
from balloontrace.system.process_state import ProcessState

SMAPS = """\
7f0000000000-7f0040000000 rw-s 00000000 00:01 33 /memfd:guest memory (deleted)
Size:            1048576 kB
KernelPageSize:        4 kB
Rss:                 300 kB
Shared_Clean:         10 kB
Shared_Dirty:         20 kB
AnonHugePages:         0 kB
ShmemPmdMapped:      100 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  7 kB
VmFlags: rd wr sh mr mw me ms lo sd 
7f0080000000-7f0080200000 rw-p 00000000 00:00 0 
Rss:                   0 kB
KernelPageSize:     2048 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:    2048 kB
VmFlags: rd wr mr mw me ac ht sd 
7f0090000000-7f0090001000 r--p 00000000 08:01 5 /usr/lib/a b
"""  # noqa: W291  (as the kernel writes it)


def test_regions_are_told_with_what_they_are() -> None:
    shared, huge, plain = parse_regions(SMAPS.splitlines())
    assert shared == Region(
        0x7F0000000000, 0x7F0040000000, True, "/memfd:guest memory (deleted)", "00:01:33",
        rss_bytes=300 << 10, shared_bytes=30 << 10, huge_bytes=100 << 10, swap_bytes=7 << 10,
        page_bytes=4096, hugetlb=False, locked=True,
    )  # fmt: skip
    assert (huge.file, huge.shared, huge.hugetlb, huge.page_bytes) == (None, False, True, 2 << 20)
    assert (huge.rss_bytes, huge.locked, huge.swap_bytes) == (2 << 20, False, None)
    assert (plain.name, plain.file, plain.rss_bytes) == ("/usr/lib/a b", "08:01:5", None)


def test_this_process_s_own_memory_is_found() -> None:
    pages = 1031
    with mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        before = read_memory(os.getpid())
        for page in range(pages):
            memory[page * 4096] = 1
        found = [region for region in read_regions(os.getpid()) if region.end - region.start >= 64 << 20]
        after = read_memory(os.getpid())
    assert any(region.rss_bytes == pages * 4096 and not region.locked and not region.file for region in found)
    assert before
    assert after
    # The kernel counts by processor, and adds up now and then.
    assert (after.rss_anon_bytes or 0) - (before.rss_anon_bytes or 0) >= pages * 4096 // 2


def test_children_and_faults_are_of_the_process() -> None:
    children, before = read_children(os.getpid()), read_fault_counts(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        new = read_children(os.getpid()).keys() - children.keys()
        assert str(child.pid) in new
    finally:
        child.kill()
        child.wait()
    pages = 1031
    with mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(pages):
            memory[page * 4096] = 1
    assert read_fault_counts(os.getpid())["minor"] - before["minor"] >= pages


def test_a_reading_has_its_times_and_is_empty_without_a_process(tmp_path: Path) -> None:
    state = ProcessState(os.getpid()).read()
    assert isinstance(state["began_ns"], int)
    assert isinstance(state["monotonic_ns"], int)
    assert 0 < state["began_ns"] < state["monotonic_ns"]
    assert ProcessState(5, tmp_path).read() == {}
    assert read_regions(5, tmp_path) == ()
    assert read_children(5, tmp_path) == read_fault_counts(5, tmp_path) == {}


def test_huge_pages_partly_mapped_are_those_of_all_sizes(tmp_path: Path) -> None:
    assert read_partly_mapped_bytes(tmp_path / "older") is None
    for size, count in (("2048", "3\n"), ("64", "5\n"), ("1024", "")):
        stats = tmp_path / f"sys/kernel/mm/transparent_hugepage/hugepages-{size}kB/stats"
        stats.mkdir(parents=True)
        if count:
            (stats / "nr_anon_partially_mapped").write_text(count)
    assert read_partly_mapped_bytes(tmp_path) == 3 * (2 << 20) + 5 * (64 << 10)


def test_what_is_in_swap_and_what_is_merged(tmp_path: Path) -> None:
    assert (read_swap(tmp_path), read_merged_pages(5, tmp_path)) == ({}, None)
    (tmp_path / "sys/kernel/mm/ksm").mkdir(parents=True)
    for name, count in (("pages_shared", "3\n"), ("pages_sharing", "50\n")):
        (tmp_path / "sys/kernel/mm/ksm" / name).write_text(count)
    assert read_merged_pages(5, tmp_path) == 53
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/ksm_merging_pages").write_text("31\n")
    lines = "MemFree: 9 kB\nSwapCached: 12 kB\nSwapTotal: 900 kB\nSwapFree: 700 kB\nHugePages_Total: 0\n"
    (tmp_path / "proc/meminfo").write_text(lines)
    swap = {"used_bytes": 200 << 10, "cached_bytes": 12 << 10}
    assert (read_swap(tmp_path), read_merged_pages(5, tmp_path)) == (swap, 31)
    counters = "pswpin 7\npswpout 90\nzswpin 20\nswpin_zero 100\nswpout_zero 5\n"
    (tmp_path / "proc/vmstat").write_text(counters)
    assert read_swap(tmp_path) == {**swap, "brought_in_pages": 127}
    (tmp_path / "proc/meminfo").write_text("SwapCached: 0 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")
    assert read_swap(tmp_path) == {"used_bytes": 0, "cached_bytes": 0}


def write_modes(root: Path, size: str, **modes: str) -> None:
    folder = root / "sys/kernel/mm/transparent_hugepage" / size
    folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in modes.items():
        words = ("always", "inherit", "madvise", "never", "deny")
        (folder / name).write_text(" ".join(f"[{each}]" if each == chosen else each for each in words) + "\n")


def test_sizes_of_huge_pages_are_those_that_a_fault_may_bring(tmp_path: Path) -> None:
    assert read_sizes_enabled(tmp_path) is None
    assert (read_huge_page_bytes(tmp_path), read_collapsed(tmp_path)) == (None, None)
    write_modes(tmp_path, "hugepages-16kB", enabled="never", shmem_enabled="never")
    write_modes(tmp_path, "hugepages-32kB", enabled="never", shmem_enabled="always")
    write_modes(tmp_path, "hugepages-64kB", enabled="madvise", shmem_enabled="deny")
    write_modes(tmp_path, "hugepages-2048kB", enabled="inherit", shmem_enabled="inherit")
    write_modes(tmp_path, "", enabled="never", shmem_enabled="never")
    assert read_sizes_enabled(tmp_path) == [32 << 10, 64 << 10]
    write_modes(tmp_path, "", enabled="always")
    assert read_sizes_enabled(tmp_path) == [32 << 10, 64 << 10, 2 << 20]
    folder = tmp_path / "sys/kernel/mm/transparent_hugepage"
    (folder / "hpage_pmd_size").write_text("2097152\n")
    (folder / "khugepaged").mkdir()
    (folder / "khugepaged/pages_collapsed").write_text("71\n")
    assert (read_huge_page_bytes(tmp_path), read_collapsed(tmp_path)) == (2 << 20, 71)


@pytest.mark.parametrize(
    ("cgroup", "path"),
    [("0::/machine/vm.scope/emulator\n", "/machine/vm.scope"), ("0::/\n", None), ("1:memory:/vm\n", None)],
)
def test_the_group_is_the_nearest_that_memory_is_accounted_for(
    tmp_path: Path, cgroup: str, path: str | None
) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text(cgroup)
    scope = tmp_path / "sys/fs/cgroup/machine/vm.scope"
    (scope / "emulator").mkdir(parents=True)
    (scope / "memory.current").write_text("4096\n")
    (scope / "memory.stat").write_text("anon 5\nfile 6\nworkingset_nodes 7\n")
    (scope / "cgroup.procs").write_text("")
    (scope / "emulator/cgroup.procs").write_text("7\n8\n")
    found = read_cgroup_memory(7, tmp_path)
    told = {"path": path, "current_bytes": 4096, "stat": {"anon": 5, "file": 6}, "others": [8]}
    assert found == (told if path else None)


def test_of_a_very_large_process_the_pages_are_not_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "proc/7"
    (folder / "map_files").mkdir(parents=True)
    (folder / "status").write_text(f"VmSize: 9 kB\nVmRSS: {17 << 20} kB\n")
    (folder / "maps").write_text("\n".join(line for line in SMAPS.splitlines() if line.startswith("7f")))
    (folder / "map_files/7f0000000000-7f0040000000").write_text("")
    shared, anonymous = read_regions(7, tmp_path)
    assert (shared.rss_bytes, shared.locked, shared.hugetlb) == (None, None, False)
    assert (anonymous.page_bytes, anonymous.hugetlb) == (os.sysconf("SC_PAGE_SIZE"), False)


def test_files_that_came_or_went_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "proc/7/map_files"
    folder.mkdir(parents=True)
    maps = tmp_path / "proc/7/maps"
    line = "7f0000000000-7f0000001000 rw-s 00000000 00:01 {} /memfd:guest\n"
    place = folder / "7f0000000000-7f0000001000"
    maps.write_text(line.format(33))
    place.write_bytes(b"x" * 4096)
    files = SharedFiles(7, tmp_path)
    assert [(each.file, each.allocated_bytes) for each in files.read()] == [("00:01:33", 4096)]
    place.write_bytes(b"x" * 8192)
    assert [each.allocated_bytes for each in files.read()] == [8192]
    # Another file at another place: the old one is not there any more.
    place.rename(folder / "7f0000002000-7f0000003000")
    maps.write_text(line.format(34).replace("7f0000000000-7f0000001000", "7f0000002000-7f0000003000"))
    assert [(each.file, each.allocated_bytes) for each in files.read()] == [("00:01:34", 8192)]
    maps.write_text("")
    assert any(files.read() == () for _ in range(16))

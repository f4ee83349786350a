# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory of a process: how much of which kind, and what each of its large regions is.

Raw facts of /proc/PID/status, maps and smaps (proc(5)). What they mean for a discard is told when a report is
made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from balloontrace.system.kernel import ROOT, read_text

_MOST_FILES = _MOST_REGIONS = 64
_SMALLEST_REGION_BYTES = 1 << 20
# The kernel walks all page tables for /proc/PID/smaps: 280 million instructions for each GiB of small pages.
_MOST_WALKED_BYTES = 16 << 30
_MOST_CHILDREN = 32
_MOST_THREADS = 4096
_LOOKS_APART = 16
_SMALL_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# No file system on a disk has blocks so large, nor hugetlbfs smaller ones but on few machines.
_LEAST_HUGE_BYTES = 1 << 20
_FOLDERS_OF_FILES = ("/dev/shm/", "/dev/hugepages/", "/dev/zero")  # noqa: S108  (nothing is made there)

_STATUS = {
    "rss_anon_bytes": "RssAnon",
    "rss_file_bytes": "RssFile",
    "rss_shmem_bytes": "RssShmem",
    "hugetlb_bytes": "HugetlbPages",
    "swap_bytes": "VmSwap",
    "locked_bytes": "VmLck",
    "pinned_bytes": "VmPin",
}
_REGION = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (....) [0-9a-f]+ ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)$")
_SHARED = re.compile(r"^([0-9a-f-]+) ...s [0-9a-f]+ ([0-9a-f]+:[0-9a-f]+) (\d+) +(\S.*)$", re.MULTILINE)
_DETAIL = re.compile(r"^(\w+): +(.*?)(?: kB)?$")


@dataclass(frozen=True)
class SharedFile:
    """A file that a process has mapped for sharing, guest memory above all."""

    name: str
    mapped_bytes: int
    allocated_bytes: int | None  # what it takes, used by any process; None: not known
    file: str = ""  # device and inode: one file, whatever its name


@dataclass(frozen=True)
class Memory:
    """What a process holds, in bytes; None: not known.

    RSS counts mapped pages. MADV_DONTNEED on shared memory unmaps pages and frees none: only
    `allocated_bytes` of the file shows that.
    """

    rss_anon_bytes: int | None
    rss_file_bytes: int | None
    rss_shmem_bytes: int | None
    hugetlb_bytes: int | None  # not part of RSS
    swap_bytes: int | None
    locked_bytes: int | None  # by mlock, and what VFIO has pinned for a device
    pinned_bytes: int | None  # for devices otherwise: io_uring, RDMA, iommufd
    shared_files: tuple[SharedFile, ...]


@dataclass(frozen=True)
class Region:
    """A range of addresses of a process: what is mapped there, and how it is in use.

    Of a region whose pages were not looked at, all from `rss_bytes` on is None.
    """

    start: int
    end: int
    shared: bool
    name: str
    file: str | None  # device and inode; None: anonymous memory
    rss_bytes: int | None = None
    shared_bytes: int | None = None  # of that, mapped by other processes too
    huge_bytes: int | None = None  # of that, in transparent huge pages
    swap_bytes: int | None = None
    page_bytes: int | None = None  # the kernel's page there, that of hugetlbfs if it is of it
    hugetlb: bool | None = None
    locked: bool | None = None  # by mlock


def read_status(pid: int, root: Path = ROOT) -> dict[str, str] | None:
    """Lines of /proc/PID/status by name; None without such a process."""
    try:
        text = (root / f"proc/{pid}/status").read_bytes().decode(errors="replace")
    except OSError:
        return None
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))


def read_memory(pid: int, root: Path = ROOT, files: SharedFiles | None = None) -> Memory | None:
    """What the process holds now; None once it has ended. `files` remembers where its files are."""
    status = read_status(pid, root)
    if status is None or "VmSize" not in status:
        return None
    kinds = {field: _kib_to_bytes(status.get(name)) for field, name in _STATUS.items()}
    return Memory(**kinds, shared_files=(files or SharedFiles(pid, root)).read())


def read_regions(pid: int, root: Path = ROOT) -> tuple[Region, ...]:
    """The largest regions of a process, by address; those of a very large process without their pages."""
    resident = _kib_to_bytes((read_status(pid, root) or {}).get("VmRSS")) or 0
    if resident > _MOST_WALKED_BYTES:
        return tuple(_with_page_size(region, pid, root) for region in _read_regions(pid, "maps", root))
    return _read_regions(pid, "smaps", root)


def _read_regions(pid: int, name: str, root: Path) -> tuple[Region, ...]:
    lines = _read_lines(root / f"proc/{pid}/{name}")
    large = (each for each in parse_regions(lines) if each.end - each.start >= _SMALLEST_REGION_BYTES)
    largest = sorted(large, key=lambda region: region.start - region.end)[:_MOST_REGIONS]
    return tuple(sorted(largest, key=lambda region: region.start))


def _with_page_size(region: Region, pid: int, root: Path) -> Region:
    """A file of hugetlbfs says how large its pages are; other memory has small ones."""
    size_bytes = _SMALL_PAGE_BYTES
    if region.file is not None:
        span = f"{region.start:x}-{region.end:x}"
        try:
            size_bytes = os.statvfs(root / f"proc/{pid}/map_files/{span}").f_bsize
        except OSError:
            return region
    is_large = size_bytes >= _LEAST_HUGE_BYTES
    return replace(region, hugetlb=is_large, page_bytes=size_bytes if is_large else _SMALL_PAGE_BYTES)


def parse_regions(lines: Iterable[str]) -> Iterator[Region]:
    """Regions of /proc/PID/smaps, or of /proc/PID/maps."""
    head: re.Match[str] | None = None
    details: dict[str, str] = {}
    for line in lines:
        if found := _REGION.match(line):
            if head:
                yield _region(head, details)
            head, details = found, {}
        elif detail := _DETAIL.match(line):
            details[detail[1]] = detail[2]
    if head:
        yield _region(head, details)


def _region(head: re.Match[str], details: Mapping[str, str]) -> Region:
    start, end, mode, device, inode, name = head.groups()
    file = None if inode == "0" else f"{device}:{inode}"
    plain = int(start, 16), int(end, 16), mode[3] == "s", name, file
    if not details:
        return Region(*plain)
    sizes = {key: int(value) * 1024 for key, value in details.items() if value.isdecimal()}
    flags = details.get("VmFlags", "").split()
    return Region(
        *plain,
        rss_bytes=sizes.get("Rss", 0) + sizes.get("Shared_Hugetlb", 0) + sizes.get("Private_Hugetlb", 0),
        shared_bytes=sum(sizes.get(key, 0) for key in ("Shared_Clean", "Shared_Dirty", "Shared_Hugetlb")),
        huge_bytes=sum(sizes.get(key, 0) for key in ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")),
        swap_bytes=sizes.get("Swap"),
        page_bytes=sizes.get("KernelPageSize"),
        hugetlb="ht" in flags,
        locked="lo" in flags,
    )


def has_hugetlb_pages(pid: int, root: Path = ROOT) -> bool:
    """Whether some of a process's memory is of hugetlbfs, be it in use already or not."""
    status = read_status(pid, root) or {}
    return bool(_kib_to_bytes(status.get("HugetlbPages"))) or _maps_hugetlb(pid, root)


def read_children(pid: int, root: Path = ROOT) -> dict[str, int | None]:
    """Anonymous memory of the process's children, by their number: a child has all that its parent had."""
    found: dict[str, int | None] = {}
    threads: list[str] = []
    with suppress(OSError):
        threads = os.listdir(root / f"proc/{pid}/task")  # noqa: PTH208  (names alone)
    for thread in threads[:_MOST_THREADS]:
        for child in (read_text(root / f"proc/{pid}/task/{thread}/children") or "").split():
            if len(found) < _MOST_CHILDREN:
                found[child] = _kib_to_bytes((read_status(int(child), root) or {}).get("RssAnon"))
    return found


def read_merged_pages(pid: int, root: Path = ROOT) -> int | None:
    """How many pages of the process KSM has merged with others of the same content, at the most.

    Before Linux 5.19 those of all processes; None without KSM.
    """
    ksm = root / "sys/kernel/mm/ksm"
    of_process, of_all = (
        [root / f"proc/{pid}/ksm_merging_pages"],
        [ksm / "pages_shared", ksm / "pages_sharing"],
    )
    for files in (of_process, of_all):
        counts = [(read_text(file) or "").strip() for file in files]
        if all(count.isdecimal() for count in counts):
            return sum(map(int, counts))
    return None


def read_fault_counts(pid: int, root: Path = ROOT) -> dict[str, int]:
    """Page faults of all threads since the process began: `minor`, and `major` that waited for a disk."""
    fields = (read_text(root / f"proc/{pid}/stat") or "").rpartition(")")[2].split()
    # Fields 10 and 12 of proc_pid_stat(5); the third comes first here.
    return {"minor": int(fields[7]), "major": int(fields[9])} if len(fields) > 9 else {}


def _maps_hugetlb(pid: int, root: Path) -> bool:
    try:
        with (root / f"proc/{pid}/smaps").open("rb") as smaps:
            return any(line.startswith(b"VmFlags:") and b"ht" in line.split() for line in smaps)
    except OSError:
        return False


def read_shared_memory(pid: int, root: Path = ROOT) -> frozenset[str]:
    """Device and inode of each large file that the process has mapped for sharing, as guest memory may be."""
    found = _find_shared_files(pid, root)
    return frozenset(file for file, _, size_bytes, _ in found if size_bytes >= _SMALLEST_REGION_BYTES)


class SharedFiles:
    """The files that a process has mapped for sharing. Where they are is looked up anew now and then.

    To go through all mappings takes five times as long as all else in a reading of a process.
    """

    def __init__(self, pid: int, root: Path = ROOT) -> None:
        self._pid, self._root = pid, root
        self._places: list[tuple[str, str, int, str]] = []
        self._looks = 0

    def read(self) -> tuple[SharedFile, ...]:
        """Those there are, the largest first, with what they take now."""
        is_due = self._looks % _LOOKS_APART == 0
        self._looks += 1
        if is_due:
            self._places = _find_shared_files(self._pid, self._root)
        found = self._read_sizes()
        if not is_due and any(each.allocated_bytes is None for each in found):
            self._places = _find_shared_files(self._pid, self._root)
            return self._read_sizes()
        return found

    def _read_sizes(self) -> tuple[SharedFile, ...]:
        folder = self._root / f"proc/{self._pid}/map_files"
        return tuple(
            SharedFile(name, size, _allocated_bytes(folder / span), file)
            for file, name, size, span in self._places
        )


def _find_shared_files(pid: int, root: Path) -> list[tuple[str, str, int, str]]:
    """Shared mappings by file: which it is, its name, how much of it is mapped, and one place of it."""
    mapped: dict[str, tuple[str, int, str]] = {}
    for span, device, inode, name in _SHARED.findall("\n".join(_read_lines(root / f"proc/{pid}/maps"))):
        if inode == "0" or _is_device(name):
            continue
        start, end = (int(part, 16) for part in span.split("-"))
        file = f"{device}:{inode}"
        before = mapped.get(file, ("", 0, ""))[1]
        mapped[file] = name, before + end - start, span
    largest = sorted(mapped.items(), key=lambda found: -found[1][1])[:_MOST_FILES]
    return [(file, name, size, span) for file, (name, size, span) in largest]


def _is_device(name: str) -> bool:
    """Whether no file is mapped there; shared anonymous memory is a file that nobody can open."""
    return name.startswith(("anon_inode:", "/dev/")) and not name.startswith(_FOLDERS_OF_FILES)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode(errors="replace").splitlines()
    except OSError:
        return []


def _allocated_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_blocks * 512  # stat(2): whatever the file system's block size is
    except OSError:
        return None


def _kib_to_bytes(text: str | None) -> int | None:
    return int(text.split()[0]) * 1024 if text else None

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process held around a buffer of 100 MiB, the region that it named, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthetic_host import OFFSET_NS, Batch, host_recording, pack_batch

from balloontrace.analysis.make_report import analyse
from balloontrace.format.vocabulary import Call, Queue
from balloontrace.results.host_memory import DiscardPeriod, Freed, Reason, Verdict
from balloontrace.results.report import Report

MIB = 1 << 20
PAGES = 25_600
ASKED = PAGES * 4096
START = 0x7F0000000000
SECOND = 1_000_000_000
DONTNEED = {f"calls_{int(Call.MADVISE_DONTNEED)}": PAGES}
REMOVE = {f"calls_{int(Call.MADVISE_DONTNEED)}": 0, f"calls_{int(Call.MADVISE_REMOVE)}": PAGES}
FILE = {"shared": True, "name": "/memfd:guest (deleted)", "file": "00:01:33"}
HUGETLB = {"hugetlb": True, "page_bytes": 2 * MIB}


def region(**facts: object) -> dict[str, object]:
    return {
        "start": START, "end": START + 1024 * MIB, "shared": False, "name": "", "file": None,
        "page_bytes": 4096, "hugetlb": False, "locked": False,
        "rss_bytes": 512 * MIB, "shared_bytes": 0, "huge_bytes": 0, "swap_bytes": 0, **facts,
    }  # fmt: skip


def reading(
    at_s: float, *, faults: int = 0, file: int | None = None, collapsed: int | None = None, **memory: int
) -> dict[str, Any]:
    """What the process held at a time since the first call, in bytes."""
    at_ns = OFFSET_NS + round(at_s * SECOND)
    files = [] if file is None else [{"name": "x", "file": "00:01:33", "allocated_bytes": file}]
    return {
        "began_ns": at_ns - 1_000_000,
        "monotonic_ns": at_ns,
        "memory": {
            "rss_anon_bytes": 0, "rss_file_bytes": 0, "rss_shmem_bytes": 0, "hugetlb_bytes": 0,
            "swap_bytes": 0, "locked_bytes": 0, "pinned_bytes": 0, **memory, "shared_files": files,
        },
        "faults": {"minor": faults, "major": 0},
        "traced_faults": {"faults": faults, "huge": 0, "fault_ns": 700 * faults, "untimed": 0},
        "children": {},
        "collapsed": collapsed,
    }  # fmt: skip


def anon(
    before: int, after: int, *, faults: int = 0, collapsed: int | None = None, **memory: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Readings before and after with so much anonymous memory, in MiB, and huge pages made by khugepaged."""
    already = None if collapsed is None else 7
    return (
        reading(-0.5, rss_anon_bytes=before * MIB, collapsed=already, **memory),
        reading(
            0.5, rss_anon_bytes=after * MIB, faults=faults,
            collapsed=None if collapsed is None else 7 + collapsed, **memory,
        ),
    )  # fmt: skip


def shared(before: int, after: int, mapped: int = 100) -> tuple[dict[str, Any], dict[str, Any]]:
    """Readings with so much in the file behind shared memory, in MiB, of which some is unmapped meanwhile."""
    return (
        reading(-0.5, rss_shmem_bytes=500 * MIB, file=before * MIB),
        reading(0.5, rss_shmem_bytes=(500 - mapped) * MIB, file=after * MIB),
    )


def period_of(report: Report) -> DiscardPeriod:
    assert report.host is not None
    (period,) = report.host.periods
    return period


def group(at: dict[str, Any], charged: int, *others: int) -> dict[str, Any]:
    stat = {"file": 900 * MIB, "shmem": 100 * MIB, "kernel": 9 * MIB, "sock": 0}
    current = charged * MIB + 800 * MIB + 9 * MIB
    return {**at, "cgroup": {"path": "/vm", "current_bytes": current, "stat": stat, "others": list(others)}}


def report_of(
    *readings: Mapping[str, object],
    of: Mapping[str, object] | None = None,
    calls: Mapping[str, int] = DONTNEED,
    cpus: int = 2,
    machine: Mapping[str, object] | None = None,
    queue: int = Queue.INFLATE,
) -> Report:
    """A buffer of 100 MiB, given back 10 ms long in a region that is `of` this sort."""
    batch = Batch(OFFSET_NS, OFFSET_NS + SECOND // 100, SECOND // 200, PAGES, queue)
    raw = pack_batch(batch, **{"address": START + 4096, **calls})
    return analyse(
        host_recording(
            [batch],
            raw=raw,
            ended_ns=OFFSET_NS + 20 * SECOND,
            changes={"machine": {"cpus": cpus, **(machine or {})}, "regions": [region(**(of or {}))]},
            readings=readings,
        )
    )


def freed_of(*readings: Mapping[str, object], **options: Any) -> Freed:
    freed = period_of(report_of(*readings, **options)).freed
    assert freed is not None
    return freed


def verdict(*readings: Mapping[str, object], **options: Any) -> tuple[Verdict, Reason | None]:
    freed = freed_of(*readings, **options)
    return freed.verdict, freed.reason

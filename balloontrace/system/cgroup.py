# SPDX-License-Identifier: GPL-2.0-or-later
"""What the memory controller charges the control group of a process for: pages in use, mapped or not."""

from __future__ import annotations

import re
from pathlib import Path

from balloontrace.system.kernel import ROOT, read_text

_MOST_OTHERS = 32
_MOUNT = "sys/fs/cgroup"
# Documentation/admin-guide/cgroup-v2.rst: of memory.stat, what is charged and no page of a process.
_STAT = ("anon", "file", "shmem", "kernel", "sock", "anon_thp")


def read_cgroup_memory(pid: int, root: Path = ROOT) -> dict[str, object] | None:
    """`path`, `current_bytes`, some of `stat` and `others`: processes in it beside this one.

    Of the nearest group that memory is accounted for; None where there is none (the root, or version 1).
    """
    found = re.search(r"^0::(/.*)$", read_text(root / f"proc/{pid}/cgroup") or "", re.MULTILINE)
    parts = found[1].strip("/").split("/") if found and found[1] != "/" else []
    for depth in range(len(parts), 0, -1):
        path = "/".join(parts[:depth])
        folder = root / _MOUNT / path
        current = read_text(folder / "memory.current")
        if current is not None:
            stat = dict(line.split() for line in (read_text(folder / "memory.stat") or "").splitlines())
            return {
                "path": f"/{path}",
                "current_bytes": int(current),
                "stat": {name: int(stat[name]) for name in _STAT if name in stat},
                "others": _others(folder, pid),
            }
    return None


def _others(folder: Path, pid: int) -> list[int]:
    pids = {
        int(number) for path in folder.rglob("cgroup.procs") for number in (read_text(path) or "").split()
    }
    return sorted(pids - {pid})[:_MOST_OTHERS]

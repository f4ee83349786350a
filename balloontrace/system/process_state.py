# SPDX-License-Identifier: GPL-2.0-or-later
"""How a process that serves a balloon stands: what it holds, and what it has taken back."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from balloontrace.system.cgroup import read_cgroup_memory
from balloontrace.system.huge_pages import read_collapsed, read_partly_mapped_bytes
from balloontrace.system.kernel import ROOT
from balloontrace.system.machine import read_swap
from balloontrace.system.process_memory import (
    SharedFiles,
    read_children,
    read_fault_counts,
    read_memory,
    read_merged_pages,
)


class ProcessState:
    """Takes readings of one process, one after the other."""

    def __init__(self, pid: int, root: Path = ROOT) -> None:
        self._pid, self._root = pid, root
        self._files = SharedFiles(pid, root)

    def read(self) -> dict[str, object]:
        """A reading, with when it began and ended: it shows nothing later, and all that was before.

        Empty once the process has ended.
        """
        pid, root = self._pid, self._root
        began_ns = time.monotonic_ns()
        memory = read_memory(pid, root, self._files)
        if memory is None:
            return {}
        state: dict[str, object] = {
            "memory": asdict(memory),
            "cgroup": read_cgroup_memory(pid, root),
            "children": read_children(pid, root),
            "faults": read_fault_counts(pid, root),
            "partly_mapped_bytes": read_partly_mapped_bytes(root),
            "collapsed": read_collapsed(root),
            "merged_pages": read_merged_pages(pid, root),
            "swap": read_swap(root),
        }
        return {"began_ns": began_ns, "monotonic_ns": time.monotonic_ns(), **state}

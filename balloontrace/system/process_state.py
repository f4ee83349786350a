# SPDX-License-Identifier: GPL-2.0-or-later
"""How a process that serves a balloon stands: what it holds, and what it has taken back."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from balloontrace.system.cgroup import read_cgroup_memory
from balloontrace.system.kernel import ROOT
from balloontrace.system.process_memory import read_children, read_fault_counts, read_memory


def read_process_state(pid: int, root: Path = ROOT) -> dict[str, object]:
    """A reading, with when it began and ended: it shows nothing later, and all that was before.

    Empty once the process has ended.
    """
    began_ns = time.monotonic_ns()
    memory = read_memory(pid, root)
    if memory is None:
        return {}
    state: dict[str, object] = {
        "memory": asdict(memory),
        "cgroup": read_cgroup_memory(pid, root),
        "children": read_children(pid, root),
        "faults": read_fault_counts(pid, root),
    }
    return {"began_ns": began_ns, "monotonic_ns": time.monotonic_ns(), **state}

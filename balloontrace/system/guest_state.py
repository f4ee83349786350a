# SPDX-License-Identifier: GPL-2.0-or-later
"""How a guest is doing: what the kernel counts of memory, pressure and processors, as raw numbers."""

from __future__ import annotations

import re
from pathlib import Path

from balloontrace.system.kernel import ROOT, read_text, read_vmstat
from balloontrace.system.machine import read_meminfo_bytes

# Of /proc/vmstat, since boot: what reclaiming, swapping, compaction and huge pages have done.
_COUNTS = (
    "allocstall_", "pgscan_direct", "pgsteal_direct", "pgscan_kswapd", "pgsteal_kswapd", "pswp", "swpin_zero",
    "swpout_zero", "pgmajfault", "compact_", "thp_split_p", "thp_collapse_alloc", "oom_kill",
)  # fmt: skip
_MEMORY = ("MemAvailable", "MemFree", "SwapFree", "AnonHugePages")
# Of the first line of /proc/stat, in its order (Linux, Documentation/filesystems/proc.rst).
_TICKS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def read_guest_state(root: Path = ROOT) -> dict[str, object]:
    """A reading: `memory_bytes`, `counts` since boot, `pressure_us` and `cpu_ticks` since boot.

    What this kernel does not show is left out. Ticks are 10 ms (USER_HZ).
    """
    return {
        "memory_bytes": parse_memory(read_text(root / "proc/meminfo") or ""),
        "counts": read_vmstat(root, prefix=_COUNTS),
        "pressure_us": {
            f"{resource}_{some}": total_us
            for resource in ("memory", "cpu")
            for some, total_us in parse_pressure(read_text(root / f"proc/pressure/{resource}") or "").items()
        },
        "cpu_ticks": parse_ticks(read_text(root / "proc/stat") or ""),
    }


def read_available(root: Path = ROOT) -> dict[str, object]:
    """The part of a reading that says how much memory is available; for while each instruction counts."""
    size_bytes = read_meminfo_bytes("MemAvailable", root)
    return {} if size_bytes is None else {"memory_bytes": {"MemAvailable": size_bytes}}


def parse_memory(text: str) -> dict[str, int]:
    """Of /proc/meminfo, in bytes."""
    found = re.findall(rf"^({'|'.join(_MEMORY)}):\s*(\d+) kB$", text, re.MULTILINE)
    return {name: int(value) * 1024 for name, value in found}


def parse_pressure(text: str) -> dict[str, int]:
    """Of a file of /proc/pressure: for how long some tasks waited, and all, in microseconds."""
    return {
        kind: int(total) for kind, total in re.findall(r"^(some|full) .*total=(\d+)$", text, re.MULTILINE)
    }


def parse_ticks(text: str) -> dict[str, int]:
    """Of /proc/stat: what all processors together did, in ticks."""
    first = text.split("\n", 1)[0].split()
    return dict(zip(_TICKS, map(int, first[1:]), strict=False)) if first[:1] == ["cpu"] else {}

# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked of a machine: of this one directly, of a guest by sending it this text.

So it needs Python's own library alone. `python3 -c TEXT facts` prints one JSON object.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

_CPU = "/sys/devices/system/cpu"
_ANSWERS_S = 60


def read(path: str) -> str | None:
    """A small file, stripped; None where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def read_conditions() -> dict[str, object]:
    """What decides how fast this machine is today; None for each thing that it does not tell."""
    cpuinfo = read("/proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model|CPU part)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    load = read("/proc/loadavg")
    thp = re.search(r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled") or "")
    return {
        "kernel": f"{platform.release()} {platform.version()}",
        "cpu_model": model[1] if model else None,
        "cpus": os.cpu_count(),
        "governor": read(f"{_CPU}/cpu0/cpufreq/scaling_governor"),
        "boost": read(f"{_CPU}/cpufreq/boost") or _not(read(f"{_CPU}/intel_pstate/no_turbo")),
        "smt": read(f"{_CPU}/smt/control"),
        "thp": thp[1] if thp else None,
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or None,
        "load": float(load.split()[0]) if load else None,
    }


def _not(switch: str | None) -> str | None:
    return {"0": "1", "1": "0"}.get(switch or "")


def read_meminfo_bytes(name: str) -> int | None:
    """A line of /proc/meminfo."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", read("/proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def read_balloon_bytes() -> int | None:
    """How large the balloons are that this kernel has filled since it booted, by /proc/vmstat."""
    counts = dict(line.split() for line in (read("/proc/vmstat") or "").splitlines())
    if "balloon_inflate" not in counts or "balloon_deflate" not in counts:
        return None
    return (int(counts["balloon_inflate"]) - int(counts["balloon_deflate"])) * 4096


def find_balloontrace() -> str | None:
    """The version of an installed balloontrace, None where there is none that runs."""
    try:
        done = subprocess.run(
            ["balloontrace", "--version"], capture_output=True, text=True, timeout=_ANSWERS_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = (done.stdout.splitlines() or [""])[0].split()
    return first[1] if done.returncode == 0 and len(first) == 2 else None


def show_facts() -> dict[str, object]:
    """All that is to be known of a guest before it is measured."""
    return {
        "hostname": platform.node(),
        "uid": os.getuid(),
        "python": list(sys.version_info[:2]),
        "balloontrace": find_balloontrace(),
        "available_bytes": read_meminfo_bytes("MemAvailable"),
        "conditions": read_conditions(),
    }


def touch(size_bytes: int) -> dict[str, object]:
    """Write into so much memory and give it back; how long the writing took."""
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        started_ns = time.monotonic_ns()
        for place in range(0, size_bytes, mmap.PAGESIZE):
            memory[place] = 1
        return {"touched_ns": time.monotonic_ns() - started_ns}


def main(words: list[str]) -> None:
    """Print what is asked for."""
    if words[0] == "touch":
        found = touch(int(words[1]))
    elif words[0] == "balloon":
        found = {"balloon_bytes": read_balloon_bytes()}
    else:
        found = show_facts()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])

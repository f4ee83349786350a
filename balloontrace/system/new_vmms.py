# SPDX-License-Identifier: GPL-2.0-or-later
"""VMMs as they come: each look finds those that opened /dev/kvm since the last one, and their backends.

To look into every process each second would take some percent of a processor on a large host. A VMM opens
/dev/kvm soon after it was started, so a process is looked into when it is new, and then ever more rarely. A
vhost-user backend has the memory of its VM mapped, which is a file then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from balloontrace.system.kernel import ROOT
from balloontrace.system.process_memory import read_shared_memory
from balloontrace.system.vmm import Process, find_backend, find_vmm

_FIRST_S, _LONGEST_S = 0.5, 60.0
_MEMORY_S = 8.0  # a VMM that has mapped no shared memory by then, 15 s after it was found, does not share it
_LATER = 2.0  # each look at a process that is no VMM is so many times as far from the last


@dataclass(slots=True)
class _Waiting:
    """A process that was no VMM so far, or one of which the memory is not known yet."""

    due_s: float
    pause_s: float


class NewVmms:
    """Finds VMMs that were not there before, and the vhost-user backends of those found."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._settled: set[int] = set()  # of which all is known
        self._waiting: dict[int, _Waiting] = {}
        self._without_memory: dict[int, Process] = {}  # VMMs that have mapped none yet, or share none
        self._memory: dict[str, Process] = {}  # whose it is, by the file behind it

    def find(self, now_s: float) -> Iterator[Process]:
        """Those that came since the last call, each once; `now_s` is the time by any clock."""
        # Names alone: a path for each takes five times as long.
        pids = {int(name) for name in os.listdir(self._root / "proc") if name.isdigit()}  # noqa: PTH208
        self._forget(pids)
        for pid in sorted(pids - self._settled):
            waiting = self._waiting.get(pid)
            if waiting is not None and now_s < waiting.due_s:
                continue
            process = self._look_into(pid)
            if pid in self._without_memory and waiting is not None and waiting.pause_s >= _MEMORY_S:
                del self._without_memory[pid]
                self._settled.add(pid)
            if pid not in self._settled:
                pause_s = _FIRST_S if waiting is None else min(waiting.pause_s * _LATER, _LONGEST_S)
                self._waiting[pid] = _Waiting(now_s + pause_s, pause_s)
            if process is not None:
                yield process

    def _look_into(self, pid: int) -> Process | None:
        """The process, if it is a VMM or a backend and was not known as that; settles what can be."""
        known = self._without_memory.get(pid)
        vmm = known or find_vmm(pid, self._root)
        if vmm is None:
            backend = find_backend(pid, self._memory, self._root) if self._memory else None
            if backend is not None:
                self._settled.add(pid)
            return backend
        files = read_shared_memory(pid, self._root)
        if files:
            self._memory |= dict.fromkeys(files, vmm)
            self._without_memory.pop(pid, None)
            self._settled.add(pid)
        else:
            self._without_memory[pid] = vmm
        return None if known else vmm

    def _forget(self, pids: set[int]) -> None:
        """Keep nothing of processes that are not among `pids`."""
        self._settled &= pids
        for pid in self._waiting.keys() - pids:
            del self._waiting[pid]
        for pid in self._without_memory.keys() - pids:
            del self._without_memory[pid]
        self._memory = {file: vmm for file, vmm in self._memory.items() if vmm.pid in pids}

# SPDX-License-Identifier: GPL-2.0-or-later
"""VMMs as they come: each look finds those that opened /dev/kvm since the last one.

To look into every process each second would take some percent of a processor on a large host. A VMM opens
/dev/kvm soon after it was started, so a process is looked into when it is new, and then ever more rarely.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from balloontrace.system.kernel import ROOT
from balloontrace.system.vmm import Process, find_vmm

_FIRST_S, _LONGEST_S = 0.5, 60.0
_LATER = 2.0  # each look at a process that is no VMM is so many times as far from the last


@dataclass(slots=True)
class _Waiting:
    """A process that was no VMM so far."""

    due_s: float
    pause_s: float


class NewVmms:
    """Finds VMMs that were not there before."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._found: set[int] = set()
        self._waiting: dict[int, _Waiting] = {}

    def find(self, now_s: float) -> Iterator[Process]:
        """Those that came since the last call, each once; `now_s` is the time by any clock."""
        # Names alone: a path for each takes five times as long.
        pids = {int(name) for name in os.listdir(self._root / "proc") if name.isdigit()}  # noqa: PTH208
        self._found &= pids
        for pid in self._waiting.keys() - pids:
            del self._waiting[pid]
        for pid in sorted(pids - self._found):
            waiting = self._waiting.get(pid)
            if waiting is not None and now_s < waiting.due_s:
                continue
            vmm = find_vmm(pid, self._root)
            if vmm is not None:
                self._waiting.pop(pid, None)
                self._found.add(pid)
                yield vmm
                continue
            pause_s = _FIRST_S if waiting is None else min(waiting.pause_s * _LATER, _LONGEST_S)
            self._waiting[pid] = _Waiting(now_s + pause_s, pause_s)

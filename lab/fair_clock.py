# SPDX-License-Identifier: GPL-2.0-or-later
"""A clock for time limits: it stands while a VM's QEMU waits for a processor that other programs have."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

_NS = 1_000_000_000


class FairClock:
    """Seconds as of `time.monotonic`, less what that thread of a process has waited that waited most."""

    def __init__(
        self, pid: int, proc: Path = Path("/proc"), monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._tasks = proc / str(pid) / "task"
        self._monotonic = monotonic
        self._waited_s = 0.0

    def __call__(self) -> float:
        """The time; it never goes back, and runs no faster than any other clock."""
        for file in self._tasks.glob("*/schedstat"):
            try:
                waited_ns = int(file.read_text().split()[1])
            except (OSError, IndexError):
                continue  # a thread that ends, or the last one
            self._waited_s = max(self._waited_s, waited_ns / _NS)
        return self._monotonic() - self._waited_s

# SPDX-License-Identifier: GPL-2.0-or-later
"""How long it takes from the command to the first inflate, step by step."""

from __future__ import annotations

import os
import time
from pathlib import Path

STEPS = {
    "start": "starting",
    "connect": "reaching the guest",
    "copy": "copying the recorder",
    "vm": "looking at the VM",
    "note": "noting what it is measured on",
    "state": "entering the state",
    "touch": "having memory touched",
    "attach": "attaching",
    "settle": "settling",
}
"""The steps in their order, and in words."""
_START_TIME = 19  # in /proc/PID/stat behind the name, proc_pid_stat(5)


class GettingReady:
    """`done` ends a step, which began where the one before it ended: so nothing is left out."""

    def __init__(self, started_s: float) -> None:
        """`started_s`: by CLOCK_BOOTTIME, when the command was given."""
        self._last_s = started_s
        self.steps_s: dict[str, float] = {}

    def done(self, step: str) -> None:
        """One of `STEPS` is done."""
        assert step in STEPS
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.steps_s[step] = self.steps_s.get(step, 0.0) + now_s - self._last_s
        self._last_s = now_s

    def describe(self) -> str:
        """E.g. `ready after 4.1 s: attaching 2.1 s, settling 2.0 s`; what was quick is left out."""
        slow = [f"{words} {self.steps_s[step]:.1f} s" for step, words in STEPS.items() if self._shows(step)]
        return f"ready after {sum(self.steps_s.values()):.1f} s: {', '.join(slow)}"

    def _shows(self, step: str) -> bool:
        return self.steps_s.get(step, 0.0) >= 0.05


def begin() -> GettingReady:
    """From when this process began, modules and all."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return GettingReady(int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK"))

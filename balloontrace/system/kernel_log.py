# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom the out-of-memory killer ended, as the kernel's log says it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LOG = Path("/dev/kmsg")
_RECORD_BYTES = 8192  # the kernel cuts each record to this (Documentation/ABI/testing/dev-kmsg)
# As __oom_kill_process in mm/oom_kill.c writes it since Linux 4.20, for memory cgroups too.
_KILLED = re.compile(
    r"^\d+,\d+,(\d+),[^;]*;.*out of memory.*: Killed process (\d+) \((.*)\) total-vm:", re.IGNORECASE
)


@dataclass(frozen=True)
class Killed:
    """A process that the out-of-memory killer ended; `at_us` is by the log's clock, since boot."""

    at_us: int
    pid: int
    name: str


def parse_killed(record: str) -> Killed | None:
    """A record of /dev/kmsg, if it is one that tells of a process killed for lack of memory."""
    found = _KILLED.match(record.split("\n", 1)[0])
    return Killed(int(found[1]), int(found[2]), found[3]) if found else None


class OomKills:
    """Reads the log from now on. Where it cannot be read, nothing is known of whom."""

    def __init__(self, path: Path = _LOG) -> None:
        self._fd: int | None = None
        with suppress(OSError):
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)

    def read(self) -> list[Killed]:
        """Those that the log got since the last call."""
        found = (parse_killed(record) for record in iter(self._read_record, ""))
        return [killed for killed in found if killed is not None]

    def _read_record(self) -> str:
        """The next record, " " for one that was overwritten before it was read, "" where there is none."""
        if self._fd is None:
            return ""
        try:
            return os.read(self._fd, _RECORD_BYTES).decode(errors="replace")
        except BrokenPipeError:
            return " "
        except OSError:
            return ""

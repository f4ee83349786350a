# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells a process from a later one that got the same process id."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """A process by its id and when it was started, in clock ticks since this machine's boot."""

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """Whether this very process is still there (one that has ended and was not waited for is not)."""
        return read_identity(self.pid) == self

    @contextmanager
    def opened(self) -> Iterator[int | None]:
        """A pidfd of exactly this process, None when it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            yield None
            return
        try:
            # Looked at after opening: what the descriptor stands for cannot change any more.
            yield descriptor if self.is_alive() else None
        finally:
            os.close(descriptor)


def read_identity(pid: int, proc: Path = Path("/proc")) -> ProcessIdentity | None:
    """Who has this process id now; None when nobody, or one that has ended."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may contain anything; starttime is field 22 of proc(5), state is field 3.
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else ProcessIdentity(pid, int(rest[18]))


def own_identity() -> ProcessIdentity:
    """The process this is."""
    identity = read_identity(os.getpid())
    assert identity is not None
    return identity

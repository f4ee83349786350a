# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the traced process has ended."""

from __future__ import annotations

import os
import select
from contextlib import suppress

from balloontrace.errors import UsageError
from balloontrace.system.vmm import Process


class ProcessWatch:
    """Tells when one process, and no later one of its number, has ended."""

    def __init__(self, process: Process) -> None:
        """UsageError when it has ended already."""
        try:
            self.fd = os.pidfd_open(process.pid)
        except OSError as error:
            raise UsageError(f"process {process.pid} cannot be watched: {error.strerror}") from error

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Give the descriptor back."""
        with suppress(OSError):
            os.close(self.fd)

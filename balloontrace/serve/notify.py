# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells systemd how a service is, by sd_notify(3): a datagram to the socket that it names."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

_US_PER_S = 1_000_000


class ServiceManager:
    """Whoever started this service, if anybody wants to be told."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = _watchdog_s(environment)
        """How often to be heard of, at least; None: it does not wait for that."""

    def tell(self, *words: str) -> None:
        """E.g. `READY=1`. A manager that is gone hears nothing."""
        if self._address:
            with (
                suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to,
            ):
                to.sendto("\n".join(words).encode(), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Half of what sd_watchdog_enabled(3) allows, if it is this process that is watched."""
    wanted, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not wanted.isdecimal() or not int(wanted) or (pid and pid != str(os.getpid())):
        return None
    return int(wanted) / _US_PER_S / 2

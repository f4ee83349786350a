# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that asks a balloon's driver for statistics."""

from __future__ import annotations

import lab

_BALLOON = "/machine/peripheral/balloon0"
_INTERVAL = {"path": _BALLOON, "property": "guest-stats-polling-interval"}


def ask_for_statistics(guest: lab.Guest, polls: int) -> int:
    """QEMU asks each second, once it has an answer, until it has so many; returns how many it had."""
    guest.qmp("qom-set", **_INTERVAL, value=1)
    seen: set[int] = set()

    def is_answered() -> bool:
        seen.add(guest.qmp("qom-get", path=_BALLOON, property="guest-stats")["last-update"])
        return len(seen - {0}) >= polls

    guest.wait_until(is_answered, 60, what=f"{polls} answers", every_s=0.1)
    guest.qmp("qom-set", **_INTERVAL, value=0)
    return len(seen - {0})

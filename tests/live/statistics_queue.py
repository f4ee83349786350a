# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that asks a balloon's driver for statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import lab

_BALLOON = "/machine/peripheral/balloon0"
_INTERVAL = {"path": _BALLOON, "property": "guest-stats-polling-interval"}


@contextmanager
def asked_for_statistics(guest: lab.Guest) -> Iterator[None]:
    """QEMU asks meanwhile, each second once it has an answer."""
    guest.qmp("qom-set", **_INTERVAL, value=1)
    yield
    guest.qmp("qom-set", **_INTERVAL, value=0)


def ask_for_statistics(guest: lab.Guest, polls: int) -> int:
    """QEMU asks until it has so many answers; returns how many it had, of those of one second one."""
    before = last_update(guest)  # of what the driver gave when it came, or of an answer before
    seen: set[int] = set()

    def is_answered() -> bool:
        seen.add(last_update(guest))
        return len(seen - {before}) >= polls

    with asked_for_statistics(guest):
        guest.wait_until(is_answered, 60, what=f"{polls} answers", every_s=0.1)
    return len(seen - {before})


def last_update(guest: lab.Guest) -> int:
    """When QEMU had the last answer, in seconds; 0 for never."""
    return int(guest.qmp("qom-get", path=_BALLOON, property="guest-stats")["last-update"])

# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's balloon device under sanitizers, and rings made by hand to drive it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frontend import (
    FIRST_FREE_PFN,
    LOW_PFNS,
    VERSION_1,
    Device,
    Frontend,
    Json,
    pfns,
    running,
)

PFN = FIRST_FREE_PFN
NOWHERE = LOW_PFNS + 7


@contextmanager
def started(
    build: Path, folder: Path, *options: str, features: int = VERSION_1, queues: int = 2
) -> Iterator[tuple[Device, Frontend]]:
    with running(build, folder, *options) as device:
        frontend = device.connect()
        try:
            frontend.start(features, queues)
            yield device, frontend
        finally:
            frontend.close()


def counts(event: Json, *names: str) -> list[int]:
    return [int(event[name]) for name in names]


def touch_rings(device: Device, frontend: Frontend) -> None:
    """Rings become memory when they are first looked at; that must not happen while memory is counted."""
    for queue in frontend.queues:
        queue.send(pfns(PFN + 300))
    device.client.status()


COUNTS = (
    "records",
    "words",
    "plain_runs",
    "pages",
    "already",
    "discards",
    "discarded_bytes",
    "refused",
    "errors",
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What live tests share: one guest for the whole session, and the marker `live`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lab

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks everything in this folder; a live test that cannot run fails, it is never skipped."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def guest() -> Iterator[lab.Guest]:
    """A guest with 8 GiB, 2 CPUs and a balloon; tests leave it as they found it, the balloon empty."""
    with lab.solo(memory_mib=8192, cpus=2) as booted:
        yield booted


# Place for the autouse fixture that checks, after each test that used `guest`, that it was left as found: the
# balloon empty, no probe attached, no process still running.

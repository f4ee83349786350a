# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of a recording from start to end share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_system import FakeSystem, lay_out_bcc

from balloontrace.trace.guest.diagnosis import GuestDiagnosis, diagnose

# Tests make and remove thousands of files, and ext4 looks long for an inode that was not removed just before.
_MEMORY, _ENOUGH_BYTES = Path("/dev/shm"), 2 << 30


def _has_room(folder: Path) -> bool:
    """Whether a folder in memory takes what tests write, and lets them run it."""
    found = os.statvfs(folder)
    flags = os.ST_NOEXEC | os.ST_RDONLY
    return not found.f_flag & flags and found.f_bavail * found.f_frsize > _ENOUGH_BYTES


if _MEMORY.is_mount() and _has_room(_MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


@pytest.fixture
def diagnosis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GuestDiagnosis:
    monkeypatch.syspath_prepend(lay_out_bcc(tmp_path / "python"))
    system = FakeSystem(tmp_path / "root")
    # Without a driver in it nothing of the real system is watched for going away.
    system.kallsyms(
        line.partition("\t")[0] for line in (system.root / "proc/kallsyms").read_text().splitlines()
    )
    system.device("virtio3", 5, (1, 32), driver=None)
    return diagnose(system.root)


@pytest.fixture
def signals_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A session in this process leaves its signals as they were; it wakes up often, to be short."""
    monkeypatch.setattr("balloontrace.trace.session._WAKE_UP_S", 0.02)
    monkeypatch.setattr("balloontrace.trace.session._WAKE_UP_WATCHED_S", 0.01)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `measure` looks at again and again, it looks at more often."""
    for module in ("agent_guest", "guest_agent", "record_both", "rounds", "sides"):
        monkeypatch.setattr(f"balloontrace.measure.{module}._LOOK_EVERY_S", 0.01)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of a small fleet; tests only read it."""
    from fleets import write_varied  # here alone: pandas takes a while

    return write_varied(tmp_path_factory.mktemp("fleet"))

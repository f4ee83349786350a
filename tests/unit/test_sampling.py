# SPDX-License-Identifier: GPL-2.0-or-later
"""Which threads of a process are sampled."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import cast

import pytest
from fake_system import FakeSystem

from balloontrace.errors import CannotTraceError
from balloontrace.format.host_layout import SLOTS
from balloontrace.trace.host import sampling
from balloontrace.trace.host.sampling import ThreadSampler
from balloontrace.trace.shared_maps import SharedPage

PID, SLEEPING_VCPU, IOTHREAD, BUSY_VCPU = 100, 101, 102, 103
IN_POLL, IN_RUN = "271 0x1 0x2 0x0\n", "16 0xd 0xae80 0x0 0x0\n"


class Vcpus:
    """What the program has found to run a guest."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def read(self) -> bytes:
        return struct.pack(f"={SLOTS}I", *self.found, *[0] * (SLOTS - len(self.found)))

    def close(self) -> None:
        pass


class Kernel:
    """Gives each sampled thread a descriptor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sampled: dict[int, int] = {}
        self.refusal = 0
        monkeypatch.setattr(sampling, "sample_thread", self.sample)
        monkeypatch.setattr(os, "close", self.close)

    def sample(self, program_fd: int, tid: int, period_ns: int) -> int:
        assert (program_fd, period_ns) == (7, sampling.PERIOD_NS)
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        self.sampled[1000 + tid] = tid
        return 1000 + tid

    def close(self, fd: int) -> None:
        self.sampled.pop(fd, None)

    @property
    def threads(self) -> set[int]:
        return set(self.sampled.values())


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    system = FakeSystem(tmp_path)
    for tid, inside in (
        (PID, IN_POLL),
        (SLEEPING_VCPU, IN_RUN),
        (IOTHREAD, IN_POLL),
        (BUSY_VCPU, "running\n"),
    ):
        system.write(f"proc/{PID}/task/{tid}/syscall", inside)
    return system


def test_threads_that_run_a_guest_are_left_alone(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, vcpus = Kernel(monkeypatch), Vcpus()
    sampler = ThreadSampler(7, PID, cast(SharedPage, vcpus), system.root)
    assert kernel.threads == {PID, IOTHREAD, BUSY_VCPU}
    vcpus.found = [BUSY_VCPU]
    system.write(f"proc/{PID}/task/105/syscall", IN_POLL)
    sampler.follow()
    assert kernel.threads == {PID, IOTHREAD, 105}
    vcpus.found = []  # the slot has another thread's number now
    sampler.follow()
    assert kernel.threads == {PID, IOTHREAD, 105}
    sampler.close()
    assert kernel.threads == set()


def test_a_thread_that_has_just_ended_is_no_error(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(monkeypatch)
    kernel.refusal = errno.ESRCH
    ThreadSampler(7, PID, cast(SharedPage, Vcpus()), system.root)
    kernel.refusal = errno.EACCES
    with pytest.raises(CannotTraceError, match="threads cannot be sampled here: Permission denied"):
        ThreadSampler(7, PID, cast(SharedPage, Vcpus()), system.root)


def test_a_thread_that_cannot_be_sampled_later_ends_nothing(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors may run out while a VMM starts threads."""
    kernel = Kernel(monkeypatch)
    sampler = ThreadSampler(7, PID, cast(SharedPage, Vcpus()), system.root)
    kernel.refusal = errno.EMFILE
    system.write(f"proc/{PID}/task/105/syscall", IN_POLL)
    sampler.follow()
    assert kernel.threads == {PID, IOTHREAD, BUSY_VCPU}

# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples of a process's threads: a perf event for each that may serve a balloon."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from balloontrace.errors import CannotTraceError
from balloontrace.format.host_layout import VCPUS_BYTES
from balloontrace.system.kernel import ROOT, read_text
from balloontrace.system.perf_event import sample_thread
from balloontrace.trace.shared_maps import SharedPage

PROGRAM = "sample_thread"
PERIOD_NS = 809_023
"""Of a thread's time on a processor. Nothing that repeats itself may keep in step with it.

Kernels tick each 1, 4 or 10 ms: so it is prime, and near half the golden ratio, which no fraction of small
numbers comes close to.
"""

# Where the kernel's way into a system call and back lies, which is no part of the call: for each a function
# on x86-64, and one on arm64.
WAYS: Mapping[str, tuple[str, str]] = {
    "CALL_ENTRY": ("do_syscall_64", "el0_svc"),
    "CALL_TABLE": ("x64_sys_call", "invoke_syscall"),
    "CALL_EXIT": ("syscall_exit_to_user_mode", "do_el0_svc"),
}
_RUN = "0xae80"  # KVM_RUN, the second argument of ioctl
_VCPUS = struct.Struct(f"={VCPUS_BYTES // 4}I")


def define_ways(ranges: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """What the programs are to know of them; a size of 0 for what a kernel has not."""
    found = {
        word: next((ranges[name] for name in names if name in ranges), (0, 0)) for word, names in WAYS.items()
    }
    return {word: address for word, (address, _) in found.items()} | {
        f"{word}_BYTES": size_bytes for word, (_, size_bytes) in found.items()
    }


class ThreadSampler:
    """Has a program run for samples of the threads of one process, but for those that run a guest.

    A timer in a thread that runs a guest would stop the guest each time. Which thread does, the kernel tells
    of one that sleeps there, and the program of one that it finds there.
    """

    def __init__(self, program_fd: int, pid: int, vcpus: SharedPage, root: Path = ROOT) -> None:
        """CannotTraceError where the kernel allows no sample of any thread."""
        self._program_fd, self._vcpus = program_fd, vcpus
        self._folder = root / f"proc/{pid}/task"
        self._events: dict[int, int] = {}
        self._passed_over: set[int] = set()
        self.follow()

    def follow(self) -> None:
        """Sample threads that are new, and no longer those that have ended or run a guest."""
        with suppress(OSError):
            threads = {int(name) for name in os.listdir(self._folder)}  # noqa: PTH208  (Path objects take longer)
            self._passed_over |= threads.intersection(_VCPUS.unpack(self._vcpus.read()))
            for tid in self._events.keys() - (threads - self._passed_over):
                os.close(self._events.pop(tid))
            for tid in threads - self._events.keys() - self._passed_over:
                self._begin(tid)

    def _begin(self, tid: int) -> None:
        if _RUN in (read_text(self._folder / f"{tid}/syscall") or "").split():
            self._passed_over.add(tid)
            return
        try:
            self._events[tid] = sample_thread(self._program_fd, tid, PERIOD_NS)
        except OSError as error:
            if error.errno == errno.ESRCH:
                return
            # The buffers of one thread without samples only add to the error.
            self._passed_over.add(tid)
            if not self._events:
                raise CannotTraceError(f"threads cannot be sampled here: {error.strerror}") from error

    def close(self) -> None:
        """Take the events off."""
        while self._events:
            os.close(self._events.popitem()[1])
        self._vcpus.close()

# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMMs of a host as they come and go: each is traced from when it is found until it has ended."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from balloontrace.errors import UsageError
from balloontrace.system.new_vmms import NewVmms
from balloontrace.system.process_memory import has_hugetlb_pages
from balloontrace.system.vmm import Process, is_called
from balloontrace.trace.host.all_collector import AllCollector
from balloontrace.trace.host.process_watch import ProcessWatch

MOST_PROCESSES = 1024
_LEAST_ROOM, _ROOM_FOR_EACH = 256, 2


def room_for(vmms: int) -> int:
    """How many processes to make room for, on a host that has so many now: 60 KiB of memory each.

    A service is started with its host, when no VM is there yet.
    """
    return min(max(_LEAST_ROOM, _ROOM_FOR_EACH * vmms), MOST_PROCESSES)


@dataclass(frozen=True)
class Followed:
    """A process that is traced."""

    process: Process
    number: int  # the collector's
    watch: ProcessWatch

    @cached_property
    def has_hugetlb(self) -> bool:
        """Whether some of its memory is of hugetlbfs: to be asked once it serves, for it is there then."""
        return has_hugetlb_pages(self.process.pid)


class FollowedProcesses:
    """Those that are traced now, in the order in which they came."""

    def __init__(
        self, collector: AllCollector, vm: str | None, say: Callable[[str], None], new: NewVmms | None = None
    ) -> None:
        """With `vm` only VMs that are called so. `say` hears of one for which there is no room."""
        self._collector, self._vm, self._say = collector, vm, say
        self._new = new or NewVmms()
        self._by_pid: dict[int, Followed] = {}
        self._poll = select.poll()
        self.without_room = 0

    def __iter__(self) -> Iterator[Followed]:
        return iter(tuple(self._by_pid.values()))

    def __len__(self) -> int:
        return len(self._by_pid)

    def come(self) -> list[Followed]:
        """Trace those that are new; returns them."""
        found = (self._follow(process) for process in self._new.find(time.monotonic()))
        return [each for each in found if each is not None]

    def ended(self) -> list[Followed]:
        """Those that have ended, and are still counted among them."""
        fds = {fd for fd, _ in self._poll.poll(0)}
        return [each for each in self._by_pid.values() if each.watch.fd in fds] if fds else []

    def forget(self, each: Followed) -> None:
        """Trace it no longer: what it counted has been read."""
        self._collector.remove(each.number)
        self._poll.unregister(each.watch.fd)
        each.watch.close()
        del self._by_pid[each.process.pid]

    def close(self) -> None:
        """Forget all."""
        for each in self:
            self.forget(each)

    def _follow(self, process: Process) -> Followed | None:
        if self._vm is not None and not is_called(process, self._vm):
            return None
        try:
            watch = ProcessWatch(process)
        except UsageError:
            return None
        number = self._collector.add(process.pid)
        if number is None:
            watch.close()
            self.without_room += 1
            self._say(f"balloontrace: warning: {process.description} is not traced: too many VMs at once\n")
            return None
        self._poll.register(watch.fd, select.POLLIN)
        self._by_pid[process.pid] = followed = Followed(process, number, watch)
        return followed

# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that come and go leave nothing: no block of memory, no entry of a table, no descriptor, no place."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from fake_proc import FakeProc
from held_tables import tables_of
from prometheus_client.parser import text_string_to_metric_families
from synthetic_host import slot

from balloontrace.format.process_layout import PROCESS, TRACED_BYTES
from balloontrace.live.read_all_sums import AllSource
from balloontrace.serve.exposition import Exposition
from balloontrace.serve.host_metrics import host_families
from balloontrace.system.new_vmms import NewVmms
from balloontrace.trace.host.all_collector import AllCollector
from balloontrace.trace.host.all_session import AllSession
from balloontrace.trace.host.followed_processes import FollowedProcesses
from balloontrace.trace.host.probes import HostPlan
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.shared_maps import SharedPage

AT_ONCE, ROUNDS = 20, 6


class Page:
    """A map's value that no kernel shares."""

    def __init__(self, size_bytes: int) -> None:
        self.raw = bytearray(size_bytes)

    def read_part(self, at: int, size_bytes: int) -> bytes:
        return bytes(self.raw[at : at + size_bytes])

    def write(self, raw: bytes, at: int = 0) -> None:
        self.raw[at : at + len(raw)] = raw


class Collector(AllCollector):
    """Without programs: who is traced has made 7 calls in one buffer."""

    timing, filled, waiting, shows_memory_slots, timed = False, 0.0, 0, False, ()

    def __init__(self, room: int) -> None:
        plan = SimpleNamespace(freed_by=lambda _failures: None, asks_freed=False)
        self.plan = cast("HostPlan", plan)
        self.loaded = SimpleNamespace(failures={})  # type: ignore[assignment]
        self._all = cast("SharedPage", Page(room * PROCESS.size_bytes))
        self._traced = cast("SharedPage", Page(TRACED_BYTES))
        self._free, self._places = list(range(room)), {}
        self._last_number, self._slots_before, self._end_slots = 0, {}, {}

    def add(self, pid: int) -> int | None:
        number = super().add(pid)
        if number is not None:
            at = self._places[number][0] * PROCESS.size_bytes
            self._all.write((7).to_bytes(8, sys.byteorder), at + PROCESS.offsets["calls"])
            self._all.write(slot(number << 32 | 1, batches=1), at + PROCESS.offsets["slots"])
        return number

    @property
    def left(self) -> tuple[int, int]:
        """Places that are taken, and bytes of their maps that are not zero."""
        pages = (cast("Page", each).raw for each in (self._all, self._traced))
        return len(self._places), sum(len(raw) - raw.count(0) for raw in pages)

    @property
    def seen(self) -> int:
        """How many there were in all."""
        return self._last_number

    def set_timing(self, timing: bool) -> None:
        pass

    def drain(self, _take: Callable[[memoryview], object]) -> int:
        return 0

    def read_missed(self) -> int:
        return 0

    def read_program_costs(self, _calls: Mapping[str, int]) -> list[dict[str, object]]:
        return []


class Follower(ABC):
    """Who follows VMs: real processes, which a folder shows as VMMs."""

    def __init__(self, root: Path) -> None:
        self._proc = FakeProc(root)
        self.collector, self.said = Collector(AT_ONCE), list[str]()
        self.followed = FollowedProcesses(self.collector, None, self.said.append, NewVmms(root))
        self.rounds = 0

    @abstractmethod
    def look(self) -> int:
        """Follow those there are; how many that is."""

    def vms_come_and_go(self) -> None:
        """So many, with names that none had before."""
        self.rounds += 1
        processes = [subprocess.Popen(["sleep", "600"]) for _ in range(AT_ONCE)]
        for place, process in enumerate(processes):
            words = f"qemu -name vm{self.rounds}-{place}"
            self._proc.add(process.pid, opened=("/dev/kvm",), cmdline=words)
        assert self.look() == AT_ONCE
        for process in processes:
            process.kill()
            process.wait()
            shutil.rmtree(self._proc.root / f"proc/{process.pid}")
        assert self.look() == 0
        assert self.collector.left == (0, 0)


class Server(Follower):
    """What `serve` does."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.source = AllSource(self.collector, self.followed)
        self.exposition = Exposition(lambda: host_families(self.source.look(), self.source.tracing()))

    def look(self) -> int:
        self.source.follow()
        _, text = self.exposition.write()
        families = {family.name: family for family in text_string_to_metric_families(text.decode())}
        assert len(families["balloontrace_vm_info"].samples) == families["balloontrace_vms"].samples[0].value
        return len(families["balloontrace_vm_info"].samples)


class Recorder(Follower):
    """What `record --side host --all` does."""

    def __init__(self, root: Path, output_fd: int) -> None:
        super().__init__(root)
        self.session = AllSession(
            self.collector, self.followed, output_fd, TraceOptions(), say=self.said.append
        )

    def look(self) -> int:
        self.session._look()
        self.session._drain()
        return len(self.followed)


@pytest.fixture(params=["serve", "record"])
def follower(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Follower]:
    with Path("/dev/null").open("wb") as output:
        yield Server(tmp_path) if request.param == "serve" else Recorder(tmp_path, output.fileno())


def held() -> tuple[int, int, int]:
    """Python's blocks, objects that its collector knows, open descriptors.

    Without the interpreter's own cache of names: it takes up to 4096, and the less the fuller it is.
    """
    gc.collect()
    sys._clear_type_cache()
    return sys.getallocatedblocks(), len(gc.get_objects()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_vms_that_come_and_go_leave_nothing(follower: Follower) -> None:
    for _ in range(ROUNDS):
        follower.vms_come_and_go()
    tables = tables_of(follower)
    before = held()
    for _ in range(ROUNDS):
        follower.vms_come_and_go()
    blocks, objects, descriptors = (now - then for now, then in zip(held(), before, strict=True))
    assert tables_of(follower) == tables
    assert descriptors == 0
    assert max(blocks, objects) < AT_ONCE  # so much is there by chance; and six times as many VMs came
    assert follower.collector.seen == 2 * ROUNDS * AT_ONCE
    assert not follower.said

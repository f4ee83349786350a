# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that come and go leave nothing: no object, no descriptor, no place that the next one cannot have."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from fake_proc import FakeProc
from prometheus_client.parser import text_string_to_metric_families
from synthetic_host import slot

from balloontrace.format.host_layout import LIVE_BATCHES
from balloontrace.live.read_all_sums import AllSource
from balloontrace.serve.exposition import Exposition
from balloontrace.serve.host_metrics import host_families
from balloontrace.system.new_vmms import NewVmms
from balloontrace.trace.host.all_collector import AllCollector
from balloontrace.trace.host.followed_processes import FollowedProcesses

AT_ONCE, ROUNDS = 20, 5
MOST_OBJECTS = AT_ONCE // 2  # not even half an object for each VM of one round


class ScriptedCollector:
    """Has places for so many, and sums that say the same of each."""

    plan = SimpleNamespace(freed_by=lambda _failures: None)
    loaded = SimpleNamespace(failures={})

    def __init__(self, room: int) -> None:
        self.free, self.numbers, self.last = room, set[int](), 0

    def add(self, _pid: int) -> int | None:
        if not self.free:
            return None
        self.free -= 1
        self.last += 1
        self.numbers.add(self.last)
        return self.last

    def remove(self, number: int) -> None:
        self.numbers.remove(number)
        self.free += 1

    def read_calls(self, number: int) -> int:
        return 7 if number in self.numbers else 0

    def read_slots(self, number: int) -> bytes:
        return slot(number << 32 | 1, batches=1)

    def read_live_of(self, _number: int) -> bytes:
        return bytes(LIVE_BATCHES.size_bytes)

    def read_missed(self) -> int:
        return 0

    def read_program_costs(self, _calls: Mapping[str, int]) -> list[dict[str, object]]:
        return []


class Host:
    """Real processes, which the folder shows as VMMs."""

    def __init__(self, root: Path) -> None:
        self.proc = FakeProc(root)
        self.collector = ScriptedCollector(AT_ONCE)
        said: list[str] = []
        followed = FollowedProcesses(cast("AllCollector", self.collector), None, said.append, NewVmms(root))
        self.source = AllSource(cast("AllCollector", self.collector), followed)
        self.exposition = Exposition(lambda: host_families(self.source.look(), self.source.tracing()))
        self.rounds = 0

    def vms_come_and_go(self) -> None:
        self.rounds += 1
        processes = [subprocess.Popen(["sleep", "600"]) for _ in range(AT_ONCE)]
        for place, process in enumerate(processes):
            words = f"qemu -name vm{self.rounds}-{place}"
            self.proc.add(process.pid, opened=("/dev/kvm",), cmdline=words)
        assert self.scraped() == AT_ONCE
        for process in processes:
            process.kill()
            process.wait()
            shutil.rmtree(self.proc.root / f"proc/{process.pid}")
        assert self.scraped() == 0
        assert (self.collector.numbers, self.collector.free) == (set(), AT_ONCE)

    def scraped(self) -> int:
        """How many VMs the metrics show."""
        self.source.follow()
        _, text = self.exposition.write()
        families = {family.name: family for family in text_string_to_metric_families(text.decode())}
        assert len(families["balloontrace_vm_info"].samples) == families["balloontrace_vms"].samples[0].value
        return len(families["balloontrace_vm_info"].samples)


def held() -> tuple[int, int]:
    """Objects that the collector knows, and open descriptors."""
    gc.collect()
    return len(gc.get_objects()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (names alone)


def test_vms_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path)
    for _ in range(ROUNDS):
        host.vms_come_and_go()
    objects, descriptors = held()
    for _ in range(ROUNDS):
        host.vms_come_and_go()
    objects_after, descriptors_after = held()
    assert descriptors_after == descriptors
    assert objects_after - objects < MOST_OBJECTS
    assert host.collector.last == 2 * ROUNDS * AT_ONCE

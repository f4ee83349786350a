# SPDX-License-Identifier: GPL-2.0-or-later
"""A scrape is what the library would write, byte for byte, and takes a small part of its work."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import cast

import pytest
from live_looks import host_look
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from synthetic_host import CallSums, slot

from balloontrace.format.host_layout import LIVE_BATCHES, THREAD
from balloontrace.format.process_layout import PROCESS_SLOTS
from balloontrace.format.vocabulary import Call
from balloontrace.live.read_all_sums import AllSource, Tracing, VmLook
from balloontrace.serve.exposition import Exposition, as_metric
from balloontrace.serve.families import Family, counter, gauge
from balloontrace.serve.host_metrics import host_families
from balloontrace.serve.series_text import SeriesText
from balloontrace.system.vmm import Process
from balloontrace.trace.host.all_collector import AllCollector
from balloontrace.trace.host.followed_processes import FollowedProcesses

ACCEPTS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3",
    "application/openmetrics-text",
    "text/plain;version=1.0.0",
    "*/*",
    "",
)
FEW, MANY = 10, 100
MOST_CALLS = 200  # of functions, Python's and C's, for a VM that did nothing since the last scrape
MOST_CALLS_BUSY = 700
ODD_NAMES = ("plain", 'a "quoted" \\ name', "two\nlines\x85\u2028", "} 5", "# HELP", "", "ünïcode 1")


class OfFamilies(Collector):
    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return map(as_metric, self._families)


def by_library(families: list[Family], accept: str) -> bytes:
    """What the library makes of them, without an end."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(OfFamilies(families))
    encode, _ = choose_encoder(accept)
    return encode(registry).removesuffix(b"# EOF\n")


def vm(pid: int, name: str, calls: int) -> VmLook:
    process = Process(pid, "qemu", "qemu", 7, 3, (), name, "1-2")
    return VmLook(pid, process, host_look(2.0, calls, punched=calls // 3), counts_freed=pid % 2 > 0)


def looks() -> Iterator[list[VmLook]]:
    """VMs that come, work, rest, go, and come back by another number."""
    yield []
    all_vms = [vm(pid, name, pid % 4 * 511) for pid, name in enumerate(ODD_NAMES)]
    yield all_vms
    yield [vm(pid, name, pid % 4 * 511 + (pid == 3)) for pid, name in enumerate(ODD_NAMES)]
    yield [*all_vms[2:], vm(77, ODD_NAMES[1], 1 << 40)]
    yield all_vms[:1]
    yield all_vms


@pytest.mark.parametrize("accept", ACCEPTS)
def test_as_the_library_writes_it(accept: str) -> None:
    families: list[Family] = []
    exposition = Exposition(lambda: families)
    for place, found in enumerate(looks()):
        families = list(host_families(found, Tracing(place * 1234567, place, 0)))
        content_type, text = exposition.write(accept)
        wanted = by_library(families, accept)
        assert text[: len(wanted)].decode().split("\n") == wanted.decode().split("\n")
        own = text[len(wanted) :]
        assert own.startswith(b"# HELP balloontrace_process_")
        assert own.count(b"# EOF\n") == text.count(b"\n# EOF\n") == ("openmetrics" in content_type)


def test_odd_values() -> None:
    families: list[Family] = []
    exposition = Exposition(lambda: families)
    for value in (0, 0.0, -1.5, 1e300, 12345678.9, 1 << 63, float("inf"), float("nan"), 1e-9, True):
        families = [gauge("odd", "Text of \\ two\nlines.", [((), value)]), counter("none", "Nothing.", [])]
        wanted = by_library(families, "")
        assert exposition.write()[1][: len(wanted)] == wanted


def test_each_series_is_written_once_by_the_library() -> None:
    asked: list[tuple[str, int]] = []

    def write_family(family: Family) -> str:
        asked.append((family.name, len(family.samples)))
        return by_library([family], "").decode()

    text = SeriesText(write_family, str)
    found = [vm(pid, f"vm{pid}", 256) for pid in range(1, MANY)]
    text.write(host_families(found, Tracing()))
    names = [name for name, _ in asked]
    assert len(names) == len(set(names))  # a head each, with all series at once
    asked.clear()
    text.write(host_families([vm(pid, f"vm{pid}", 512) for pid in range(1, MANY)], Tracing()))
    assert asked == []
    text.write(host_families([*found, vm(MANY, "late", 256)], Tracing()))
    assert {samples for _, samples in asked} == {1, 2}  # its own alone, some by two calls or stages
    asked.clear()
    text.write(host_families(found[1:], Tracing()))
    assert asked == []
    text.write(host_families(found, Tracing()))
    assert asked  # what ended was forgotten


class ScriptedCollector:
    """Sums of VMs that all did the same."""

    plan = SimpleNamespace(freed_by=lambda _failures: None)
    loaded = SimpleNamespace(failures={})

    def __init__(self) -> None:
        self.calls = 2048

    def read_calls(self, _number: int) -> int:
        return self.calls

    def read_slots(self, number: int) -> bytes:
        sums = CallSums(Call.MADVISE_DONTNEED, self.calls, self.calls * 4096, self.calls * 2000)
        return slot(number << 32 | 1, sums, batches=self.calls // 256).ljust(
            PROCESS_SLOTS * THREAD.size_bytes, b"\0"
        )

    def read_live_of(self, _number: int) -> bytes:
        row = struct.pack("=4Q", self.calls // 256, self.calls * 4000, self.calls * 2000, 1_000_000)
        return row.ljust(PROCESS_SLOTS * LIVE_BATCHES.size_bytes, b"\0")

    def read_missed(self) -> int:
        return 0

    def read_program_costs(self, _calls: object) -> list[dict[str, object]]:
        return []


class Processes(list[SimpleNamespace]):
    without_room = 0


def counted_calls(scrape: Callable[[], object]) -> int:
    """Calls of functions, Python's and C's."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        scrape()
    finally:
        sys.setprofile(None)
    return calls


def scrape_calls(vms: int) -> tuple[int, int]:
    """Those of a scrape after nothing happened, and of one after every VM did something."""
    collector = ScriptedCollector()
    processes = Processes(
        SimpleNamespace(process=vm(number, f"vm{number}", 0).process, number=number, has_hugetlb=False)
        for number in range(vms)
    )
    source = AllSource(cast("AllCollector", collector), cast("FollowedProcesses", processes))
    exposition = Exposition(lambda: host_families(source.look(), source.tracing()))
    exposition.write(ACCEPTS[0])
    assert exposition.write(ACCEPTS[0])[1].count(b"_bucket{") == vms * 14
    idle = counted_calls(lambda: exposition.write(ACCEPTS[0]))
    collector.calls += 1
    return idle, counted_calls(lambda: exposition.write(ACCEPTS[0]))


def test_a_scrape_takes_little_work_for_each_vm() -> None:
    few, many = scrape_calls(FEW), scrape_calls(MANY)
    for fewer, more, most in zip(few, many, (MOST_CALLS, MOST_CALLS_BUSY), strict=True):
        print(f"{(more - fewer) / (MANY - FEW):.0f} calls for each VM")
        assert more - fewer < (MANY - FEW) * most

# SPDX-License-Identifier: GPL-2.0-or-later
"""`backings` in a guest: memory of many kinds made ready, given back, and judged by a report."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tracing import Json, report, shell, start_recording

import lab

SOURCE = Path(__file__).with_name("backings.c")
FILE, FOLDER = "/root/backing", "/sys/fs/cgroup"
BYTES = 48 << 20
PAGES = BYTES // 4096
HUGE_PAGES = 2 * BYTES // (2 << 20)
# The recorder looks each second; it goes on doing so for some time, as pages may come back.
NEAR = 0.25  # of what was asked for: what else the guest does meanwhile
LOOKS_S, TAKING_BACK_S = "3.5", "8"
GROUP = f"""
mountpoint -q {FOLDER} || mount -t cgroup2 none {FOLDER}
echo +memory > {FOLDER}/cgroup.subtree_control
mkdir -p {FOLDER}/vm
"""
FREED, NOTHING, UNTOUCHED, UNKNOWN = "freed", "freed nothing", "not touched before", "unknown"
HUGE_IN_USE = "huge page partly in use"
AGAIN = "serve anon dontneed 512"
WARM_UP = "serve anon none 512"  # a read of the kick that began before probes were attached is not seen


@contextmanager
def made_ready(guest: lab.Guest) -> Iterator[None]:
    """What `backings` needs of a guest: built, with a control group and pages of hugetlbfs."""
    source = guest.push(SOURCE)
    guest.run(["gcc", "-O2", "-Wall", "-pthread", "-o", "/tmp/backings", source], timeout_s=120, check=True)
    guest.run(shell(f"head -c {BYTES} /dev/zero > {FILE}\n{GROUP}"), check=True)
    guest.run(shell(f"echo {HUGE_PAGES} > /proc/sys/vm/nr_hugepages"), check=True)
    # Free pages that a processor keeps for itself do not count as free.
    guest.run(shell("echo 1000000 > /proc/sys/vm/percpu_pagelist_high_fraction"), check=True)
    yield
    guest.run(shell(f"rm {FILE}; rmdir {FOLDER}/vm; echo 0 > /proc/sys/vm/nr_hugepages"), check=True)
    guest.run(shell("echo 0 > /proc/sys/vm/percpu_pagelist_high_fraction"), check=True)


@dataclass(frozen=True)
class Case:
    """Memory made ready, then given back: what is to be said of it, and how much of it became free indeed."""

    name: str
    ready: tuple[str, ...]
    served: str
    verdict: str
    reason: str | None
    freed: float
    after: tuple[str, ...] = ()


class Backings:
    """`backings` in a guest, obeying orders."""

    def __init__(self, guest: lab.Guest, *, in_group: bool) -> None:
        self.guest, self.orders, self.in_group = guest, "/tmp/backings.orders", in_group
        guest.run(shell(f"rm -f {self.orders}; mkfifo {self.orders}"), check=True)
        join = f"echo $$ > {FOLDER}/vm/cgroup.procs; " if in_group else ""
        self.process = guest.start(shell(f"{join}exec /tmp/backings {FILE} <> {self.orders}"))
        self.process.wait_for(b"serving", 60, stream="stdout")
        self._done = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def obey(self, *orders: str) -> None:
        if orders:
            self._done += len(orders)
            self.guest.run(shell(f"printf '%s\\n' {' '.join(map(repr, orders))} > {self.orders}"), check=True)
            self.process.wait_for(b"done\n" * self._done, 120, stream="stdout")

    def free_bytes(self) -> int:
        """What the kernel has free, in pages of both sizes."""
        lines = self.guest.run(["cat", "/proc/meminfo"], check=True).stdout.splitlines()
        kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
        return (kib["MemFree"] + kib["HugePages_Free"] * kib["Hugepagesize"]) * 1024

    def wait_for_looks(self, seconds: str = LOOKS_S) -> None:
        self.guest.run(["sleep", seconds], check=True)


def serve(backings: Backings, case: Case) -> int:
    """Serves a buffer, and has the recorder look before and after; returns how much more was free then."""
    backings.obey(*case.ready)
    backings.wait_for_looks()
    before_bytes = backings.free_bytes()
    backings.obey(f"serve {case.served}")
    more_bytes = backings.free_bytes() - before_bytes
    backings.wait_for_looks()
    backings.obey(*case.after)
    if AGAIN in case.after:
        backings.wait_for_looks()
    return more_bytes


def discards(found: Json) -> list[Json]:
    return [dict(each) for each in found["host"]["periods"] if each["what"] == "gives back"]


def judge(backings: Backings, cases: Sequence[Case], folder: Path) -> list[tuple[str, str, str | None]]:
    """Name, verdict and reason of each case, as a report has them.

    What the cases themselves say became free did so, by the kernel's count of free pages.
    """
    options = ("-f", "-p", str(backings.pid))
    recorder = start_recording(backings.guest, "/root/freed.bt", *options).wait_attached()
    backings.obey(WARM_UP)
    freed_bytes = [serve(backings, case) for case in cases]
    recorder.end()
    said = [row["freed"] for row in discards(report(recorder.pull(folder)))]
    # The discard that follows one is no case.
    for place in [place for place, case in enumerate(cases) if AGAIN in case.after]:
        del said[place + 1]
    for case, verdict, size in zip(cases, said, freed_bytes, strict=True):
        print(case.name, verdict["verdict"], verdict["reason"], verdict["sentence"], size >> 20, sep="; ")
    off = [abs(size / BYTES - case.freed) for case, size in zip(cases, freed_bytes, strict=True)]
    print("furthest off:", max(off))
    assert max(off) < NEAR, off
    return [(case.name, row["verdict"], row["reason"]) for case, row in zip(cases, said, strict=True)]


def expect(cases: Sequence[Case], unknown: Collection[str] = ()) -> list[tuple[str, str, str | None]]:
    """What `judge` is to find; where these are named it is not to be known."""
    return [(case.name, "unknown" if case.name in unknown else case.verdict, case.reason) for case in cases]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of recordings to compare: runs of one operation with chosen times, which scatter as asked."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import synthetic
import synthetic_host
from flows import Flow, Times
from patched_flows import PatchedFlow

from balloontrace.analysis.make_report import analyse
from balloontrace.compare.recordings import Recordings
from balloontrace.format.recording import read_recording
from balloontrace.results.report import Report

MIB_PAGES = 256
TIMES = Times(send=1_500_000)
HOST_TIMES = synthetic_host.HostTimes()
RUN_NS = 10_000_000_000


@dataclass(frozen=True)
class Setup:
    """How a run is made. `patched` has the page-bitmap driver, `host` records the host's side too."""

    times: Times = TIMES
    host_times: synthetic_host.HostTimes | None = None
    mib: int = 16
    deflate: bool = False
    patched: bool = False
    changes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run as it was made, and as it would be in files."""

    flow: Flow
    guest: bytes
    host: bytes | None

    def report(self, name: str) -> Report:
        """Analysed, the recording having this name."""
        guest = replace(read_recording(io.BytesIO(self.guest)), label=f"{name}-guest.bt")
        if self.host is None:
            return analyse(guest)
        return analyse(guest, replace(read_recording(io.BytesIO(self.host)), label=f"{name}-host.bt"))

    def write(self, folder: Path, name: str) -> None:
        """Into a folder, as NAME.bt or as NAME-guest.bt and NAME-host.bt."""
        if self.host is None:
            (folder / f"{name}.bt").write_bytes(self.guest)
        else:
            (folder / f"{name}-guest.bt").write_bytes(self.guest)
            (folder / f"{name}-host.bt").write_bytes(self.host)


def make_run(setup: Setup, *, number: int = 0, factor: float = 1.0) -> Run:
    """One recording; with `factor` it takes longer, in everything the guest does but sending."""
    times = setup.times
    slower = replace(
        times,
        allocate=round(times.allocate * factor),
        after_body=round(times.after_body * factor),
        requeue=round(times.requeue * factor),
    )
    clock_ns = 1_000_000_000 + number * RUN_NS
    flow: Flow = Flow(times=slower, clock_ns=clock_ns)
    if setup.patched:
        flow = PatchedFlow(times=slower)
        flow.now = clock_ns
    flow.resize(setup.mib * MIB_PAGES)
    if setup.deflate:
        flow.now += 1_000_000
        flow.resize(0)
    kind = {"driver": {"kind": "patched" if setup.patched else "stock", "module_srcversion": None}}
    started = {"realtime_ns": synthetic_host.REALTIME_NS + clock_ns - 100_000_000}
    changes = {
        **kind,
        "started": {**started, "monotonic_ns": clock_ns - 100_000_000},
        **setup.changes,
    }
    end = {"ended": {"monotonic_ns": flow.now + 100_000_000}}
    guest = synthetic.recording_bytes(flow, changes=changes, end=end)
    return Run(flow, guest, _host(setup, flow, clock_ns))


def _host(setup: Setup, flow: Flow, clock_ns: int) -> bytes | None:
    if setup.host_times is None:
        return None
    found = synthetic_host.batches(flow, setup.host_times)
    started_ns = clock_ns - 200_000_000 + synthetic_host.OFFSET_NS
    realtime_ns = synthetic_host.REALTIME_NS + clock_ns - 200_000_000
    started = {"monotonic_ns": started_ns, "realtime_ns": realtime_ns}
    ended_ns = flow.now + 200_000_000 + synthetic_host.OFFSET_NS
    stream = synthetic_host.host_stream(
        found, started_ns=started_ns, ended_ns=ended_ns, changes={"started": started}
    )
    return stream.read()


def make_runs(setup: Setup, factors: Sequence[float], numbers: Sequence[int] = ()) -> list[Run]:
    """A run for each factor, in this order of time."""
    numbers = numbers or range(len(factors))
    return [
        make_run(setup, number=number, factor=factor) for number, factor in zip(numbers, factors, strict=True)
    ]


def in_turn(runs: int) -> tuple[list[int], list[int]]:
    """The numbers of runs before and after that were made before, after, after, before."""
    before = [2 * number + number % 2 for number in range(runs)]
    return before, [2 * number + 1 - number % 2 for number in range(runs)]


def side(name: str, runs: Sequence[Run]) -> Recordings:
    """Runs as one side of a comparison."""
    return Recordings(name, tuple(run.report(f"{name}-{number}") for number, run in enumerate(runs)))


def scatter(count: int, *, shift: int = 0) -> list[float]:
    """Factors around 1 that are all different, and others for another `shift`."""
    return [0.95 + ((7 * index + shift) * 0.618034 % 1) / 10 for index in range(count)]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaches the host's plan to one process, drains its batches, and says what was lost and what tracing cost.

The host's counterpart of `collector`: knows nothing of files and decodes no batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from balloontrace.collector import DEFAULT_RING_BYTES, PAGE_BYTES, parse_fdinfo
from balloontrace.errors import MissingProbeError
from balloontrace.hostcounters import HostCounters, used_slots
from balloontrace.hostlayout import BATCH_BYTES, LIVE_SLOTS_BYTES, THREADS_BYTES
from balloontrace.hostprobes import TABLE, HostPlan, HostProbe
from balloontrace.layout import RING_HEADER_BYTES
from balloontrace.libbpf import enable_run_time_statistics
from balloontrace.loader import AttachError, Attachment, Loaded, LoadRequest, bpf_folder, load
from balloontrace.probes import Mechanism
from balloontrace.ring import RecordRing, SharedPage

_RETURNS = frozenset(mechanism.program(returns=True) for mechanism in Mechanism)


class HostCollector:
    """A plan attached for one process; as a context it detaches at the end, whatever happens."""

    def __init__(self, plan: HostPlan, pid: int, *, ring_bytes: int = DEFAULT_RING_BYTES) -> None:
        """Compile and attach `plan` for process `pid`. Raises as `Collector` does.

        Without a ring (0 bytes) there are no batches; what they would tell is summed up for `read_live`.
        """
        self.plan, self.loaded = _load(plan, pid, ring_bytes)
        maps = self.loaded.maps
        self._ring = (
            RecordRing(maps["batches"], ring_bytes, RING_HEADER_BYTES + BATCH_BYTES) if ring_bytes else None
        )
        self._live = None if ring_bytes else SharedPage(maps["live"], LIVE_SLOTS_BYTES)
        self._page = SharedPage(maps["threads"], THREADS_BYTES)
        self._stats_fd: int | None = None
        self._attached = True

    def __enter__(self) -> HostCollector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()
        for mapped in (self._ring, self._live, self._page):
            if mapped is not None:
                mapped.close()
        for fd in (*self.loaded.maps.values(), *self.loaded.programs.values()):
            os.close(fd)
        self.set_timing(False)

    def detach(self) -> None:
        """Take the probes off the kernel; maps and their contents stay readable."""
        if self._attached:
            self._attached = False
            for fd in _in_order_of_detaching(self.loaded):
                os.close(fd)

    @property
    def waiting(self) -> int:
        """Batches waiting in the ring."""
        return self._ring.waiting if self._ring is not None else 0

    @property
    def filled(self) -> float:
        """How much of the ring is taken, 0 to 1."""
        return self._ring.waiting / self._ring.capacity if self._ring is not None else 0.0

    def drain(self, take: Callable[[memoryview], object]) -> int:
        """Give `take` the finished batches since the last call, as in the ring; returns their number."""
        return self._ring.drain(take) if self._ring is not None else 0

    def read_counters(self) -> bytes:
        """The slots in use as they stand."""
        return used_slots(self._page.read())

    def read_live(self) -> bytes:
        """`struct bt_live_slots` as it stands; empty where there is a ring."""
        return self._live.read() if self._live is not None else b""

    def set_timing(self, on: bool) -> None:
        """Have the kernel time the programs, or not; without libbpf it never does."""
        if on and self._stats_fd is None:
            self._stats_fd = enable_run_time_statistics()
        elif not on and self._stats_fd is not None:
            os.close(self._stats_fd)
            self._stats_fd = None

    def read_program_costs(self, counters: HostCounters) -> list[dict[str, object]]:
        """Each program's runs for the traced process, the runs the kernel timed, and their time.

        Timed are also runs for other processes, which are shorter. None: not counted.
        """
        calls = counters.calls_by_system_call
        return [
            {
                "program": program,
                "runs": calls.get(program.partition("_")[2]),
                "timed_runs": found.get("run_cnt"),
                "run_time_ns": found.get("run_time_ns"),
            }
            for program, found in ((name, self._read_fdinfo(name)) for name in self.loaded.programs)
        ]

    def _read_fdinfo(self, program: str) -> dict[str, int]:
        with suppress(OSError, KeyError):
            return parse_fdinfo(Path(f"/proc/self/fdinfo/{self.loaded.programs[program]}").read_text())
        return {}

    def read_missed(self) -> int | None:
        """Calls for which the kernel did not run the programs on entry; None: it does not count them."""
        counts = [
            self._read_fdinfo(f"fentry_{probe.point.name}").get("recursion_misses")
            for probe in self.plan.attachable
            if probe.point.tracepoint and probe.mechanism is Mechanism.FENTRY
        ]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None


def _in_order_of_detaching(loaded: Loaded) -> list[int]:
    """First what delimits buffers: one whose calls are no longer all seen must stay unfinished.

    Then the entries of calls before their returns, so that no call is taken for one that never returned.
    """
    calls = {point.name for point in TABLE if point.tracepoint}

    def rank(program: str) -> int:
        end, _, point = program.partition("_")
        return 0 if point not in calls else 2 if end in _RETURNS else 1

    ranked = zip(map(rank, loaded.programs), loaded.links, strict=True)
    return [fd for _, fd in sorted(ranked, key=lambda each: each[0])]


def summarise_host_losses(counters: HostCounters, missed: int | None) -> dict[str, dict[str, int | None]]:
    """What was missed, of batches and of single calls, in the shape of `collector.summarise_losses`."""
    unknown = dict.fromkeys(("entries", "returns", "unmatched_returns", "no_state", "overwritten", "missed"))
    return {
        "batches": {**unknown, "entries": counters.batches, "lost": counters.lost},
        "calls": {
            "entries": None,
            "returns": counters.all_calls,
            "unmatched_returns": counters.unmatched_returns,
            "lost": 0,
            "no_state": counters.no_state,
            "overwritten": counters.overwritten,
            "missed": missed,
        },
    }


def _load(plan: HostPlan, pid: int, ring_bytes: int) -> tuple[HostPlan, Loaded]:
    """Attach the cheapest way; what the kernel refuses is tried with kprobes, then with tracepoints."""
    reason = ""
    for attempt in dict.fromkeys((plan, plan.with_kprobes(), plan.with_tracepoints())):
        try:
            return attempt, load(_request(attempt, pid, ring_bytes))
        except AttachError as refused:
            reason = str(refused)
    raise MissingProbeError(f"a required probe was refused: {reason}")


def _request(plan: HostPlan, pid: int, ring_bytes: int) -> LoadRequest:
    return LoadRequest(
        str(bpf_folder() / "host.bpf.c"),
        _definitions(plan, pid, ring_bytes),
        tuple(attachment for probe in plan.attachable for attachment in _attachments(probe)),
        _maps(ring_bytes),
    )


def _maps(ring_bytes: int) -> tuple[str, str]:
    return ("batches" if ring_bytes else "live", "threads")


def _definitions(plan: HostPlan, pid: int, ring_bytes: int) -> Mapping[str, str | int]:
    """What the BPF source leaves open."""
    definitions: dict[str, str | int] = {
        "TGID": pid,
        "THREADS_MAP": _maps(ring_bytes).index("threads"),
        "COUNT_FREED": int(any(probe.point.tells_freed for probe in plan.attachable)),
    }
    if ring_bytes:
        definitions["BATCH_RING_PAGES"] = ring_bytes // PAGE_BYTES
    definitions |= {f"KIND_{point.name}": "absent" for point in TABLE}
    definitions |= {f"KIND_{probe.point.name}": str(probe.mechanism) for probe in plan.attachable}
    return definitions


def _attachments(probe: HostProbe) -> list[Attachment]:
    symbol, mechanism = probe.symbol, probe.mechanism
    return [
        Attachment(
            program=f"{mechanism.program(returns=returns)}_{probe.point.name}",
            function=probe.point.name,
            returns=returns,
            mechanism=str(mechanism),
            symbol=symbol.name if symbol else probe.tracepoint(returns=returns),
            address=symbol.address if symbol else 0,
            module=symbol.module if symbol else "",
            required=probe.point.required,
        )
        # Returns first: a call under way while probes are attached is then counted as unmatched, not lost.
        for returns in probe.point.ends(mechanism)
    ]

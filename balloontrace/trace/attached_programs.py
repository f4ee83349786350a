# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs attached to the running kernel: a ring drained, counters read, and all of it taken off again.

What tracing the guest and tracing the host have in common: knows nothing of files and decodes no record.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from balloontrace.console.stderr import note
from balloontrace.errors import CannotTraceError, MissingProbeError
from balloontrace.system.libbpf import enable_run_time_statistics
from balloontrace.trace.engines.choose import Engine, load
from balloontrace.trace.engines.request import AttachError, Loaded, LoadRequest
from balloontrace.trace.pace import Pace
from balloontrace.trace.plan import Plan, PlannedProbe, Point
from balloontrace.trace.shared_maps import RecordRing, SharedPage

DEFAULT_RING_BYTES = 2 << 20
"""Room for some 29 000 spans: 9 000 MiB of stock inflate between two drains."""


_Plan = TypeVar("_Plan", bound=Plan[PlannedProbe[Point]])
_Counters = TypeVar("_Counters")


class AttachedPrograms(Generic[_Plan]):
    """As a context it detaches at the end, whatever happens, and closes what was mapped."""

    def __init__(
        self,
        plan: _Plan,
        loaded: Loaded,
        counters: SharedPage,
        *,
        ring: RecordRing | None,
        live: SharedPage | None,
        links: Iterable[int],
    ) -> None:
        """`links` are those of `loaded`, in the order in which they are to be detached."""
        self.plan, self.loaded = plan, loaded
        self._counters, self._ring, self._live = counters, ring, live
        self._links = tuple(links)
        self._stats_fd: int | None = None
        self._ever_timed = False
        self._timed: dict[str, dict[str, int]] = {}
        self._last_counters = self._end_counters = self._counters_before = b""
        self._fdinfo_before: dict[str, dict[str, int]] = {}
        self.cpu_ns_before = 0  # of this process, for recordings that have ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()
        for mapped in (self._ring, self._live, self._counters):
            if mapped is not None:
                mapped.close()
        for fd in (*self.loaded.maps.values(), *self.loaded.programs.values()):
            os.close(fd)
        self.set_timing(False)

    def detach(self) -> None:
        """Take the probes off the kernel; maps and their contents stay readable."""
        links, self._links = self._links, ()
        for fd in links:
            os.close(fd)

    def end_counts(self) -> None:
        """What is counted after the last look at the counters is for the next recording."""
        self._end_counters = self._last_counters

    def begin_anew(self) -> None:
        """Count for the next recording, from `end_counts` on; records that are in the ring are of it too."""
        self._counters_before = self._end_counters
        self._fdinfo_before = {program: self._read_fdinfo(program) for program in self.loaded.programs}
        self._timed.clear()
        self.cpu_ns_before = time.process_time_ns()

    def add_links(self, links: Iterable[int]) -> None:
        """Have these detached too, before those that were there."""
        self._links = (*links, *self._links)

    @property
    def waiting(self) -> int:
        """Records waiting in the ring."""
        return self._ring.waiting if self._ring is not None else 0

    @property
    def filled(self) -> float:
        """How full the ring is: 0 empty, 1 full."""
        return self._ring.waiting / self._ring.capacity if self._ring is not None else 0.0

    def drain(self, take: Callable[[memoryview], object]) -> int:
        """Give `take` the finished records since the last call, as in the ring; returns their number."""
        return self._ring.drain(take) if self._ring is not None else 0

    def read_counters(self) -> bytes:
        """The counters as in the map, with the sums of the recording in progress."""
        raw = self._last_counters = self._counters.read()
        return self._since(raw, self._counters_before) if self._counters_before else raw

    def _since(self, raw: bytes, before: bytes) -> bytes:
        """Counters less those of an earlier look. A collector whose recordings follow each other says how."""
        raise NotImplementedError

    def read_live(self) -> bytes:
        """The sums that stand in for records, as in the map; empty where there is a ring."""
        return self._live.read() if self._live is not None else b""

    def set_timing(self, on: bool) -> None:
        """Have the kernel time the programs, or not; without libbpf it never does."""
        self._timed.clear()
        if on and self._stats_fd is None:
            self._stats_fd = enable_run_time_statistics()
            self._ever_timed |= self._stats_fd is not None
        elif not on and self._stats_fd is not None:
            os.close(self._stats_fd)
            self._stats_fd = None

    @property
    def timing(self) -> bool:
        """Whether the kernel is timing the programs."""
        return self._stats_fd is not None

    def read_timed(self, program: str) -> dict[str, int | None]:
        """How many runs of a program the kernel timed, and their time; None: not measured."""
        # Asked of the kernel once, while nothing is timed: asking takes longer than all else in a look.
        found = self._timed.get(program)
        if found is None:
            found = self.read_fdinfo(program) if self._ever_timed else {}
            if not self.timing:
                self._timed[program] = found
        return {"timed_runs": found.get("run_cnt"), "run_time_ns": found.get("run_time_ns")}

    def read_fdinfo(self, program: str) -> dict[str, int]:
        """The kernel's own counts of a program in this recording; empty for one that was not attached."""
        before = self._fdinfo_before.get(program, {})
        return {name: count - before.get(name, 0) for name, count in self._read_fdinfo(program).items()}

    def _read_fdinfo(self, program: str) -> dict[str, int]:
        with suppress(OSError, KeyError):
            return parse_fdinfo(Path(f"/proc/self/fdinfo/{self.loaded.programs[program]}").read_text())
        return {}


def attach_first(
    engines: Sequence[Engine], plans: Sequence[_Plan], request_of: Callable[[_Plan], LoadRequest]
) -> tuple[_Plan, Loaded]:
    """Attach the first of `plans`, cheapest first, of which the kernel refuses no required probe.

    What one engine cannot do the next one tries. Where all fail the first reason counts, for the others are
    of ways round it: CannotTraceError if nothing could be loaded, MissingProbeError for a refused probe.
    """
    reasons: list[AttachError | CannotTraceError] = []
    for engine in engines:
        before = len(reasons)
        try:
            for plan in dict.fromkeys(plans):
                try:
                    return plan, load(request_of(plan), engine)
                except AttachError as refused:
                    reasons.append(refused)
        except CannotTraceError as error:
            reasons.append(error)
        note([f"{engine}: {reason}" for reason in reasons[before:]].copy)
    if isinstance(reasons[0], CannotTraceError):
        raise reasons[0]
    raise MissingProbeError(f"a required probe was refused: {reasons[0]}") from reasons[0]


def follow_pace(programs: AttachedPrograms[_Plan], pace: Pace[_Counters], counters: _Counters) -> None:
    """Have the programs timed, or no longer, as `pace` wants it after this look at the counters."""
    timing = programs.timing
    if pace.is_wanted(counters, timing=timing) != timing:
        programs.set_timing(not timing)


def parse_fdinfo(text: str) -> dict[str, int]:
    """The decimal fields of a descriptor's fdinfo (bpf_prog_show_fdinfo in kernel/bpf/syscall.c)."""
    return {name: int(value) for name, value in re.findall(r"^(\w+):\s*(\d+)$", text, re.MULTILINE)}

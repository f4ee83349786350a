# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's recording from start to end, on a collector that is only a script of what it drains."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from balloontrace.format.guest_counters import Counters
from balloontrace.format.guest_layout import (
    COUNTERS,
    FUNCTION_COUNTERS,
    FUNCTIONS,
    RING_HEADER_BYTES,
    SPAN,
)
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import Function
from balloontrace.trace.engines.request import Loaded
from balloontrace.trace.guest.collector import GuestCollector
from balloontrace.trace.guest.diagnosis import GuestDiagnosis
from balloontrace.trace.guest.session import GuestSession
from balloontrace.trace.guest.unseen_pages import UNIT_PAGES
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.session import SessionResult

RECORD = struct.pack("II", SPAN.size_bytes, 0) + bytes(SPAN.size_bytes)
COUNTERS_BYTES = COUNTERS.size_bytes
OPERATIONS_OFFSET = FUNCTIONS * FUNCTION_COUNTERS.size_bytes + 8


def counters(operations: int = 0) -> bytes:
    raw = bytearray(COUNTERS_BYTES)
    struct.pack_into("Q", raw, OPERATIONS_OFFSET, operations)
    return bytes(raw)


class ScriptedCollector:
    """Drains `drains` one after the other, then nothing; counts operations as it goes."""

    def __init__(
        self, diagnosis: GuestDiagnosis, drains: Sequence[bytes] = (), operations: Sequence[int] = ()
    ) -> None:
        self.plan = diagnosis.plan
        self.loaded = Loaded({}, {}, [], {}, "bcc", "0.31.0", 9_000, 100 << 20, 9_000)
        self.detached = False
        self.drains_after_detaching = 0
        self._drains = list(drains)
        self._operations = list(operations)

    timing = False
    filled = 0.0
    cpu_ns_before = 0
    captures = False

    def set_timing(self, on: bool) -> None:
        self.timing = on

    @property
    def waiting(self) -> int:
        return len(self._drains[0]) // len(RECORD) if self._drains else 0

    def drain(self, take: Callable[[memoryview], object]) -> int:
        self.drains_after_detaching += self.detached
        count = len(self._drains) if self.detached else 1
        raw = b"".join(self._drains[:count])
        del self._drains[:count]
        if raw:
            take(memoryview(raw))
        return len(raw) // len(RECORD)

    def drain_payloads(self, _take: Callable[[memoryview], object]) -> int:
        return 0

    def read_counters(self) -> bytes:
        if len(self._operations) > 1:
            return counters(self._operations.pop(0))
        return counters(*self._operations)

    def read_program_costs(self, _counters: Counters) -> list[dict[str, object]]:
        return [{"program": "fentry_tell_host", "runs": 7, "timed_runs": 7, "run_time_ns": 700}]

    def read_missed(self) -> dict[Function, int | None]:
        return {Function.TELL_HOST: 3}

    def detach(self) -> None:
        self.detached = True


class Run:
    """A session that has run: its result, its recording, what it said."""

    def __init__(
        self,
        tmp_path: Path,
        diagnosis: GuestDiagnosis,
        options: TraceOptions,
        drains: Sequence[bytes] = (),
        operations: Sequence[int] = (),
    ) -> None:
        self.collector = ScriptedCollector(diagnosis, drains, operations)
        self.said: list[str] = []
        path = tmp_path / "out.bt"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self.result = run_session(self.collector, diagnosis, fd, options, self.said.append)
        finally:
            os.close(fd)
        self.recording = read_recording(path)


def run_session(
    collector: ScriptedCollector,
    diagnosis: GuestDiagnosis,
    fd: int,
    options: TraceOptions,
    say: Callable[[str], None] = lambda _: None,
) -> SessionResult:
    session = GuestSession(
        cast(GuestCollector, collector),
        diagnosis,
        fd,
        replace(options, started_ns=time.monotonic_ns()),
        say=say,
    )
    session.write_start()
    return session.run()


def vmstat_of(inflated: Sequence[int]) -> Callable[[], dict[str, int]]:
    looks = [{"balloon_inflate": pages // UNIT_PAGES, "balloon_deflate": 0} for pages in inflated]
    return lambda: looks.pop(0)


def spans_in(recording: Recording) -> int:
    return sum(len(piece) for piece in recording.spans) // (RING_HEADER_BYTES + SPAN.size_bytes)


def end_of(recording: Recording) -> dict[str, object]:
    assert recording.end is not None
    assert recording.damage == ()
    return recording.end

# SPDX-License-Identifier: GPL-2.0-or-later
"""How long it takes to find which send was which buffer, and to give up on strangers' files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from balloontrace.analysis.matching import match
from balloontrace.analysis.matching_calls import Calls, Window
from balloontrace.errors import RecordingError
from bench.figures import Benchmark, Figure

RUNS = 3
FEW, MANY = 4_000, 32_000
# As many buffers as a file of 100 MB has room for.
MOST = 900_000


def made_up(count: int, *, jitter_ns: int = 400_000) -> tuple[Calls, Calls]:
    """One inflate of `count` sends as each side sees it, on clocks that are a second apart."""
    random = np.random.default_rng(1)
    parts = random.integers(0, jitter_ns, (4, count)) + 20_000
    start_ns = 10**10 + np.cumsum(parts.sum(axis=0)) - parts[1:].sum(axis=0)
    end_ns = start_ns + parts[1:].sum(axis=0)
    queue, pages = np.zeros(count, dtype=np.int64), np.full(count, 256)
    window = Window(int(start_ns[0]) - 10**9, int(end_ns[-1]) + 10**9, 0)
    guest = Calls(start_ns, end_ns, queue, pages, window)
    moved = Window(window.start_ns + 10**9, window.end_ns + 10**9, -(10**9))
    return guest, replace(
        guest, start_ns=start_ns + parts[1] + 10**9, end_ns=end_ns - parts[3] + 10**9, window=moved
    )


def _seconds(guest: Calls, host: Calls) -> float:
    """Of a match, or of a refusal."""
    started_s = time.perf_counter()
    with contextlib.suppress(RecordingError):
        match(guest, host)
    return time.perf_counter() - started_s


def measure_growth() -> Iterator[Figure]:
    """Best of several, for both numbers of sends."""
    few, many = (min(_seconds(*sides) for _ in range(RUNS)) for sides in (made_up(FEW), made_up(MANY)))
    yield Figure("match_32000_sends", many, "s", at_most=2)
    yield Figure("match_32000_over_4000", many / few, "", at_most=16)


def measure_strangers() -> Iterator[Figure]:
    """Recordings that claim to have no time in them, so that every way to lay them may be right."""
    guest, host = made_up(MOST, jitter_ns=1)
    none = Window(int(host.start_ns[-1]), int(host.start_ns[0]), 0)
    guest = replace(guest, window=Window(int(guest.start_ns[-1]), int(guest.start_ns[0]), 0))
    late = host.end_ns.copy()
    late[MOST // 3] += 10**9
    spoiled = replace(host, end_ns=late, window=none)
    yield Figure(
        "match_strangers",
        max(_seconds(guest, each) for each in (spoiled, replace(host, window=none))),
        "s",
        at_most=120,
    )


BENCHMARKS = (
    Benchmark(("match_32000_sends", "match_32000_over_4000"), measure_growth),
    Benchmark(("match_strangers",), measure_strangers),
)

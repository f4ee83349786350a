# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls of a guest and of its host as columns, with known partners."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from balloontrace.analysis.matching_calls import UNKNOWN_PAGES, Calls, Window
from balloontrace.format.vocabulary import Queue

S = 1_000_000_000
OFFSET_NS = 5_000_000 * S + 123_456_789  # the host has been up for longer
REALTIME_NS = 1_700_000_000 * S


def both_sides(
    count: int,
    *,
    seed: int = 1,
    drift: float = 0.0,
    pages: int | None = 256,
    to_host_ns: int = 20_000,
    jitter_ns: int = 400_000,
    latency_jitter_ns: int = 40_000,
    offset_ns: int = OFFSET_NS,
) -> tuple[Calls, Calls]:
    """One inflate of `count` sends as each side sees it; the last one is of another size."""
    random = np.random.default_rng(seed)
    gap_ns = 30_000 + random.integers(0, jitter_ns, count)
    served_ns = 200_000 + random.integers(0, jitter_ns, count)
    kick_ns = to_host_ns + random.integers(0, latency_jitter_ns, count)
    back_ns = to_host_ns + random.integers(0, latency_jitter_ns, count)
    taken_ns = kick_ns + served_ns + back_ns
    start_ns = 10 * S + np.cumsum(gap_ns + taken_ns) - taken_ns
    sizes = np.full(count, UNKNOWN_PAGES if pages is None else pages)
    if pages is not None:
        sizes[-1] = 100
    queue = np.full(count, int(Queue.INFLATE))

    def host(
        guest_ns: np.ndarray[tuple[int], np.dtype[np.int64]],
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.asarray(guest_ns + offset_ns + np.round(drift * (guest_ns - 10 * S)).astype(np.int64))

    window = Window(9 * S, int(start_ns[-1]) + 2 * S, REALTIME_NS)
    guest = Calls(start_ns, start_ns + taken_ns, queue, sizes, window)
    seen_ns = host(start_ns + kick_ns)
    done_ns = host(start_ns + taken_ns - back_ns)
    host_window = Window(window.start_ns + offset_ns, window.end_ns + offset_ns, REALTIME_NS - offset_ns)
    return guest, Calls(seen_ns, done_ns, queue, np.where(sizes < 0, 256, sizes), host_window)


def on_another_day(calls: Calls) -> Calls:
    realtime_ns = calls.window.realtime_offset_ns
    assert realtime_ns is not None
    return replace(calls, window=replace(calls.window, realtime_offset_ns=realtime_ns - 86400 * S))

# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing adds to a call, measured here: calls that free nothing, without the probes and with them."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass

from balloontrace.format.host_counters import parse_host_counters
from balloontrace.format.vocabulary import Call

# Rounds are short, so that on a busy machine too some pass without another process in between.
_CALLS = 32
_ROUNDS = 64
_NO_ADVICE = 1 << 30  # madvise(2) refuses it before it looks at anything else


@dataclass(frozen=True)
class CallCost:
    """What each call takes longer because it is traced: inside it, and between calls."""

    added_ns: float  # in all
    inside_ns: float  # of that, what counts for the call itself


def time_calls() -> float:
    """Nanoseconds that one of this thread's calls takes, the quickest of some rounds."""
    madvise = ctypes.CDLL(None).madvise
    return min(_time_round(madvise) for _ in range(_ROUNDS))


def measure_call_cost(untraced_ns: float, read_own_slot: Callable[[], bytes]) -> CallCost | None:
    """Call as `time_calls` did, traced now; None where the probes did not see each call.

    None too where that took no longer: then something else took time, before or now.

    `read_own_slot` reads what the programs counted of this thread.
    """
    madvise = ctypes.CDLL(None).madvise
    traced_ns, inside_ns, before_ns = [], [], 0
    for number in range(1, _ROUNDS + 1):
        traced_ns.append(_time_round(madvise))
        sums = parse_host_counters(read_own_slot()).calls[Call.MADVISE_OTHER]
        if sums.calls != number * _CALLS:
            return None
        inside_ns.append((sums.duration_ns - before_ns) / _CALLS)
        before_ns = sums.duration_ns
    # A call that is refused at once takes some ten instructions beside the programs around it.
    added_ns = min(traced_ns) - untraced_ns
    return CallCost(added_ns, min(min(inside_ns), added_ns)) if added_ns > 0 else None


def _time_round(madvise: Callable[[int, int, int], int]) -> float:
    calls = range(_CALLS)
    start_ns = time.monotonic_ns()
    for _ in calls:
        madvise(0, 0, _NO_ADVICE)
    return (time.monotonic_ns() - start_ns) / _CALLS

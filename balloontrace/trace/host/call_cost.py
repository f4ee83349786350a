# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing adds to a call, measured here: calls that free nothing, without the probes and with them.

A machine may run twice as fast a moment later, when a neighbour rests. So each round of calls is timed
beside a round of a system call that nobody traces and that does next to nothing, and compared with it.
What the calls take longer than that one, untraced, is their own work and not the probes'.
"""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from balloontrace.format.host_counters import parse_host_counters
from balloontrace.format.vocabulary import Call

# Rounds are short, so that on a busy machine too most pass without another process in between.
_CALLS = 32
_ROUNDS = 64
# madvise(2) refuses this advice, and membarrier(2) this flag, before it looks at anything else.
_MADVISE = (0, 0, 1 << 30)
_MEMBARRIER = (0, 1, 0)
# __NR_madvise and __NR_membarrier; called by number, both take the C library the same time.
_NUMBERS = {
    "x86_64": (28, 324), "aarch64": (233, 283), "riscv64": (233, 283), "loongarch64": (233, 283),
    "ppc64le": (205, 365), "ppc64": (205, 365), "s390x": (150, 356),
}  # fmt: skip
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class CallTime:
    """How long this thread's calls take beside a system call that is not traced."""

    ratio: float  # the median of a call's time over the other's
    other_ns: float  # the other's, in the quickest round


@dataclass(frozen=True)
class CallCost:
    """What each call takes longer because it is traced: inside it, and between calls."""

    added_ns: float  # in all
    inside_ns: float  # of that, what counts for the call itself


def time_calls(after_round: Callable[[int], None] = lambda _: None) -> CallTime | None:
    """Time some rounds of this thread's calls; `after_round` is told how many calls there were so far.

    None on a machine whose numbers of system calls are not known.
    """
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        return None
    madvise, membarrier = numbers
    ratios, others_ns = [], []
    for number in range(1, _ROUNDS + 1):
        other_ns = _time_round(membarrier, _MEMBARRIER)
        ratios.append(_time_round(madvise, _MADVISE) / other_ns)
        others_ns.append(other_ns)
        after_round(number * _CALLS)
    return CallTime(sorted(ratios)[_ROUNDS // 2], min(others_ns))


def measure_call_cost(untraced: CallTime | None, read_own_slot: Callable[[], bytes]) -> CallCost | None:
    """Call as `time_calls` did, traced now; None where the probes did not see each call.

    None too where that took no longer: then something else took time, before or now.

    `read_own_slot` reads what the programs counted of this thread.
    """
    rounds: list[tuple[bool, int]] = []  # whether all calls were seen, and the time of all so far

    def look(calls: int) -> None:
        sums = parse_host_counters(read_own_slot()).calls[Call.MADVISE_OTHER]
        rounds.append((sums.calls == calls, sums.duration_ns))

    traced = time_calls(look)
    if traced is None or untraced is None:
        return None
    # Either moment's speed would do; the quicker one had fewer neighbours.
    added_ns = (traced.ratio - untraced.ratio) * min(traced.other_ns, untraced.other_ns)
    if added_ns <= 0 or not all(whole for whole, _ in rounds):
        return None
    ends_ns = [0, *(so_far_ns for _, so_far_ns in rounds)]
    counted_ns = min(end - start for start, end in pairwise(ends_ns)) / _CALLS
    own_ns = max(untraced.ratio - 1, 0.0) * traced.other_ns
    return CallCost(added_ns, min(max(counted_ns - own_ns, 0.0), added_ns))


def _time_round(number: int, arguments: tuple[int, int, int]) -> float:
    call, calls = _LIBC.syscall, range(_CALLS)
    start_ns = time.monotonic_ns()
    for _ in calls:
        call(number, *arguments)
    return max(time.monotonic_ns() - start_ns, 1) / _CALLS

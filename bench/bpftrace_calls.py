# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of a VMM's madvise calls by bpftrace, less what bpftrace adds: what stage d is held against."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from lab.bpftrace import bpftraced
from lab.guest import Guest
from lab.process import GuestProcess
from lab.scenario import END_S, START_S

# At the function, where the recorder's programs are too. `__unused` is what the kernel's type information
# calls the registers. The intervals come before and after: when both have passed, so has all between.
PROGRAM = """
interval:ms:100 {{ @before = 1; }}
fentry:vmlinux:__x64_sys_madvise /tid == {tid}/ {{ @start = nsecs; }}
fexit:vmlinux:__x64_sys_madvise /tid == {tid} && @start/ {{
    @ns[args.__unused->dx] = sum(nsecs - @start); @calls[args.__unused->dx] = count(); @start = 0;
}}
interval:ms:150 /@before/ {{ printf("counting\\n"); }}
"""
# What a refused call takes by itself, untraced, is known from the recorder's own measure of such calls.
REFUSED_CALLS = """
import signal
from balloontrace.trace.host.call_cost import time_calls
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
untraced = time_calls()
print("ready", flush=True)
signal.sigwait([signal.SIGUSR1])
traced = time_calls()
print((untraced.ratio - 1) * traced.other_ns, flush=True)
"""


class TimedCalls:
    """Calls and their nanoseconds by advice; there when the block of `timed_calls` has ended."""

    def __init__(self) -> None:
        self.calls: dict[int, int] = {}
        self.total_ns: dict[int, int] = {}


@contextmanager
def timed_calls(host: Guest, tid: int) -> Iterator[TimedCalls]:
    """What a thread of the host calls meanwhile. Raises LabError."""
    timed = TimedCalls()
    with bpftraced(host, PROGRAM.format(tid=tid)) as maps:
        yield timed
    timed.calls = {int(advice): count for advice, count in maps.get("@calls", {}).items()}
    timed.total_ns = {int(advice): ns for advice, ns in maps.get("@ns", {}).items()}


def measure_added_ns(host: Guest) -> float:
    """What bpftrace's programs add to the time that they show for one call. Raises LabError."""
    caller = host.start(["python3", "-P", "-c", REFUSED_CALLS], env={"PYTHONPATH": "/repo"})
    caller.wait_for(b"ready", START_S, stream="stdout")
    with timed_calls(host, caller.pid) as timed:
        own_ns = _finish(caller)
    ((advice, calls),) = timed.calls.items()
    return timed.total_ns[advice] / calls - own_ns


def _finish(caller: GuestProcess) -> float:
    caller.signal(signal.SIGUSR1)
    return float(caller.wait(END_S, check=True).stdout.split()[-1])

# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing costs a process that gives its memory back page by page, in instructions per call.

As in `overhead` the guest's clock counts instructions. Our programs are compared with empty ones
attached the same way, and with bpftrace and a histogram script. The calls of a process that is not traced are
measured too. So is what touching a page costs, which is a page fault.

An empty fentry pair takes 308 instructions. Two looks at the clock take 104 more, two questions who is
running 34: a call cannot cost less than 446. What counts is how much longer an inflate takes (`overhead`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import lab
from bench.figures import Benchmark, Figure, say

GUEST_MIB = 2048
START_S = 300
RUN_S = 120
ROUNDS = 6
MOST_OF_BPFTRACE = 0.5
MOST_OF_FENTRY = 557
MOST_OF_FAULT = 520
_FOREIGN, _SAMPLED = "record of another process", "record --sample"

CALLS = Path(__file__).with_name("host_calls.c")
ORDERS = "/run/host_calls"

EMPTY_PAIR = """
import sys, time
from bcc import BPF
kind = sys.argv[1]
name = "__x64_sys_madvise"
if kind == "fentry":
    program = BPF(text='''
#include <uapi/linux/ptrace.h>
KFUNC_PROBE(__x64_sys_madvise, const struct pt_regs *regs) { return 0; }
KRETFUNC_PROBE(__x64_sys_madvise, const struct pt_regs *regs, long result) { return 0; }
''')
else:
    program = BPF(text="int enter(void *ctx) { return 0; } int leave(void *ctx) { return 0; }")
    program.attach_kprobe(event=name, fn_name="enter")
    program.attach_kretprobe(event=name, fn_name="leave")
print("attached", flush=True)
time.sleep(100000)
"""

BPFTRACE = """
kprobe:__x64_sys_madvise /pid == $1/ { @start[tid] = nsecs; }
kretprobe:__x64_sys_madvise /@start[tid]/ { @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }
"""


def measure_host_overhead() -> Iterator[Figure]:
    """Instructions that each call takes more than without tracing; the least of ROUNDS after settling."""
    with lab.solo(memory_mib=GUEST_MIB, icount=True, balloons=0) as guest:
        calls = _Calls(guest)
        plain, plain_fault = calls.measure("without tracing", nullcontext())
        faults = {}

        def cost(name: str, tracing: AbstractContextManager[object]) -> float:
            call, fault = calls.measure(name, tracing)
            faults[name] = fault - plain_fault
            return call - plain

        empty = {
            kind: cost(
                f"empty {kind} pair", _running(guest, ["python3", "-c", EMPTY_PAIR, kind], b"attached")
            )
            for kind in ("fentry", "kprobe")
        }
        own = {
            kind: cost(f"record --attach {attach}", _recorder(guest, calls.pid, "--attach", attach))
            for kind, attach in (("fentry", "auto"), ("kprobe", "kprobe"))
        }
        foreign = cost(_FOREIGN, _recorder(guest, calls.other_pid))
        cost(_SAMPLED, _recorder(guest, calls.pid, "--sample"))
        script = ["bpftrace", "-e", BPFTRACE, str(calls.pid)]
        bpftrace = cost("bpftrace", _running(guest, script, b"Attach", stream="stdout"))
    yield Figure("host_call_untraced", plain, "ins")
    for kind in own:
        yield Figure(f"host_empty_{kind}_pair", empty[kind], "ins")
        most = MOST_OF_FENTRY if kind == "fentry" else None
        yield Figure(f"host_call_traced_{kind}", own[kind], "ins", at_most=most)
        yield Figure(f"host_call_over_empty_{kind}_pair", own[kind] / empty[kind], "x")
    yield Figure("host_call_of_another_process", foreign, "ins")
    yield Figure("host_fault_untraced", plain_fault, "ins")
    yield Figure("host_fault_traced_fentry", faults["record --attach auto"], "ins", at_most=MOST_OF_FAULT)
    yield Figure("host_fault_traced_kprobe", faults["record --attach kprobe"], "ins")
    yield Figure("host_fault_of_another_process", faults[_FOREIGN], "ins")
    yield Figure("host_fault_sampled", faults[_SAMPLED], "ins")
    yield Figure("host_call_bpftrace", bpftrace, "ins")
    yield Figure("host_call_over_bpftrace", own["fentry"] / bpftrace, "x", at_most=MOST_OF_BPFTRACE)


class _Calls:
    """The process that makes the calls, and another one."""

    def __init__(self, guest: lab.Guest) -> None:
        source = guest.push(CALLS)
        build = ["gcc", "-O2", "-o", "/run/calls", source]
        guest.run(build, timeout_s=START_S, check=True)
        guest.run(["mkfifo", ORDERS], check=True)
        self._guest = guest
        self._process = guest.start(["sh", "-c", f"exec /run/calls <> {ORDERS}"])
        self._read_bytes = self._process.wait_for(b"\n", RUN_S, stream="stdout")
        self.pid = self._process.pid
        self.other_pid = guest.start(["sleep", "100000"]).pid

    def measure(self, name: str, tracing: AbstractContextManager[object]) -> tuple[float, float]:
        """Nanoseconds of the guest's clock, hence instructions, of one call and of one page touched."""
        with tracing:
            self._guest.run(["sleep", "5"], check=True)  # attaching ends in work that the kernel puts off
            calls, faults = zip(*(self._round() for _ in range(ROUNDS)), strict=True)
        self._guest.run(["sleep", "5"], check=True)
        say(f"{name}: {min(calls):.1f}, a fault {min(faults):.1f}")
        return min(calls), min(faults)

    def _round(self) -> tuple[float, float]:
        self._guest.run(["sh", "-c", f"echo > {ORDERS}"], check=True)
        start = self._read_bytes
        self._read_bytes = self._process.wait_for(b"\n", RUN_S, stream="stdout", after=start)
        call, fault = map(float, self._process.read("stdout", start).split())
        return call, fault


@contextmanager
def _recorder(guest: lab.Guest, pid: int, *options: str) -> Iterator[None]:
    words = ["balloontrace", "record", "-f", "-o", "/run/host.bt", "-p", str(pid), *options]
    with _running(guest, words, b"probes attached", stream="stderr"):
        yield


@contextmanager
def _running(
    guest: lab.Guest, words: Sequence[str], ready: bytes, *, stream: str = "stdout"
) -> Iterator[None]:
    """A tracer at work, ended at the end of the block."""
    process = guest.start(words)
    process.wait_for(ready, timeout_s=START_S, stream=stream)
    yield
    process.signal(2)
    process.wait(RUN_S)


BENCHMARKS = (
    Benchmark(
        (
            "host_call_untraced",
            "host_empty_fentry_pair",
            "host_call_traced_fentry",
            "host_call_over_empty_fentry_pair",
            "host_empty_kprobe_pair",
            "host_call_traced_kprobe",
            "host_call_over_empty_kprobe_pair",
            "host_call_of_another_process",
            "host_fault_untraced",
            "host_fault_traced_fentry",
            "host_fault_traced_kprobe",
            "host_fault_of_another_process",
            "host_fault_sampled",
            "host_call_bpftrace",
            "host_call_over_bpftrace",
        ),
        measure_host_overhead,
    ),
)

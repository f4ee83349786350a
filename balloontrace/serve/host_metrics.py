# SPDX-License-Identifier: GPL-2.0-or-later
"""What the VMs of a host did for their guests' balloons, from a look at the sums of each.

The only labels are the VM and the kind of call, or what a VM is: there are no more VMs than are traced at
once. A VM that ended takes its series with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from balloontrace.format.host_counters import CallSums
from balloontrace.format.vocabulary import Call
from balloontrace.live.make_views import HostLook
from balloontrace.live.read_all_sums import Tracing, VmLook
from balloontrace.serve.families import Family, as_histogram, counter, gauge, histogram, seconds

_CALL_POWERS = tuple(range(8, 33, 2))  # 256 ns to 4 s
_NAMES = {call: call.name.lower() for call in Call}


def host_families(looks: Sequence[VmLook], tracing: Tracing) -> Iterator[Family]:
    """All metrics of a host; sums are since a VM was found, those without one since the start."""
    named = list(zip(vm_labels(looks), (each.look for each in looks), strict=True))
    yield gauge("vms", "VMs, and their vhost-user backends, that are traced.", [((), len(looks))])
    yield counter("vms_not_traced", "VMs for which there was no room.", [((), tracing.without_room)])
    yield gauge(
        "vm_info", "What is known of a VM; always 1.",
        (
            ((vm, str(each.process.pid), each.process.vm_uuid or "", each.process.comm), 1)
            for (vm, _), each in zip(named, looks, strict=True)
        ),
        ("vm", "pid", "uuid", "command"),
    )  # fmt: skip
    yield counter(
        "buffers", "Buffers of page numbers that were served.",
        (((vm,), look.counters.batches) for vm, look in named), ("vm",),
    )  # fmt: skip
    calls = [
        ((vm, _NAMES[call]), sums, each.counts_freed)
        for (vm, look), each in zip(named, looks, strict=True)
        for call, sums in look.counters.calls.items()
        if sums.calls
    ]

    def of_calls(name: str, text: str, value: Callable[[CallSums], float]) -> Family:
        samples = ((labels, value(sums)) for labels, sums, _ in calls)
        return counter(f"host_{name}", text, samples, ("vm", "call"))

    yield of_calls("calls", "Calls that give memory back, or take it.", lambda sums: sums.calls)
    yield of_calls("call_seconds", "Time inside these calls (stage d).", lambda sums: sums.duration_ns / 1e9)
    yield of_calls("call_bytes", "Memory that these calls named.", lambda sums: sums.bytes)
    yield of_calls("call_errors", "Calls that failed.", lambda sums: sums.errors)
    yield of_calls("calls_without_bytes", "Calls that named no memory.", lambda sums: sums.no_bytes)
    counted = [(labels, sums) for labels, sums, counts_freed in calls if counts_freed]
    yield counter(
        "host_freed_bytes", "Memory that became free inside calls.",
        ((labels, sums.freed_bytes) for labels, sums in counted), ("vm", "call"),
    )  # fmt: skip
    yield counter(
        "host_calls_freed_nothing", "Calls that did not fail and by which no page became free.",
        ((labels, sums.freed_nothing) for labels, sums in counted), ("vm", "call"),
    )  # fmt: skip
    yield from _times(named)
    yield counter(
        "host_thp_splits", "Mappings of huge pages that were split.",
        (((vm,), look.counters.thp_splits) for vm, look in named), ("vm",),
    )  # fmt: skip
    yield counter(
        "host_events_lost", "Calls of which nothing is known.",
        (((vm,), look.counters.no_state + look.counters.overwritten) for vm, look in named), ("vm",),
    )  # fmt: skip
    yield counter(
        "host_calls_missed", "Calls for which the kernel did not run the programs.", [((), tracing.missed)]
    )
    yield counter(
        "host_program_seconds", "Processor time of the BPF programs of calls, by runs that were timed.",
        [((), seconds(tracing.program_ns))],
    )  # fmt: skip


def vm_labels(looks: Sequence[VmLook]) -> list[str]:
    """What each is called; of several by one name all have their process's number too.

    Prometheus refuses all where two are the same, and whoever starts a VM chooses its name.
    """
    names = [each.process.name for each in looks]
    numbered = [f"{name}-{each.process.pid}" for name, each in zip(names, looks, strict=True)]
    times = Counter(names)
    labels = [name if times[name] == 1 else long for name, long in zip(names, numbered, strict=True)]
    return labels if len(set(labels)) == len(labels) else numbered


def _times(named: Sequence[tuple[str, HostLook]]) -> Iterator[Family]:
    stages = (
        ((vm, stage), seconds(time_ns))
        for vm, look in named
        for stage, time_ns in (
            ("c", look.batches.served_ns - look.batches.calls_ns),
            ("d", look.batches.calls_ns),
        )
        if look.batches.delimited
    )
    yield counter(
        "host_stage_seconds", "Time of buffers from kick to completion: outside of calls (c), inside (d).",
        stages, ("vm", "stage"),
    )  # fmt: skip
    yield counter(
        "host_buffers_timed", "Buffers of which kick and completion were seen.",
        (((vm,), look.batches.delimited) for vm, look in named), ("vm",),
    )  # fmt: skip
    yield gauge(
        "host_longest_buffer_seconds", "The longest that a buffer took from kick to completion.",
        (((vm,), seconds(look.batches.longest_ns)) for vm, look in named if look.batches.delimited), ("vm",),
    )  # fmt: skip
    latencies = []
    for vm, look in named:
        sums = [each for each in look.counters.calls.values() if each.calls]
        if sums:
            counts = list(map(sum, zip(*(each.buckets for each in sums), strict=True)))
            total_ns = sum(each.duration_ns for each in sums)
            latencies.append(((vm,), as_histogram(counts, total_ns, _CALL_POWERS)))
    yield histogram("host_call_duration_seconds", "How long calls took.", latencies, ("vm",))

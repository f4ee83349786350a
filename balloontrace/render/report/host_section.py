# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side for people: the process, the buffers it served, the calls it made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Line, Number, Section, Table, Text, Title, words
from balloontrace.render.report.host_memory_section import describe_host_memory
from balloontrace.render.report.machine_section import describe_machine
from balloontrace.results.host_side import HostCalls, HostMemory, HostQueue, HostSide, OtherBuffers, Pairing
from balloontrace.units import (
    ESTIMATED,
    NOT_MEASURED,
    format_bytes,
    format_count,
    format_duration_ns,
    format_things,
)

_NAME_COLUMNS = 32
_LISTED_QUEUES = 8
_KINDS_BESIDE = 4
_MANY = {
    "advice outside of buffers": "pieces of advice outside of buffers",
    "discard of the process's own memory": "discards of the process's own memory",
    "send without one of the guest's": "sends without one of the guest's",
}
_TOLD_BY = {
    "eventfd": "; told by their eventfd",
    "memory slots": "; told by KVM's memory slots",
    "mappings": "; told by its mappings",
    "calls": "; told by the calls alone",
}


def describe_host(host: HostSide) -> list[Section]:
    """What it served, then a table of the calls, of how long they took, and of its memory."""
    return [
        [*_lines(host), *_queues(host.queues), *_others(host.others)],
        _calls(host.calls),
        _in_vain(host.calls),
        _histogram(host.calls),
        _memory(host.memory),
        *describe_host_memory(host),
    ]


def _calls_made(host: HostSide) -> Text:
    """What is known of the calls for buffers: their number, or what was counted beside samples of them."""
    if host.sample_period_ns is None:
        return words("{} for them", numbers.things(host.calls_in_batches, "call"))
    if host.discards is None:
        return words("calls sampled")
    discards, size = numbers.things(host.discards, "discard"), numbers.size(host.discarded_bytes)
    return words("calls sampled; {} of {}", discards, size)


def _lines(host: HostSide) -> Iterator[Title | Line | Item]:
    who = host.header.label or host.header.machine.hostname or "unnamed machine"
    ended = f"ended: {host.ended}" if host.ended else "end unknown"
    process = host.process or "unknown"
    yield Title(f"Host: {host.header.recording}: {who}, process {process}; {ended}")
    machine = describe_machine(host.header.machine)
    if machine:
        yield Line(machine)
    lost = "not known" if host.events_lost is None else numbers.count(host.events_lost)
    yield Line(
        words(
            "{} served, {}; {} split; lost: {}",
            numbers.things(host.batches, "buffer"),
            _calls_made(host),
            numbers.things(host.thp_splits, "huge page"),
            lost,
        )
    )
    about = "" if host.calls_error_ns is None else ESTIMATED
    if host.served_ns is not None and host.calls_ns is not None:
        yield Line(
            words(
                f"from kick to completion {{}} in {{}}: c {about}{{}}, d {about}{{}} ({{}})",
                numbers.duration(host.served_ns),
                numbers.things(host.delimited, "buffer"),
                numbers.duration(host.served_ns - host.calls_ns),
                numbers.duration(host.calls_ns),
                numbers.share(_part(host.calls_ns, host.served_ns)),
            )
        )
    if host.calls_error_ns is not None:
        yield Line(
            words(
                "c and d by {} (a look each {} of a thread's time): within {} in 19 of 20 cases",
                numbers.things(host.samples, "sample"),
                numbers.duration(host.sample_period_ns),
                numbers.duration(host.calls_error_ns),
            )
        )
    if host.tracing_c_ns is not None and host.tracing_d_ns is not None:
        yield Line(
            words(
                "of which tracing some {} of c and {} of d, by calls timed while attaching",
                numbers.duration(host.tracing_c_ns),
                numbers.duration(host.tracing_d_ns),
            )
        )
    if host.guest_memory_bytes is not None:
        yield Line(
            words("memory of the guest, by KVM's memory slots: {}", numbers.size(host.guest_memory_bytes))
        )
    if host.pairing is not None:
        yield from _pairing(host.pairing)


def _queues(queues: Sequence[HostQueue]) -> Iterator[Line]:
    """What each eventfd kicked: `2 inflate (64 buffers), 3 report (6 buffers), 6 statistics (5 kicks)`."""
    if not queues:
        return
    listed = [
        f"{each.eventfd} {each.queue or 'unknown'} ({_seen_of(each)})" for each in queues[:_LISTED_QUEUES]
    ]
    more = f" and {len(queues) - _LISTED_QUEUES} more" if len(queues) > _LISTED_QUEUES else ""
    yield Line(f"queues by eventfd: {', '.join(listed)}{more}")


def _seen_of(queue: HostQueue) -> str:
    if not queue.buffers and queue.kicks is not None:
        return format_things(queue.kicks, "kick")
    return format_things(queue.buffers, "buffer")


def _pairing(pairing: Pairing) -> Iterator[Line | Item]:
    matched = words(
        "{} of {} and {}",
        numbers.things(pairing.pairs, "pair"),
        numbers.things(pairing.sends, "send"),
        numbers.things(pairing.batches, "buffer"),
    )
    if pairing.reports and not pairing.sends:
        matched = words("{} matched", numbers.things(pairing.reports, "page report"))
    yield Line(
        words(
            "{}; host's clock {} by {}, within {}; drift {} ppm",
            matched,
            "behind" if pairing.clock_offset_ns < 0 else "ahead",
            Number(_offset(pairing.clock_offset_ns), pairing.clock_offset_ns, "ns"),
            numbers.duration(pairing.clock_error_ns),
            Number(f"{pairing.clock_drift_ppm:.1f}", pairing.clock_drift_ppm, "ppm"),
        )
    )
    for note in pairing.notes:
        yield Item(note)


def _others(others: Sequence[OtherBuffers]) -> Iterator[Item]:
    """What was no send, threads together: `6 page reports by 95 calls of madvise_dontneed, 352 MiB`."""
    sorts: dict[tuple[str, str, str, str | None], list[OtherBuffers]] = {}
    for each in others:
        sorts.setdefault((each.what, each.told_by, each.call, each.file), []).append(each)
    for (what, told_by, call, file), same in sorts.items():
        yield Item(
            words(
                "{}{} by {} of " + (call or "a kind not seen") + "{}, {}: c {}, d {}{}",
                numbers.things(sum(each.buffers for each in same), what, _MANY.get(what)),
                f" in {len(same)} threads" if len(same) > 1 else "",
                numbers.things(_sum(each.calls for each in same), "call"),
                f" on {file}" if file else "",
                numbers.size(_sum(each.bytes for each in same)),
                numbers.duration(_sum(each.c_ns for each in same)),
                numbers.duration(_sum(each.d_ns for each in same)),
                _TOLD_BY.get(told_by, ""),
            )
        )


def _sum(values: Iterable[int | None]) -> int | None:
    """None unless all are known."""
    known = list(values)
    return None if None in known else sum(each or 0 for each in known)


def _offset(offset_ns: int) -> str:
    return f"{abs(offset_ns) / 1e9:.6f} s"


def _calls(calls: Sequence[HostCalls]) -> Section:
    rows = [
        (
            each.call,
            numbers.count(each.calls),
            numbers.size(each.bytes),
            numbers.count(each.errors),
            numbers.duration(each.total_ns),
            numbers.duration(each.total_ns / each.calls) if each.calls else NOT_MEASURED,
        )
        for each in calls
    ]
    names = ("call", "calls", "bytes", "failed", "total", "mean")
    return [Table(names, rows, "lrrrrr")] if rows else []


def _in_vain(calls: Sequence[HostCalls]) -> Section:
    """How many calls named no memory or freed none, and how much became free."""
    rows = [
        (
            each.call,
            numbers.count(each.no_bytes),
            numbers.count(each.freed_nothing),
            numbers.size(each.freed_bytes),
        )
        for each in calls
    ]
    return [Table(("of them", "zero-length", "freed nothing", "became free"), rows, "lrrr")] if rows else []


def _histogram(calls: Sequence[HostCalls]) -> Section:
    """How many calls took how long, one column a kind of call; no more beside each other than fit."""
    beside = [calls[first : first + _KINDS_BESIDE] for first in range(0, len(calls), _KINDS_BESIDE)]
    return [table for some in beside for table in _lengths(some)]


def _lengths(calls: Sequence[HostCalls]) -> Iterator[Table]:
    used = [
        bucket
        for bucket in range(max((len(each.buckets) for each in calls), default=0))
        if any(each.buckets[bucket] for each in calls)
    ]
    if used:
        rows = [
            (
                f"{format_duration_ns(1 << place)} and up",
                *(format_count(each.buckets[place]) for each in calls),
            )
            for place in range(used[0], used[-1] + 1)
        ]
        names = ("time of a call", *(each.call.removeprefix("madvise_") for each in calls))
        yield Table(names, rows, "r" * len(names))


def _memory(memory: Sequence[HostMemory]) -> Section:
    rows = [
        (
            each.what,
            numbers.size(each.before_bytes),
            numbers.size(each.after_bytes),
            _change(each.before_bytes, each.after_bytes),
        )
        for each in memory
    ]
    names = ("memory of the process", "before", "after", "change")
    return [Table(names, rows, "lrrr", {0: _NAME_COLUMNS})] if rows else []


def _change(before_bytes: int | None, after_bytes: int | None) -> str:
    if before_bytes is None or after_bytes is None:
        return NOT_MEASURED
    change = after_bytes - before_bytes
    return f"{'-' if change < 0 else '+'}{format_bytes(abs(change))}"


def _part(part: int, whole: int) -> float | None:
    return part / whole if whole else None

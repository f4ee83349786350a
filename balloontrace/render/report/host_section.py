# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side for people: the process, the buffers it served, the calls it made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from balloontrace.render.blocks import Item, Line, Section, Table, Title
from balloontrace.render.report.machine_section import describe_machine
from balloontrace.results.report import HostCalls, HostMemory, HostSide, Pairing
from balloontrace.units import (
    NOT_MEASURED,
    format_bytes,
    format_count,
    format_duration_ns,
    format_share,
    format_things,
)

_NAME_COLUMNS = 32


def describe_host(host: HostSide) -> list[Section]:
    """What it served, then a table of the calls, of how long they took, and of its memory."""
    return [
        list(_lines(host)),
        _calls(host.calls),
        _in_vain(host.calls),
        _histogram(host.calls),
        _memory(host.memory),
    ]


def _lines(host: HostSide) -> Iterator[Title | Line | Item]:
    who = host.header.label or host.header.machine.hostname or "unnamed machine"
    ended = f"ended: {host.ended}" if host.ended else "end unknown"
    process = host.process or "unknown"
    yield Title(f"Host: {host.header.recording}: {who}, process {process}; {ended}")
    machine = describe_machine(host.header.machine)
    if machine:
        yield Line(machine)
    lost = "not known" if host.events_lost is None else format_count(host.events_lost)
    yield Line(
        f"{format_things(host.batches, 'buffer')} served, {format_things(host.calls_in_batches, 'call')} "
        f"for them; {format_things(host.thp_splits, 'huge page')} split; lost: {lost}"
    )
    if host.served_ns is not None and host.calls_ns is not None:
        yield Line(
            f"from kick to completion {format_duration_ns(host.served_ns)} "
            f"in {format_things(host.delimited, 'buffer')}: "
            f"c {format_duration_ns(host.served_ns - host.calls_ns)}, "
            f"d {format_duration_ns(host.calls_ns)} ({format_share(_part(host.calls_ns, host.served_ns))})"
        )
    if host.pairing is not None:
        yield from _pairing(host.pairing)


def _pairing(pairing: Pairing) -> Iterator[Line | Item]:
    yield Line(
        f"{format_things(pairing.pairs, 'pair')} of {format_things(pairing.sends, 'send')} and "
        f"{format_things(pairing.batches, 'buffer')}; "
        f"host's clock ahead by {_offset(pairing.clock_offset_ns)}, "
        f"within {format_duration_ns(pairing.clock_error_ns)}; drift {pairing.clock_drift_ppm:.1f} ppm"
    )
    for note in pairing.notes:
        yield Item(note)


def _offset(offset_ns: int) -> str:
    return f"{'-' if offset_ns < 0 else ''}{abs(offset_ns) / 1e9:.6f} s"


def _calls(calls: Sequence[HostCalls]) -> Section:
    rows = [
        (
            each.call,
            format_count(each.calls),
            format_bytes(each.bytes),
            format_count(each.errors),
            format_duration_ns(each.total_ns),
            format_duration_ns(each.total_ns / each.calls) if each.calls else NOT_MEASURED,
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
            format_count(each.no_bytes),
            format_count(each.freed_nothing),
            format_bytes(each.freed_bytes),
        )
        for each in calls
    ]
    return [Table(("of them", "zero-length", "freed nothing", "became free"), rows, "lrrr")] if rows else []


def _histogram(calls: Sequence[HostCalls]) -> Section:
    """How many calls took how long, one column a kind of call."""
    used = [
        bucket
        for bucket in range(max((len(each.buckets) for each in calls), default=0))
        if any(each.buckets[bucket] for each in calls)
    ]
    rows = [
        (f"{format_duration_ns(1 << bucket)} and up", *(format_count(each.buckets[bucket]) for each in calls))
        for bucket in range(used[0], used[-1] + 1)
    ] if used else []  # fmt: skip
    names = ("time of a call", *(each.call.removeprefix("madvise_") for each in calls))
    return [Table(names, rows, "r" * len(names))] if rows else []


def _memory(memory: Sequence[HostMemory]) -> Section:
    rows = [
        (
            each.what,
            format_bytes(each.before_bytes),
            format_bytes(each.after_bytes),
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

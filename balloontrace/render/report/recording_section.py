# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a recording can be trusted, and what it cost: other counts, losses, the recorder's own use."""

from __future__ import annotations

from collections.abc import Sequence

from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Line, Section, Table, Text, Title, words
from balloontrace.results.recorder import Loss, OwnCost
from balloontrace.results.recording_header import Header, Probe
from balloontrace.results.report import Check, Report
from balloontrace.units import NOT_MEASURED

_PROBE_COLUMNS = 25
_AGREES = {True: "yes", False: "NO", None: NOT_MEASURED}


def describe_outside(report: Report) -> Section:
    """What moved outside of operations."""
    rows = [
        (each.what, numbers.count(each.calls), numbers.count(each.pages), numbers.duration(each.total_ns))
        for each in report.outside
    ]
    return [Table(("outside of operations", "calls", "pages", "total"), rows, "lrrr")] if rows else []


def describe_checks(checks: Sequence[Check]) -> Section:
    """Pages counted twice, and whether both counts agree."""
    rows = [
        (
            check.name.replace(", as payloads name", " by payloads"),  # 80 columns
            numbers.count(check.spans),
            numbers.count(check.independent),
            check.source,
            _AGREES[check.agrees],
        )
        for check in checks
    ]
    names = ("pages, counted twice", "in spans", "other count", "from", "agree")
    notes = [Item(f"{check.name}: {check.note}") for check in checks if check.note]
    return [Table(names, rows, "lrrll"), *notes] if rows else []


def describe_losses(report: Report) -> Section:
    """How many events were lost, and where."""
    if report.events_lost is None:
        return [Line("Losses: not known.")]
    lost, seen = numbers.count(report.events_lost), numbers.things(report.events_seen, "event")
    told = words("Lost: {} of {}.", lost, seen) if report.events_seen else words("Lost: {} events.", lost)
    return [Title(told), loss_table(report.losses)]


def loss_table(losses: Sequence[Loss]) -> Table:
    """What became of the calls of each probe, and where some were summed up, of how many."""
    with_sums = any(loss.summed for loss in losses)
    rows = [
        (
            loss.function,
            numbers.count(loss.entries),
            numbers.count(loss.unmatched_returns),
            numbers.count(loss.lost),
            numbers.count(loss.no_state),
            numbers.count(loss.overwritten),
            numbers.count(loss.missed),
            *((numbers.count(loss.summed),) if with_sums else ()),
        )
        for loss in losses
    ]
    names = ("probe", "calls", "unmatched", "no room", "no state", "no return", "missed")
    names_of_sums = ("summed up",) if with_sums else ()
    return Table((*names, *names_of_sums), rows, "lrrrrrr" + "r" * with_sums, {0: _PROBE_COLUMNS})


def probe_table(probes: Sequence[Probe]) -> Table:
    """What was attached, how, and why not what was not."""
    rows = [
        (
            probe.function,
            probe.symbol or "",
            probe.mechanism or "",
            probe.status or NOT_MEASURED,
            probe.stands_in_for or "",
            probe.note or "",
        )
        for probe in probes
    ]
    return Table(("function", "symbol", "mechanism", "status", "stands in for", "note"), rows, "llllll")


def describe_cost(cost: OwnCost, header: Header) -> Text:
    """What recording cost, as one sentence without its subject."""
    return words(
        "BPF {}; CPU {} (and {} to set up); memory at most {} (setting up {}); {}; {} written; "
        "attached by {}",
        describe_bpf(cost, of_host=header.is_of_host),
        numbers.duration(cost.cpu_ns),
        numbers.duration(cost.setup_cpu_ns),
        numbers.size(cost.peak_memory_bytes),
        numbers.size(cost.setup_peak_memory_bytes),
        numbers.things(cost.wakeups, "wake-up"),
        numbers.size(cost.bytes_written),
        f"engine {header.engine} ({header.engine_version or NOT_MEASURED})"
        if header.engine
        else NOT_MEASURED,
    )


def describe_bpf(cost: OwnCost, *, of_host: bool) -> Text:
    """What the BPF programs cost, and of how many of their runs that is known."""
    never = f", none of {', '.join(cost.bpf_never_timed)}" if cost.bpf_never_timed else ""
    count = len(cost.bpf_not_counted)
    without = f"; without {count} program{'s' * (count != 1)} whose runs are not counted" if count else ""
    return words(
        "{}{} in {} ({}{} of them timed{}{})",
        "at least " if cost.bpf_never_timed and cost.bpf_time_ns is not None else "",
        numbers.duration(cost.bpf_time_ns),
        numbers.things(cost.bpf_runs, "run"),
        "at most " if of_host and cost.bpf_timed_runs else "",
        numbers.count(cost.bpf_timed_runs),
        never,
        without,
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recorder lost and what it cost, as plain frozen data; None means "not measured"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loss:
    """What happened at the probes of one function. `events_lost` sums what should have been a span.

    `summed` calls, of compaction, have no span of their own on purpose; all they were is in these sums.
    """

    function: str
    entries: int | None = None
    returns: int | None = None
    unmatched_returns: int | None = None
    lost: int | None = None
    no_state: int | None = None
    overwritten: int | None = None
    missed: int | None = None
    summed: int | None = None
    summed_ns: int | None = None
    summed_pages: int | None = None

    @property
    def events_lost(self) -> int | None:
        """Calls that left no span: no room for it, not followed, return unseen, or missed by the kernel."""
        known = [
            value for value in (self.lost, self.no_state, self.overwritten, self.missed) if value is not None
        ]
        return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class BpfCost:
    """How often a BPF program ran, and how long those runs took that the kernel timed."""

    program: str
    runs: int | None = None
    timed_runs: int | None = None
    run_time_ns: int | None = None


@dataclass(frozen=True, slots=True)
class OwnCost:
    """What recording cost the machine it ran on.

    `bpf_time_ns` is the time of all runs of the programs that were timed, at the mean of their timed runs;
    None when none of the programs that ran was timed. `bpf_never_timed` names those that ran and are not in
    it, `bpf_not_counted` those whose runs nobody counted. `bpf_timed_runs` are of `bpf_runs`; on the host at
    most, for there the kernel times runs for other processes too.
    """

    bpf: tuple[BpfCost, ...] = ()
    bpf_runs: int | None = None
    bpf_timed_runs: int | None = None
    bpf_time_ns: int | None = None
    bpf_never_timed: tuple[str, ...] = ()
    bpf_not_counted: tuple[str, ...] = ()
    cpu_ns: int | None = None
    setup_cpu_ns: int | None = None
    peak_memory_bytes: int | None = None
    setup_peak_memory_bytes: int | None = None
    wakeups: int | None = None
    bytes_written: int | None = None
    attach_s: float | None = None

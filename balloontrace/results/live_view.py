# SPDX-License-Identifier: GPL-2.0-or-later
"""What `top` shows of a balloon, as plain frozen data; None always means "not measured"."""

from __future__ import annotations

from dataclasses import dataclass

from balloontrace.format.stages import BCD, BUILD, OTHER, A, C, D

GUEST_STAGES = (A, BUILD, BCD, OTHER)
HOST_STAGES = (C, D)


@dataclass(frozen=True)
class Share:
    """A stage: its time, and its part of the whole, in the last interval and since the start."""

    stage: str
    label: str
    interval_ns: int | None
    interval_share: float | None
    total_ns: int | None
    total_share: float | None


@dataclass(frozen=True)
class Spread:
    """Calls by how long they took: bucket i has those of 2^i to 2^(i+1)-1 ns."""

    what: str
    interval: tuple[int, ...]
    total: tuple[int, ...]


@dataclass(frozen=True)
class GuestView:
    """The guest's balloon at one time; counts and pages are of the last interval unless called `all`."""

    interval_ns: int
    running_ns: int
    device: int | None  # index modulo the number of devices that are kept apart
    size_pages: int | None
    target_pages: int | None
    rate_bytes_per_s: float | None  # positive while it inflates
    left_ns: int | None
    under_way_ns: int | None  # how long the work item under way has been
    inflated_pages: int | None
    deflated_pages: int | None
    all_inflated_pages: int | None
    all_deflated_pages: int | None
    sends: int
    all_sends: int
    failed_allocations: int
    all_failed_allocations: int
    calls: int
    lost: int
    bpf_share: float | None  # of the time the driver worked
    stages: tuple[Share, ...]
    send_times: Spread
    reports: int = 0  # of free pages
    all_reports: int = 0
    all_reported_pages: int | None = None
    others: tuple[OtherCalls, ...] = ()
    hinted_pages: int = 0
    all_hinted_pages: int = 0
    run_delay_share: float | None = None  # of the work items' time: ready to run, and waiting for a processor
    all_run_delay_share: float | None = None


@dataclass(frozen=True)
class OtherCalls:
    """Calls of the driver besides its work items: in the last interval, and since the start."""

    what: str
    calls: int
    all_calls: int


@dataclass(frozen=True)
class CallView:
    """One kind of call of a process on the host, in the last interval unless called `all`."""

    call: str
    calls: int
    all_calls: int
    rate_bytes_per_s: float | None
    mean_ns: float | None
    errors: int
    all_errors: int


@dataclass(frozen=True)
class HostView:
    """What a process on the host does for its guest's balloon, in the last interval unless called `all`."""

    interval_ns: int
    running_ns: int
    batches: int
    all_batches: int
    calls: int
    all_calls: int
    bytes_per_s: float | None  # named by discards; the larger of advised and punched, which are of one memory
    errors: int
    all_errors: int
    thp_splits: int
    all_thp_splits: int
    lost: int
    bpf_share: float | None  # of the time spent in calls
    kinds: tuple[CallView, ...]
    stages: tuple[Share, ...]
    call_times: Spread


@dataclass(frozen=True)
class VmView:
    """One of many VMs on a host."""

    name: str
    pid: int
    view: HostView

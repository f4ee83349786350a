# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest reported of its free pages, as plain frozen data; None means "not measured"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OrderOfBlocks:
    """Reported blocks of 2^`order` pages of the guest's kernel each."""

    order: int
    blocks: int
    pages: int


@dataclass(frozen=True, slots=True)
class ReportingCycle:
    """One run of page_reporting_process, and the reports inside it that the host answered.

    Of `wall_ns`, `transport_ns` is spent in those, and `worker_ns` in no report. `host_c_ns` and `host_d_ns`
    are None where not each of them was seen being served, `pages_again` where payloads were not captured.
    """

    started_ns: int
    wall_ns: int
    reports: int
    blocks: int | None
    pages: int | None
    worker_ns: int
    transport_ns: int
    host_c_ns: int | None
    host_d_ns: int | None
    pages_again: int | None


@dataclass(frozen=True, slots=True)
class ReportedQuantity:
    """A field of all reports by its `name`: in total, for each minute recorded, and over the cycles.

    `bytes` are those of `pages`. A cycle without any report counts as well. `unit` is ns, B, pages, or empty
    for counts.
    """

    name: str
    unit: str
    total: int | None
    per_minute: float | None
    cycle_min: int | None
    cycle_median: float | None
    cycle_max: int | None


@dataclass(frozen=True, slots=True)
class PageReporting:
    """Free blocks told to the host, which gives their memory back while the guest keeps them.

    `failed` reports never reached the host; blocks, pages and orders are of all others. `transport_ns` is the
    time from a report until the host had answered it. `cycles` looked through the free lists, in `cycles_ns`;
    `worker_ns` of that is not spent waiting for the host. A cycle reports blocks from `from_order` on,
    `delay_ms` after the first block became free; None where the kernel does not show them. Of `transport_ns`
    the host spent `host_d_ns` inside calls and `host_c_ns` between them, where it was recorded.
    `pages_again` of `pages` had been reported before in the same recording, `again_ratio` is their share, and
    `cycles_again` is in how many cycles there were some; None where payloads were not captured. `quantities`
    sum up what each cycle did, which is in `each_cycle`: empty where cycles were not traced. A report of
    which the cycle was not seen whole is in the totals alone.
    """

    reports: int
    failed: int
    blocks: int | None
    pages: int | None
    pages_per_minute: float | None
    transport_ns: int
    cycles: int | None
    cycles_ns: int | None
    worker_ns: int | None
    from_order: int | None
    delay_ms: int | None
    orders: tuple[OrderOfBlocks, ...] = ()
    host_c_ns: int | None = None
    host_d_ns: int | None = None
    pages_again: int | None = None
    again_ratio: float | None = None
    cycles_again: int | None = None
    quantities: tuple[ReportedQuantity, ...] = ()
    each_cycle: tuple[ReportingCycle, ...] = ()

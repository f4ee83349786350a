# SPDX-License-Identifier: GPL-2.0-or-later
"""What happened to a guest around an operation, as plain frozen data; None means "not measured"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Killed:
    """A process that the out-of-memory killer ended."""

    pid: int | None
    name: str | None


@dataclass(frozen=True, slots=True)
class GuestCost:
    """What the guest's kernel counted from the last reading before an operation to the first one behind it.

    The readings were made `before_ns` before it began and `after_ns` after it ended. What happened then
    counts too: `shared_with` are the numbers of other operations in that time, at most 64. Pages are units of
    4 KiB; `available_*_bytes` are MemAvailable at the first reading, the least of all, and at the last. Times
    under pressure are those of /proc/pressure: for how long some task waited, or all did. Swapped pages are
    counted with those full of zeros, which no disk gets. `steal_ns` is what the hypervisor took of the
    processors, of `processors_ns` in all.
    """

    before_ns: int
    after_ns: int
    readings: int
    available_start_bytes: int | None
    available_least_bytes: int | None
    available_end_bytes: int | None
    reclaimed_by_kswapd_pages: int | None
    direct_reclaims: int | None
    reclaimed_directly_pages: int | None
    swapped_out_pages: int | None
    swapped_in_pages: int | None
    major_faults: int | None
    compactions: int | None
    thp_splits: int | None
    thp_collapses: int | None
    memory_pressure_some_ns: int | None
    memory_pressure_full_ns: int | None
    cpu_pressure_some_ns: int | None
    steal_ns: int | None
    processors_ns: int | None
    oom_kills: int | None
    killed: tuple[Killed, ...] = ()
    shared_with: tuple[int, ...] = ()

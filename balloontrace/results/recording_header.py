# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recording says of itself: where, of what and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from balloontrace.format.vocabulary import Side


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a recording was made."""

    hostname: str | None = None
    boot_id: str | None = None
    kernel_release: str | None = None
    architecture: str | None = None
    page_size_bytes: int | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    swap_bytes: int | None = None
    min_free_kbytes: int | None = None  # vm.min_free_kbytes
    numa_nodes: int | None = None
    init_on_alloc: bool | None = None
    init_on_free: bool | None = None
    page_poison: bool | None = None
    thp_enabled: str | None = None
    thp_defrag: str | None = None
    thp_shmem_enabled: str | None = None
    khugepaged_max_ptes_none: int | None = None  # so many pages may be missing of what it makes a huge page
    thp_bytes: int | None = None  # of a huge page that one entry of a page middle directory maps
    thp_sizes_bytes: tuple[int, ...] | None = None  # those in use; None before Linux 6.8


@dataclass(frozen=True, slots=True)
class Device:
    """A balloon device, as the kernel names it."""

    name: str
    index: int | None = None
    features: tuple[str, ...] = ()
    feature_bits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DriverGap:
    """A time in which `devices` had no driver: unbound, unplugged or unloaded. Times are of the clock.

    It began between `last_seen_ns` and `gone_ns`, which is None where the driver went and came between two
    looks. It had ended by `back_ns`, None if never. `reattached`: probes had gone with the module and were
    attached to it anew; what moved before `back_ns` was not seen then.
    """

    devices: tuple[str, ...]
    last_seen_ns: int | None = None
    gone_ns: int | None = None
    back_ns: int | None = None
    reattached: bool | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A function that was to be traced, and what came of it."""

    function: str
    symbol: str | None = None
    mechanism: str | None = None
    stage: str | None = None
    status: str | None = None
    stands_in_for: str | None = None
    required: bool | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What the recording says of itself."""

    recording: str
    label: str | None = None
    tool_version: str | None = None
    format_version: str | None = None
    command_line: tuple[str, ...] = ()
    side: str | None = None
    clock: str | None = None
    started_realtime_ns: int | None = None
    started_monotonic_ns: int | None = None
    driver_kind: str | None = None
    module_srcversion: str | None = None
    machine: Machine = field(default_factory=Machine)
    devices: tuple[Device, ...] = ()
    probes: tuple[Probe, ...] = ()
    boundaries: Mapping[str, str] = field(default_factory=dict)
    recording_id: str | None = None
    engine: str | None = None  # that loaded the programs: prebuilt or bcc
    engine_version: str | None = None
    pair: str | None = None  # by which the other side's recording is known, too

    @property
    def is_of_host(self) -> bool:
        """Old recordings name no side, and are of guests."""
        return self.side == Side.HOST

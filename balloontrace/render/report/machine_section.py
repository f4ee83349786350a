# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine in one line: its size, and what decides how long its pages take."""

from __future__ import annotations

from collections.abc import Iterator

from balloontrace.results.recording_header import Machine
from balloontrace.units import format_bytes


def describe_machine(machine: Machine) -> str:
    """E.g. `2 CPUs, 8.00 GiB, no swap; init_on_alloc=1; THP always`; empty if only its size is known.

    Recordings made before the others were recorded look as they did.
    """
    settings = [*_settings(machine)]
    if machine.swap_bytes is None and not settings:
        return ""
    return "; ".join([", ".join(_sizes(machine)), *settings]).removeprefix("; ")


def _sizes(machine: Machine) -> Iterator[str]:
    if machine.cpus is not None:
        yield f"{machine.cpus} CPU{'s' if machine.cpus != 1 else ''}"
    if machine.numa_nodes is not None and machine.numa_nodes > 1:
        yield f"{machine.numa_nodes} NUMA nodes"
    if machine.memory_bytes is not None:
        yield format_bytes(machine.memory_bytes)
    if machine.swap_bytes is not None:
        yield f"{format_bytes(machine.swap_bytes)} of swap" if machine.swap_bytes else "no swap"


def _settings(machine: Machine) -> Iterator[str]:
    if machine.init_on_alloc is not None:  # told when off too: distributions differ in it
        yield f"init_on_alloc={int(machine.init_on_alloc)}"
    if machine.init_on_free:
        yield "init_on_free=1"
    if machine.page_poison:
        yield "page_poison=1"
    if machine.thp_enabled is not None:
        yield f"THP {machine.thp_enabled}"

# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaches a loaded BPF program to another address: what a module that was loaded again takes.

The kernel drops the kprobes of a module with it. Compiling once more would take a squeezed guest seconds and
100 MB; the programs are there already, and only want a new perf event (perf_event_open(2)).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from balloontrace.system.kernel import ROOT
from balloontrace.system.perf_event import attach_event


def attach_kprobe(program_fd: int, address: int, *, returns: bool, name: str = "", root: Path = ROOT) -> int:
    """A descriptor as long as which a kprobe, or kretprobe, at `address` runs the program. Raises OSError.

    With `name`, the place is `address` bytes into that function.
    """
    source = root / "sys/bus/event_source/devices/kprobe"
    kind = int((source / "type").read_text())
    retprobe_bit = int((source / "format/retprobe").read_text().strip().removeprefix("config:"))
    function = ctypes.create_string_buffer(name.encode())
    place = ctypes.addressof(function) if name else 0
    return attach_event(program_fd, kind, int(returns) << retprobe_bit, (place, address))

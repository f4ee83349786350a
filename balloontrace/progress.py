# SPDX-License-Identifier: GPL-2.0-or-later
"""The one line a terminal shows while recording, from two looks at the shared counters."""

from __future__ import annotations

from balloontrace.collector import Counters, DeviceState
from balloontrace.events import BALLOON_PAGE_BYTES, Function

_MIB_PAGES = (1 << 20) // BALLOON_PAGE_BYTES


def progress_line(before: Counters, now: Counters, elapsed_ns: int) -> str:
    """What moved between two looks `elapsed_ns` apart, and where the driver's time went since the start."""
    device = max(now.devices, key=lambda state: state.changed_ns)
    work, send = (now.functions[f] for f in (Function.UPDATE_BALLOON_SIZE_FUNC, Function.TELL_HOST))
    if not work.returns:
        return "waiting for the balloon to move"
    moved = send.pages - before.functions[Function.TELL_HOST].pages
    rate = moved / _MIB_PAGES / (elapsed_ns / 1e9) if elapsed_ns else 0.0
    share = f"{100 * send.duration_ns / work.duration_ns:.0f} %" if work.duration_ns else "-"
    return f"{_position(device)}, {rate:.0f} MiB/s, {send.returns} sends; time waiting for the host: {share}"


def _position(device: DeviceState) -> str:
    if not device.changed_ns:
        return "balloon moving"
    actual, target = device.actual_pages // _MIB_PAGES, device.target_pages // _MIB_PAGES
    return f"balloon {actual} MiB, target {target} MiB"

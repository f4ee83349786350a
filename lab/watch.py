# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches a VM that counts instructions, and ends it when its processor stands still.

QEMU sometimes goes round in circles there: the processor is not halted, and executes nothing any more. On a
busy machine the time of day does not tell, so the count of instructions is looked at. This is a program of
its own, since a VM can outlive whoever started it. It ends when QEMU does.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import folders
from lab.errors import LabError
from lab.qmp import QmpClient

WATCH_SOCKET = "watch"
_FROZEN = "frozen"
_LOOK_EVERY_S = 1.0
_STILL_LOOKS = 20  # each of them after QEMU has answered


@dataclass(frozen=True)
class Look:
    """A processor at one moment: how many instructions it has executed so far, and where it is."""

    instructions: int
    is_halted: bool
    address: str


def watch_command(folder: Path) -> list[str]:
    """The program that watches the VM of a folder."""
    return [sys.executable, "-c", "from lab.watch import main; main()", str(folder)]


def read_frozen(folder: Path) -> str:
    """What was seen of a VM that was ended because it stood still; empty for any other."""
    try:
        return (folder / _FROZEN).read_text()
    except OSError:
        return ""


def parse_look(instructions: int, registers: str) -> Look:
    """A look from the count and from what QEMU's `info registers` prints."""
    address = re.search(r"\b[RE]IP=([0-9a-f]+)", registers)
    return Look(instructions, "HLT=1" in registers, address[1] if address else "?")


def wait_still(look: Callable[[], Look], pause: Callable[[], None]) -> Look:
    """Looks again and again; returns when a processor that is not halted has not moved in many looks."""
    last, still = look(), 0
    while still < _STILL_LOOKS:
        pause()
        now = look()
        still = still + 1 if now.instructions == last.instructions and not now.is_halted else 0
        last = now
    return last


def main() -> None:
    """Watches until QEMU ends, or ends it and leaves a note why."""
    folder = Path(sys.argv[1])
    try:
        qmp = QmpClient(folders.connect(folder, WATCH_SOCKET))
        still = wait_still(lambda: look_at(qmp), lambda: time.sleep(_LOOK_EVERY_S))
    except (LabError, OSError):
        return
    state = folders.read_state(folder)
    if state is None:
        return
    text = f"stood still at instruction {still.instructions}, address {still.address}"
    (folder / _FROZEN).write_text(text)
    with state.qemu.opened() as descriptor:
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def look_at(qmp: QmpClient) -> Look:
    """Asks QEMU. Raises QmpGone."""
    instructions = qmp.execute("query-replay")["icount"]
    return parse_look(instructions, qmp.execute("human-monitor-command", command_line="info registers"))

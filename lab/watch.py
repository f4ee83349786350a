# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches a VM that counts instructions, and ends it when its processor stands still.

QEMU sometimes goes round in circles there: the processor is not halted, and executes hardly anything any
more. On a busy machine the time of day does not tell; so instructions are held against the processor time
QEMU took for them. This is a program of its own, since a VM can outlive whoever started it. It ends when QEMU
does.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lab import folders
from lab.errors import LabError
from lab.identity import ProcessIdentity
from lab.qmp import QmpClient

WATCH_SOCKET = "watch"
_FROZEN = "frozen"
_LOOK_EVERY_S = 1.0
# Of so many looks. A few find the kernel of a host that still answers while the guest in it stands still.
_STILL_LOOKS, _LOOKS = 20, 24
# Executed by QEMU in a second of processor time. At work it is 14 (polling a device) to 440 million, else 5.
# On a fast machine it is up to 35 million else: but then one loop, which leaves all registers as they are.
_SLOW_PER_S = 10e6
_REGISTER = re.compile(r"\b[RE][A-Z0-9]{1,2} ?=([0-9a-f]+)")
_NS = 1e-9


@dataclass(frozen=True)
class Look:
    """A processor at one moment: what it has executed so far, what that took QEMU, and where it is."""

    instructions: int
    cpu_s: float
    is_halted: bool
    address: str
    registers: tuple[str, ...] = ()  # for numbers and addresses, in their order


def watch_command(folder: Path, qemu: ProcessIdentity) -> list[str]:
    """The program that watches the VM of a folder."""
    start = "from lab.watch import main; main()"
    return [sys.executable, "-c", start, str(folder), str(qemu.pid), str(qemu.start_ticks)]


def read_frozen(folder: Path) -> str:
    """What was seen of a VM that was ended because it stood still; empty for any other."""
    try:
        return (folder / _FROZEN).read_text()
    except OSError:
        return ""


def parse_look(instructions: int, cpu_s: float, registers: str) -> Look:
    """A look from the counts and from what QEMU's `info registers` prints."""
    before, _, after = registers.partition("IP=")
    address = re.match(r"[0-9a-f]+", after)
    values = tuple(_REGISTER.findall(before))
    return Look(instructions, cpu_s, "HLT=1" in registers, address[0] if address else "?", values)


def is_slow(before: Look, after: Look) -> bool:
    """Whether hardly anything was executed between two looks, or nothing came of it, and nobody rests."""
    possible = _SLOW_PER_S * (after.cpu_s - before.cpu_s)
    few = after.instructions - before.instructions <= possible
    in_vain = bool(after.registers) and after.registers == before.registers
    return not after.is_halted and (few or in_vain)


def wait_still(look: Callable[[], Look], pause: Callable[[], None]) -> tuple[Look, Look]:
    """Looks again and again, until most looks found it slow at one address; the first and last of those."""
    last = look()
    slow: deque[Look | None] = deque(maxlen=_LOOKS)
    while True:
        pause()
        now = look()
        slow.append(now if is_slow(last, now) else None)
        last = now
        still = [each for each in slow if each and each.address == now.address]
        if len(still) >= _STILL_LOOKS:
            return still[0], now


def describe_still(first: Look, last: Look) -> str:
    """What is said of a processor that stood still."""
    executed, cpu_s = last.instructions - first.instructions, last.cpu_s - first.cpu_s
    return f"stood still at {last.address}: {executed} instructions in {cpu_s:.1f} s of processor time"


def main() -> None:
    """Watches until QEMU ends, or ends it and leaves a note why."""
    folder = Path(sys.argv[1])
    qemu = ProcessIdentity(int(sys.argv[2]), int(sys.argv[3]))
    while qemu.is_alive():
        try:
            still = watch(folder, qemu.pid)
        except (LabError, OSError):  # it ends, or answers late on a busy machine
            time.sleep(_LOOK_EVERY_S)
            continue
        (folder / _FROZEN).write_text(describe_still(*still))
        with qemu.opened() as descriptor:
            if descriptor is not None:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return


def watch(folder: Path, pid: int) -> tuple[Look, Look]:
    """Waits until the processor of this QEMU stands still. Raises LabError, OSError when nobody answers."""
    with closing(QmpClient(folders.connect(folder, WATCH_SOCKET))) as qmp:
        return wait_still(lambda: look_at(qmp, pid), lambda: time.sleep(_LOOK_EVERY_S))


def look_at(qmp: QmpClient, pid: int) -> Look:
    """Asks QEMU, and the kernel about it. Raises QmpGone, OSError."""
    instructions = qmp.execute("query-replay")["icount"]
    ran_ns = sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return parse_look(
        instructions, ran_ns * _NS, qmp.execute("human-monitor-command", command_line="info registers")
    )

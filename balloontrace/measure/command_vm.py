# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM of any VMM, driven by a command of the user's."""

from __future__ import annotations

import re
from collections.abc import Callable

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure.shell import run_shell
from balloontrace.measure.vm import Vm, VmName
from balloontrace.units import format_bytes
from balloontrace.untrusted import printable

MIB_BYTES = 1 << 20
_TAKES_S = 60
PLACES = ("{mib}", "{bytes}", "{balloon_mib}", "{balloon_bytes}")
"""What a command may contain: memory to leave to the guest, and the balloon's size, which is the rest."""


class CommandVm(Vm):
    """`set_target` is run by the shell for each target, `read_balloon` to see how large the balloon is.

    Where the latter is None, `read_guest_bytes` tells, which asks the guest.
    """

    def __init__(
        self,
        named: VmName,
        memory_bytes: int,
        set_target: str,
        read_balloon: str | None,
        read_guest_bytes: Callable[[], int] | None,
    ) -> None:
        """UsageError for a command without a place for the target, or nothing that tells the size."""
        if not any(place in set_target for place in PLACES):
            raise UsageError(f"--set-target needs one of {', '.join(PLACES)} in its command")
        if read_balloon is None and read_guest_bytes is None:
            raise UsageError(
                "--set-target does not tell when the target is reached: give --guest, or --read-balloon CMD"
            )
        self.named = named
        self._memory_bytes = memory_bytes
        self._set_target = set_target
        self._read_balloon = read_balloon
        self._read_guest_bytes = read_guest_bytes

    def read_size_bytes(self) -> int:
        """What is left beside the balloon."""
        if self._read_balloon is not None:
            printed = run_shell(self._read_balloon, "the command of --read-balloon", _TAKES_S)
            balloon_bytes = parse_mib(printed) * MIB_BYTES
        else:
            assert self._read_guest_bytes is not None
            balloon_bytes = self._read_guest_bytes()
        if balloon_bytes > self._memory_bytes:
            raise BalloontraceError(
                f"the balloon has {format_bytes(balloon_bytes)}, which is more than --memory "
                f"{format_bytes(self._memory_bytes)}: name all memory of the guest"
            )
        return self._memory_bytes - balloon_bytes

    def set_size_bytes(self, size_bytes: int) -> None:
        """By the user's command."""
        command = fill_in(self._set_target, size_bytes, self._memory_bytes)
        run_shell(command, "the command of --set-target", _TAKES_S)

    def close(self) -> None:
        """There is nothing to let go of."""


def fill_in(command: str, size_bytes: int, memory_bytes: int) -> str:
    """The command for a guest that is to be left `size_bytes`."""
    balloon_bytes = memory_bytes - size_bytes
    values = (size_bytes // MIB_BYTES, size_bytes, balloon_bytes // MIB_BYTES, balloon_bytes)
    for place, value in zip(PLACES, values, strict=True):
        command = command.replace(place, str(value))
    return command


def parse_mib(text: str) -> int:
    """The first number in what --read-balloon printed. BalloontraceError where it is not whole, or none."""
    found = re.search(r"-?\d+(\.\d+)?", text)
    if found is None or not found[0].isdecimal():
        raise BalloontraceError(
            f"--read-balloon has to print whole MiB, and printed {printable(text.strip()[:80])!r}"
        )
    return int(found[0])

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the shell does: commands that the user gave, and children that Ctrl-C is not for."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from balloontrace.errors import BalloontraceError
from balloontrace.untrusted import printable

_DEAF = "trap '' INT; exec \"$@\""


def deaf_to_interrupts(argv: Sequence[str]) -> list[str]:
    """A command that Ctrl-C in the terminal does not end: its parent does, in order.

    A function run in the child (`preexec_fn`) would do. But then hooks of fork(2) run here, such as that of
    logging, and Python ignores a KeyboardInterrupt that comes while they do.
    """
    return ["sh", "-c", _DEAF, "sh", *argv]


def run_shell(command: str, what: str, timeout_s: float) -> str:
    """What it prints. BalloontraceError when it fails or takes longer; `what` is what it was for."""
    try:
        done = subprocess.run(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BalloontraceError(f"{what} has not ended within {timeout_s:g} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise BalloontraceError(f"{what} ended with status {done.returncode}: {printable(said)}")
    return done.stdout

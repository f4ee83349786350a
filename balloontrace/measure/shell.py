# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that the user gave, run by the shell."""

from __future__ import annotations

import subprocess

from balloontrace.errors import BalloontraceError
from balloontrace.untrusted import printable


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

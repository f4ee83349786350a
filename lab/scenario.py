# SPDX-License-Identifier: GPL-2.0-or-later
"""What demo, examples and tests do with a guest: record while the balloon moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lab.guest import Guest

START_S = 400  # 8 to 20 s in an idle machine's emulation; nested, on a busy one, more than 180
BALLOON_S = 300
END_S = 60


def record_moves(
    guest: Guest,
    name: str,
    targets_mib: Sequence[int],
    *,
    options: Sequence[str] = (),
    timeout_s: float = BALLOON_S,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Record the balloon leaving the guest each of `targets_mib` in turn; returns the recording.

    `options` are more of `balloontrace record`. The recorder ends by itself when the balloon has reached its
    target as often; each time may take `timeout_s`. Raises LabError.
    """
    argv = ["balloontrace", "record", "-o", f"/io/{name}", "--operations", str(len(targets_mib)), *options]
    say(f"in the guest: {' '.join(argv)}")
    recorder = guest.start(argv)
    recorder.wait_for(b"probes attached", timeout_s=START_S)
    for target_mib in targets_mib:
        say(f"outside: the balloon is told to leave {target_mib} MiB to the guest")
        guest.set_balloon(target_mib=target_mib)
        guest.wait_balloon(timeout_s=timeout_s)
    say(recorder.wait(END_S, check=True).stderr.strip().splitlines()[-1])
    return guest.io / name

# SPDX-License-Identifier: GPL-2.0-or-later
"""What demo, examples, results and tests do with a guest: record while the balloon moves."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.guest import Guest
from lab.process import GuestProcess
from lab.topology_nested import Nested

START_S = 400  # 8 to 20 s in an idle machine's emulation; nested, on a busy one, more than 180
BALLOON_S = 300
END_S = 60
# In a host VM each look takes the host's time: some hundred microseconds.
LOOK_EVERY_S = 0.02
TOUCH_S = 20 * BALLOON_S


def record_moves(
    guest: Guest,
    name: str,
    targets_mib: Sequence[int],
    *,
    options: Sequence[str] = (),
    timeout_s: float = BALLOON_S,
    look_every_s: float = LOOK_EVERY_S,
    before_move: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Record the balloon leaving the guest each of `targets_mib` in turn; returns the recording.

    `options` are more of `balloontrace record`. The recorder ends by itself when the balloon has reached its
    target as often; each time may take `timeout_s`. `before_move` is told the number of each, from 0. QEMU is
    asked every `look_every_s` how far it is; in a host VM that takes the host's time. Raises LabError.
    """
    argv = ["balloontrace", "record", "-o", f"/io/{name}", "--operations", str(len(targets_mib)), *options]
    say(f"in the guest: {' '.join(argv)}")
    recorder = guest.start(argv)
    recorder.wait_for(b"probes attached", timeout_s=START_S)
    for number, target_mib in enumerate(targets_mib):
        before_move(number)
        say(f"outside: the balloon is told to leave {target_mib} MiB to the guest")
        guest.set_balloon(target_mib=target_mib)
        guest.wait_balloon(timeout_s=timeout_s, every_s=look_every_s)
    say(recorder.wait(END_S, check=True).stderr.strip().splitlines()[-1])
    return guest.io / name


def record_both(
    pair: Nested,
    name: str,
    targets_mib: Sequence[int],
    *,
    options: Sequence[str] = (),
    host_options: Sequence[str] = (),
    timeout_s: float = BALLOON_S,
    look_every_s: float = LOOK_EVERY_S,
    before_move: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Path, Path]:
    """`record_moves`, and in the host at once; returns NAME-guest.bt and NAME-host.bt. Raises LabError."""
    with _recorded_host(pair, name, host_options, say) as (of_host, as_pair):
        of_guest = record_moves(
            pair.guest, f"{name}-guest.bt", targets_mib, options=(*as_pair, *options), timeout_s=timeout_s,
            look_every_s=look_every_s, before_move=before_move, say=say,
        )  # fmt: skip
    return of_guest, of_host


def touch_memory(guest: Guest, mib: int) -> None:
    """Has the guest use so much, once, and free it again. Raises LabError."""
    script = f"mount -o remount,size={mib}M /dev/shm && head -c {mib}M /dev/zero > /dev/shm/x; rm /dev/shm/x"
    guest.run(["sh", "-c", script], timeout_s=TOUCH_S, check=True)


@contextmanager
def recorded_both(
    pair: Nested, name: str, *, say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[Path, Path]]:
    """Both sides while the block runs, whatever it does; NAME-guest.bt and NAME-host.bt. Raises LabError."""
    with _recorded_host(pair, name, (), say) as (of_host, as_pair):
        recorder = pair.guest.start(["balloontrace", "record", "-o", f"/io/{name}-guest.bt", *as_pair])
        recorder.wait_for(b"probes attached", timeout_s=START_S)
        yield pair.guest.io / f"{name}-guest.bt", of_host
        _end(recorder, say)


@contextmanager
def _recorded_host(
    pair: Nested, name: str, options: Sequence[str], say: Callable[[str], None]
) -> Iterator[tuple[Path, Sequence[str]]]:
    """The host's recording, and the options by which the guest's belongs to it."""
    host_name = f"{name}-host.bt"
    # The clock of a host that counts instructions is not the world's.
    as_pair = ["--pair", f"{name}-{secrets.token_hex(8)}"]
    argv = ["balloontrace", "record", "-o", f"/io/{host_name}", "--side", "host", "-p", str(pair.vmm_pid)]
    argv += [*as_pair, *options]
    say(f"in the host: {' '.join(argv)}")
    recorder = pair.host.start(argv)
    recorder.wait_for(b"probes attached", timeout_s=START_S)
    yield pair.host.io / host_name, as_pair
    _end(recorder, say)


def _end(recorder: GuestProcess, say: Callable[[str], None]) -> None:
    recorder.signal(signal.SIGINT)
    say(recorder.wait(END_S, check=True).stderr.strip().splitlines()[-1])

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
# `count`: how often the process went to sleep so far.
AWAIT_WAKE_UP = """
look() {
    while read -r name count; do [ "$name" != voluntary_ctxt_switches: ] || return 0; done < "/proc/$1/status"
}
look "$1"
before=$count
while [ "$count" = "$before" ] && [ -d "/proc/$1" ]; do sleep 0.05; look "$1"; done
"""


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
    move_balloon(guest, targets_mib, timeout_s, look_every_s, before_move, say)
    say(recorder.wait(END_S, check=True).stderr.strip().splitlines()[-1])
    return guest.io / name


def move_balloon(
    guest: Guest,
    targets_mib: Sequence[int],
    timeout_s: float,
    look_every_s: float,
    before_move: Callable[[int], None],
    say: Callable[[str], None],
    *,
    unwatched_s: float = 0,
    await_moment: Callable[[], None] = lambda: None,
) -> None:
    """Has the balloon leave the guest each of `targets_mib` in turn. Raises LabError.

    Nobody asks how far it is for so long, by the guest's clock. Each move begins when `await_moment` returns.
    """
    for number, target_mib in enumerate(targets_mib):
        before_move(number)
        await_moment()
        unwatched = guest.start(["sleep", str(unwatched_s)]) if unwatched_s else None
        say(f"outside: the balloon is told to leave {target_mib} MiB to the guest")
        guest.set_balloon(target_mib=target_mib)
        if unwatched is not None:
            unwatched.wait(timeout_s, check=True)
        guest.wait_balloon(timeout_s=timeout_s, every_s=look_every_s)


def record_both(
    pair: Nested,
    name: str,
    targets_mib: Sequence[int],
    *,
    options: Sequence[str] = (),
    host_options: Sequence[str] = (),
    timeout_s: float = BALLOON_S,
    look_every_s: float = LOOK_EVERY_S,
    unwatched_s: float = 0,
    before_move: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Path, Path]:
    """`record_moves`, and in the host at once; returns NAME-guest.bt and NAME-host.bt. Raises LabError.

    What runs meanwhile falls into b most of the time, and b of a short deflate depended on how often.
    Asking how far the balloon is takes a host VM 2 to 5 ms: for `unwatched_s` nobody does. A recorder
    wakes each second, the guest's four times as often if told how many moves there are, and takes up to 4
    ms then. So it is not told, and each move begins when both have just been awake.
    """
    with _both_recorded(pair, name, options, host_options, say) as (recordings, recorders):
        move_balloon(
            pair.guest, targets_mib, timeout_s, look_every_s, before_move, say,
            unwatched_s=unwatched_s, await_moment=lambda: _await_both_awake(pair, *recorders),
        )  # fmt: skip
    return recordings


def _await_both_awake(pair: Nested, of_guest: GuestProcess, of_host: GuestProcess) -> None:
    """Each has a second of its own: the host's is stopped for longer than that, and wakes when continued."""
    of_host.signal(signal.SIGSTOP)
    pair.host.run(["sleep", "1.1"], check=True)
    await_wake_up(pair.guest, of_guest.pid)
    of_host.signal(signal.SIGCONT)


def await_wake_up(machine: Guest, pid: int) -> None:
    """Returns when a process has been awake, and sleeps again. Raises LabError."""
    machine.run(["sh", "-c", AWAIT_WAKE_UP, "sh", str(pid)], timeout_s=END_S, check=True)


def touch_memory(guest: Guest, mib: int) -> None:
    """Has the guest use so much, once, and free it again. Raises LabError."""
    script = f"mount -o remount,size={mib}M /dev/shm && head -c {mib}M /dev/zero > /dev/shm/x; rm /dev/shm/x"
    guest.run(["sh", "-c", script], timeout_s=TOUCH_S, check=True)


@contextmanager
def recorded_both(
    pair: Nested, name: str, *, say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[Path, Path]]:
    """Both sides while the block runs, whatever it does; NAME-guest.bt and NAME-host.bt. Raises LabError."""
    with _both_recorded(pair, name, (), (), say) as (recordings, _):
        yield recordings


@contextmanager
def _both_recorded(
    pair: Nested, name: str, options: Sequence[str], host_options: Sequence[str], say: Callable[[str], None]
) -> Iterator[tuple[tuple[Path, Path], tuple[GuestProcess, GuestProcess]]]:
    """Both recordings, and both recorders; the guest's comes first."""
    # The clock of a host that counts instructions is not the world's.
    as_pair = ["--pair", f"{name}-{secrets.token_hex(8)}"]
    of_host = ["--side", "host", "-p", str(pair.vmm_pid), *as_pair, *host_options]
    with (
        _recorded(pair.host, "host", f"{name}-host.bt", of_host, say) as host_recorder,
        _recorded(pair.guest, "guest", f"{name}-guest.bt", [*as_pair, *options], say) as guest_recorder,
    ):
        yield (
            (pair.guest.io / f"{name}-guest.bt", pair.host.io / f"{name}-host.bt"),
            (guest_recorder, host_recorder),
        )


@contextmanager
def _recorded(
    machine: Guest, side: str, name: str, options: Sequence[str], say: Callable[[str], None]
) -> Iterator[GuestProcess]:
    """A recorder at work."""
    argv = ["balloontrace", "record", "-o", f"/io/{name}", *options]
    say(f"in the {side}: {' '.join(argv)}")
    recorder = machine.start(argv)
    recorder.wait_for(b"probes attached", timeout_s=START_S)
    yield recorder
    recorder.signal(signal.SIGINT)
    say(recorder.wait(END_S, check=True).stderr.strip().splitlines()[-1])

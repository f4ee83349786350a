# SPDX-License-Identifier: GPL-2.0-or-later
"""`make compare`: two drivers in turn on one device of one guest, one operation each, and what that proves.

Before, after, after, before: what the machine does meanwhile affects both alike, and in pairs of neighbours
a steady drift cancels. Each turn loads its driver anew. It records one inflate and one deflate of one size
into its own file, in before/ or after/; on both sides, and on a clock that counts instructions, into two.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.boot_retries import retry_lost
from lab.errors import LabError, VMFrozen
from lab.guest import Guest
from lab.patched_driver import load_patched, load_stock
from lab.scenario import BALLOON_S, record_both, record_moves
from lab.script import run
from lab.sizes import format_size, parse_size_mib
from lab.topology_nested import nested
from lab.topology_solo import GuestOptions, solo

DRIVERS: dict[str, Callable[[Guest], None]] = {"stock": load_stock, "bitmap": load_patched}
SIDES = BEFORE, AFTER = ("before", "after")
ROUNDS = 10
SIZE = "1G"
# What a guest needs besides what its balloon takes: the recorder while it compiles, above all.
BESIDES_MIB = 1024
# Bit 3 for page bitmaps, and the queue by which the stock driver knows it as free page hints: either works.
EITHER_DRIVER = ("--free-page-hint",)
CAPTURE = ("--capture", "payload")
LOOK_EVERY_S = 2.0

# Records the balloon leaving each of some sizes under a name: name, sizes in MiB, options of the recorder.
Record = Callable[[str, Sequence[int], Sequence[str]], Sequence[Path]]


@dataclass(frozen=True)
class Plan:
    """What is compared: a driver for each side, how often, how much memory at a time, and where it goes."""

    drivers: Mapping[str, str]
    rounds: int
    size_mib: int
    out: Path | None
    options: Sequence[str] = CAPTURE  # of `balloontrace record`
    both_sides: bool = False  # and in a host VM that counts instructions
    host_options: Sequence[str] = ()

    @property
    def memory_mib(self) -> int:
        """Memory of the guest."""
        return self.size_mib + BESIDES_MIB


@dataclass(frozen=True)
class Turn:
    """One recording: whose, and the number of its round from 1."""

    side: str
    number: int

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.side}-{self.number:03}"


def main() -> int:
    """Record, compare, print; the exit status of `balloontrace compare`, or 1 when the lab failed."""
    started_s = time.monotonic()
    try:
        plan = parse_plan(os.environ)
        folder = prepare_folder(plan.out)
        record_in_turn(plan, folder)
    except LabError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    _say(f"{2 * plan.rounds} recordings in {time.monotonic() - started_s:.0f} s; they stay in {folder}")
    return compare(folder)


def parse_plan(environment: Mapping[str, str]) -> Plan:
    """What ROUNDS, SIZE, BEFORE, AFTER and OUT ask for; empty means the default. Raises LabError."""
    drivers = {
        BEFORE: environment.get("BEFORE") or "stock",
        AFTER: environment.get("AFTER") or "bitmap",
    }
    for side, driver in drivers.items():
        if driver not in DRIVERS:
            raise LabError(f"{side.upper()}={driver}: the lab's drivers are {' and '.join(DRIVERS)}.")
    rounds, out = environment.get("ROUNDS") or str(ROUNDS), environment.get("OUT")
    if not rounds.isdecimal() or not 1 <= int(rounds) <= 999:
        raise LabError(f"ROUNDS={rounds}: a number from 1 to 999 is needed.")
    return Plan(
        drivers=drivers,
        rounds=int(rounds),
        size_mib=parse_size_mib(environment.get("SIZE") or SIZE),
        out=Path(out) if out else None,
    )


def prepare_folder(out: Path | None) -> Path:
    """`out`, or a new folder outside the checkout, with a folder for each side. Raises LabError.

    Recordings that are there already are of another run, with which this one must not be mixed.
    """
    folder = Path(tempfile.mkdtemp(prefix="balloontrace-compare-")) if out is None else out
    for side in SIDES:
        try:
            (folder / side).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LabError(f"{folder / side} cannot be made: {error.strerror}.") from None
        if any((folder / side).iterdir()):
            raise LabError(f"{folder / side} is not empty; name another OUT, or remove it.")
    return folder


def turns(rounds: int) -> Iterator[Turn]:
    """Before, after, after, before: either side begins every second round."""
    for number in range(1, rounds + 1):
        yield from turns_of(number)


def turns_of(number: int) -> Iterator[Turn]:
    """Both of a round."""
    for side in SIDES if number % 2 else SIDES[::-1]:
        yield Turn(side, number)


def record_in_turn(plan: Plan, folder: Path) -> None:
    """Makes all recordings, in another guest from the round on in which one stood still. Raises LabError."""
    done = 0
    while done < plan.rounds:
        done = retry_lost(lambda first=done: record_rounds(plan, folder, first))  # type: ignore[misc]


def record_rounds(plan: Plan, folder: Path, done: int) -> int:
    """Makes the rounds after the first `done`, in a guest of their own; how many there are then.

    Raises LabError; VMFrozen only where no round was completed.
    """
    first = done
    _say(f"booting a guest of {format_size(plan.memory_mib << 20)} on the lab's balloon device")
    try:
        with booted(plan) as (guest, record):
            warm_up(guest, plan)
            for done in range(first + 1, plan.rounds + 1):
                for turn in turns_of(done):
                    record_turn(guest, record, plan, turn, folder / turn.side)
            check_device(guest)
    except VMFrozen as frozen:
        if done <= first + 1:
            raise
        _say(f"{str(frozen).splitlines()[0]}; going on with round {done}")
        return done - 1
    return done


@contextmanager
def booted(plan: Plan) -> Iterator[tuple[Guest, Record]]:
    """A guest that takes either driver, and what records it. Raises LabError."""
    options = GuestOptions(
        memory_mib=plan.memory_mib, device="backend", page_bitmap=True, backend_args=EITHER_DRIVER
    )
    if plan.both_sides:
        with nested(icount=True, **options) as pair:
            yield (
                pair.guest,
                lambda name, targets_mib, words: record_both(
                    pair, name, targets_mib, options=words, host_options=plan.host_options,
                    look_every_s=LOOK_EVERY_S,
                ),
            )  # fmt: skip
    else:
        with solo(**options) as guest:
            yield (
                guest,
                lambda name, targets_mib, words: [
                    record_moves(guest, f"{name}.bt", targets_mib, options=words)
                ],
            )


def warm_up(guest: Guest, plan: Plan) -> None:
    """One inflate and one deflate that count on no side: the first takes what was never given away before."""
    for target_mib in (plan.memory_mib - plan.size_mib, plan.memory_mib):
        guest.set_balloon(target_mib=target_mib)
        guest.wait_balloon(timeout_s=BALLOON_S)


def record_turn(guest: Guest, record: Record, plan: Plan, turn: Turn, folder: Path) -> None:
    """A turn's inflate and deflate, into a folder. Raises LabError."""
    driver = plan.drivers[turn.side]
    DRIVERS[driver](guest)
    targets_mib = (plan.memory_mib - plan.size_mib, plan.memory_mib)
    options = (*plan.options, "--label", f"{driver} {turn.number}")
    for recording in record(turn.name, targets_mib, options):
        shutil.copyfile(recording, folder / recording.name)
    _say(f"{turn.side} {turn.number} of {plan.rounds}: {driver} driver recorded")


def check_device(guest: Guest) -> None:
    """Raises LabError unless the device has understood each driver: what it refused was not done."""
    status = guest.backend.status()
    for queue in ("inflate", "deflate"):
        if status[queue]["refused"] or status[queue]["errors"]:
            raise LabError(f"The device did not do all of what it was sent: {status[queue]}.")


def compare(folder: Path) -> int:
    """Prints the comparison of both folders; the status of `balloontrace compare`."""
    words = [sys.executable, "-m", "balloontrace", "compare", *(str(folder / side) for side in SIDES)]
    _say(f"balloontrace {' '.join(words[3:])}")
    return subprocess.run(words).returncode


def _say(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main, __doc__)

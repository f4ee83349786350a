# SPDX-License-Identifier: GPL-2.0-or-later
"""`make examples`: record the examples anew, and what they say beside them; ONLY=name takes some of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from lab.aging import fragmented
from lab.boot_retries import retry_lost
from lab.compare_drivers import AFTER, BEFORE, ROUNDS, SIDES, Plan, prepare_folder, record_in_turn
from lab.errors import LabError
from lab.guest import Guest
from lab.patched_driver import load_patched
from lab.scenario import BALLOON_S, record_both, record_moves, touch_memory
from lab.script import run
from lab.topology_nested import Nested, nested
from lab.topology_solo import solo

EXAMPLES = Path(__file__).parent.parent / "examples"
GUEST_MIB = 8192
LEFT_MIB = 1024
FRAGMENTED_MIB = 6144
FRAGMENTED_LEFT_MIB = 4096
# A page takes a hundred times as long where the host's kernel runs in emulation too.
NESTED_QEMU_MIB = 2048
NESTED_QEMU_LEFT_MIB = 1024
NESTED_S = 10 * BALLOON_S
# Each look takes a host that counts instructions some time.
NESTED_LOOK_EVERY_S = 2.0
# Ten inflates and deflates with each driver, and each of them small.
IN_TURN_MIB = 256

CAPTURE = ("--capture", "payload")
IN_TURN = {BEFORE: "stock", AFTER: "bitmap"}


def main() -> int:
    """Record all examples, or those whose name begins with $ONLY."""
    only = os.environ.get("ONLY", "")
    try:
        for name, record in RECORDED.items():
            if name.startswith(only):
                retry_lost(record)
    except LabError as error:
        print(f"examples: {error}", file=sys.stderr)
        return 1
    return 0


def record_stock() -> None:
    """7 of 8 GiB taken and given back; Debian's driver, QEMU's balloon."""
    with solo(memory_mib=GUEST_MIB) as guest:
        _record(guest, "stock-inflate", LEFT_MIB)
        _record(guest, "stock-deflate", GUEST_MIB)


def record_bitmap() -> None:
    """The same with the page-bitmap driver; then 4 GiB of an aged guest."""
    with solo(memory_mib=GUEST_MIB, device="backend", page_bitmap=True) as guest:
        load_patched(guest)
        _record(guest, "bitmap-inflate", LEFT_MIB, *CAPTURE)
        _record(guest, "bitmap-deflate", GUEST_MIB, *CAPTURE)
        with fragmented(guest, mib=FRAGMENTED_MIB, keep_percent=10):
            _record(guest, "bitmap-fragmented", FRAGMENTED_LEFT_MIB, *CAPTURE)


def record_nested_qemu() -> None:
    """Both sides of 1 GiB that the guest has used, QEMU's balloon, on a clock that counts instructions."""
    with nested(icount=True, memory_mib=NESTED_QEMU_MIB) as pair:
        _record_both(
            pair, "nested-qemu", NESTED_QEMU_LEFT_MIB, used_mib=NESTED_QEMU_MIB - NESTED_QEMU_LEFT_MIB
        )


def record_nested_stock() -> None:
    """Both sides of 7 of 8 GiB, Debian's driver, the lab's device, on a clock that counts instructions."""
    with nested(icount=True, memory_mib=GUEST_MIB, device="backend") as pair:
        _record_both(pair, "nested-stock", LEFT_MIB)


def record_nested_bitmap() -> None:
    """Both sides of 7 of 8 GiB, the page-bitmap driver, the lab's device, on such a clock."""
    with nested(icount=True, memory_mib=GUEST_MIB, device="backend", page_bitmap=True) as pair:
        load_patched(pair.guest)
        _record_both(pair, "nested-bitmap", LEFT_MIB, *CAPTURE)


def record_other_formats() -> None:
    """Both sides of the same work with either driver, with payloads: to hold estimates against."""
    plan = Plan(
        IN_TURN, 1, IN_TURN_MIB, None, options=CAPTURE, both_sides=True, host_options=("--count-freed",)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = prepare_folder(Path(name))
        record_in_turn(plan, folder)
        for side, driver in IN_TURN.items():
            names = [f"other-formats-{driver}-{which}.bt" for which in ("guest", "host")]
            for made, kept in zip(sorted((folder / side).iterdir()), names, strict=True):
                shutil.copyfile(made, EXAMPLES / kept)
            write_output(EXAMPLES / f"other-formats-{driver}.txt", "report", *names)


def record_before_after() -> None:
    """Both sides of ten runs with Debian's driver and ten with the page-bitmap driver, made in turn."""
    plan = Plan(IN_TURN, ROUNDS, IN_TURN_MIB, None, options=(), both_sides=True)
    with tempfile.TemporaryDirectory() as name:
        folder = prepare_folder(Path(name))
        record_in_turn(plan, folder)
        for side in SIDES:
            shutil.rmtree(EXAMPLES / side, ignore_errors=True)
            shutil.copytree(folder / side, EXAMPLES / side)
    write_output(EXAMPLES / "before-after.txt", "compare", *SIDES)


RECORDED: dict[str, Callable[[], None]] = {
    "before-after": record_before_after,
    "stock": record_stock,
    "bitmap": record_bitmap,
    "nested-bitmap": record_nested_bitmap,
    "nested-qemu": record_nested_qemu,
    "nested-stock": record_nested_stock,
    "other-formats": record_other_formats,
}


def _record(guest: Guest, name: str, target_mib: int, *options: str) -> None:
    recording = record_moves(guest, f"{name}.bt", (target_mib,), options=options, say=_say)
    shutil.copyfile(recording, EXAMPLES / recording.name)
    write_output(EXAMPLES / f"{name}.txt", "report", recording.name)


def _record_both(pair: Nested, name: str, target_mib: int, *options: str, used_mib: int = 0) -> None:
    """One inflate, recorded in the guest and in its host at once; the guest has used so much before."""

    def before_move(_number: int) -> None:
        if used_mib:
            touch_memory(pair.guest, used_mib)

    recordings = record_both(
        pair, name, (target_mib,), options=options, timeout_s=NESTED_S,
        look_every_s=NESTED_LOOK_EVERY_S, before_move=before_move, say=_say,
    )  # fmt: skip
    for recording in recordings:
        shutil.copyfile(recording, EXAMPLES / recording.name)
    write_output(EXAMPLES / f"{name}.txt", "report", *(recording.name for recording in recordings))


def write_output(target: Path, *words: str) -> None:
    """What `balloontrace WORDS` says in the folder of `target`."""
    done = subprocess.run(
        [sys.executable, "-m", "balloontrace", *words],
        cwd=target.parent,
        stdout=subprocess.PIPE,
        check=True,
    )
    target.write_bytes(done.stdout)


def _say(text: str) -> None:
    print(f"examples: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main, __doc__)

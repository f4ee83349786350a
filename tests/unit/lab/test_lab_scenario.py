# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps others out of a move: nobody asks meanwhile, and it begins when a recorder has been awake."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import cast

import pytest

from lab.guest import Guest
from lab.scenario import AWAIT_WAKE_UP, move_balloon

TOLD = "import sys\nprint(flush=True)\nfor line in sys.stdin:\n    pass"


class Told:
    """A guest that only notes what it is told."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def start(self, argv: Sequence[str]) -> Told:
        self.words.append(" ".join(argv))
        return self

    def wait(self, _: float, *, check: bool) -> None:
        self.words.append(f"waited, {check}")

    def set_balloon(self, *, target_mib: int) -> None:
        self.words.append(f"to {target_mib}")

    def wait_balloon(self, *, timeout_s: float, every_s: float) -> None:
        self.words.append(f"looked each {every_s} s for {timeout_s}")


@pytest.mark.parametrize("unwatched_s", [0, 2.5])
def test_nobody_looks_while_the_balloon_moves(unwatched_s: float) -> None:
    guest = Told()
    move_balloon(
        cast("Guest", guest), (512, 1024), 600, 2, lambda number: guest.words.append(f"before {number}"),
        lambda _: None, unwatched_s=unwatched_s, await_moment=lambda: guest.words.append("now"),
    )  # fmt: skip
    first, then = (["sleep 2.5"], ["waited, True"]) if unwatched_s else ([], [])
    looked = [*then, "looked each 2 s for 600"]
    assert guest.words == [
        *("before 0", "now", *first, "to 512", *looked),
        *("before 1", "now", *first, "to 1024", *looked),
    ]


def test_a_process_is_awaited_until_it_slept_again() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as asleep:
        assert asleep.stdin is not None
        assert asleep.stdout is not None
        asleep.stdout.readline()
        with subprocess.Popen(["sh", "-c", AWAIT_WAKE_UP, "sh", str(asleep.pid)]) as waiting:
            while waiting.poll() is None:
                asleep.stdin.write(b"wake up\n")
                asleep.stdin.flush()
            assert waiting.returncode == 0


def test_a_process_that_ended_is_not_awaited() -> None:
    with (
        subprocess.Popen(["sleep", "1000"]) as asleep,
        subprocess.Popen(["sh", "-c", AWAIT_WAKE_UP, "sh", str(asleep.pid)], stderr=subprocess.DEVNULL),
    ):
        asleep.kill()
        asleep.wait()

# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that stands still is told from one that is idle; time limits stand while others have the processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lab import boot_retries
from lab.boot_retries import retry_lost
from lab.cache import run_folder
from lab.errors import VMFrozen, VMLost
from lab.fair_clock import FairClock
from lab.folders import VmState, write_state
from lab.identity import own_identity
from lab.qemu import Hosting, VmConfig, needs_watch
from lab.vm import Vm
from lab.watch import _FROZEN, _STILL_LOOKS, Look, parse_look, wait_still

REGISTERS = """
CPU#0
RAX=0000000000000000 RBX=0000000000000001
RIP=ffffffff81e0e2fb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT={halted}
"""
COUNTING = VmConfig(icount=True, cpus=1, hosting=Hosting(Path("/vm")))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_look_is_parsed() -> None:
    assert parse_look(17, 1.5, REGISTERS.format(halted=1)) == Look(17, 1.5, True, "ffffffff81e0e2fb")
    assert parse_look(17, 1.5, REGISTERS.format(halted=0)) == Look(17, 1.5, False, "ffffffff81e0e2fb")
    assert parse_look(17, 1.5, "EIP=0000fff0 EFL=00000002 HLT=0").address == "0000fff0"


def test_still_is_neither_idle_nor_slow() -> None:
    still = Look(10**9, 5, False, "f00")
    idle = [replace(still, instructions=7, cpu_s=1, is_halted=True)] * 3 * _STILL_LOOKS
    slow = [replace(still, instructions=n * 10**6, cpu_s=1 + n / 50) for n in range(5 * _STILL_LOOKS)]
    crawling = [replace(still, instructions=10**9 + n, cpu_s=5 + n) for n in range(_STILL_LOOKS + 1)]
    for end in ([still] * (_STILL_LOOKS + 1), crawling):
        looks = [*idle, *slow, *end]
        assert wait_still(partial(looks.pop, 0), lambda: None) == (end[0], end[-1])
        assert looks == []


def test_hosts_that_count_instructions_are_watched() -> None:
    COUNTING.check()
    assert needs_watch(COUNTING)
    assert not needs_watch(replace(COUNTING, hosting=None))
    assert not needs_watch(replace(COUNTING, icount=False))


def test_a_guest_is_lost_to_its_frozen_host() -> None:
    vms = []
    for name, host in (("x-host", ""), ("x", "x-host")):
        folder = run_folder() / name
        folder.mkdir(parents=True)
        write_state(folder, VmState(replace(own_identity(), start_ticks=1), host=host))
        vms.append(Vm(folder, replace(own_identity(), start_ticks=1)))
    assert not any(isinstance(vm.lost("gone"), VMFrozen) for vm in vms)
    (run_folder() / "x-host" / _FROZEN).write_text("stood still at f00")
    for vm in vms:
        error = vm.lost("gone")
        assert isinstance(error, VMFrozen)
        assert "the processor of x-host stood still at f00" in str(error)


def test_what_froze_is_tried_again_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes: list[Exception | str] = [VMFrozen("VM x is lost: it stood still\nmore"), "done"]

    def attempt() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert retry_lost(attempt) == "done"
    assert "VM x is lost: it stood still; trying again\n" in capsys.readouterr().err
    outcomes[:] = [VMFrozen(str(n)) for n in range(boot_retries._ATTEMPTS)]
    with pytest.raises(VMLost):
        retry_lost(attempt)
    assert outcomes == []


@pytest.fixture
def threads(tmp_path: Path) -> Callable[[int, int], None]:
    def write(thread: int, waited_ns: int) -> None:
        folder = tmp_path / "17/task" / str(thread)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "schedstat").write_text(f"5 {waited_ns} 9\n")

    return write


def test_a_fair_clock_stands_while_the_process_waits(
    tmp_path: Path, threads: Callable[[int, int], None]
) -> None:
    now_s = [100.0]
    clock = FairClock(17, tmp_path, lambda: now_s[0])
    assert clock() == 100
    threads(18, 2_000_000_000)
    threads(19, 500_000_000)
    now_s[0] = 103
    assert clock() == 101
    threads(18, 1_000)  # another thread of that number
    assert clock() == 101

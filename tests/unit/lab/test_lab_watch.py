# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that stands still is told from one that is idle; time limits stand while others have the processor."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lab import boot_retries, watch
from lab.boot_retries import retry_lost
from lab.cache import run_folder
from lab.errors import VMFrozen, VMLost
from lab.fair_clock import FairClock
from lab.folders import VmState, listen, write_state
from lab.identity import own_identity, read_identity
from lab.qemu import Hosting, VmConfig, needs_watch
from lab.vm import Vm
from lab.watch import _FROZEN, _LOOKS, _STILL_LOOKS, Look, parse_look, read_frozen, wait_still

REGISTERS = """
CPU#0
RAX=0000000000000000 RBX=0000000000000001
R8 =0000000000000002 R10=000000000000000a
RIP=ffffffff81e0e2fb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT={halted}
"""
COUNTING = VmConfig(icount=True, cpus=1, hosting=Hosting(Path("/vm")))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_look_is_parsed() -> None:
    values = tuple(f"{value:016x}" for value in (0, 1, 2, 10))
    assert parse_look(17, 1.5, REGISTERS.format(halted=1)) == Look(17, 1.5, True, "ffffffff81e0e2fb", values)
    assert parse_look(17, 1.5, REGISTERS.format(halted=0)) == Look(17, 1.5, False, "ffffffff81e0e2fb", values)
    assert parse_look(17, 1.5, "EIP=0000fff0 EFL=00000002 HLT=0").address == "0000fff0"


def looks(*rates_mhz: float, halted: bool = False, address: str = "f00", start_s: float = 0) -> list[Look]:
    """A look a second of processor time, with so many million instructions executed since the one before."""
    executed = [round(1e6 * sum(rates_mhz[: number + 1])) for number in range(len(rates_mhz))]
    return [Look(10**9 + n, start_s + s, halted, address) for s, n in enumerate(executed)]


def test_still_is_neither_idle_nor_slow_nor_busy_in_one_place() -> None:
    idle = looks(*[0] * 60, halted=True)
    busy = looks(*[200] * 60)
    polling = looks(*[14] * 60)
    for rate_mhz in (0, 5, 9):
        end = looks(*[rate_mhz] * (_STILL_LOOKS + 1))
        seen = [*idle, *busy, *polling, *end]
        assert wait_still(partial(seen.pop, 0), lambda: None)[1] in end[-2:]
        assert len(seen) <= 1


def test_a_loop_that_leaves_registers_as_they_are_is_still() -> None:
    copying = [replace(each, registers=(str(number),)) for number, each in enumerate(looks(*[32] * 60))]
    spinning = [replace(each, registers=("1", "fca4")) for each in looks(*[32] * (_STILL_LOOKS + 1))]
    halted = [replace(each, is_halted=True) for each in spinning * 3]
    seen = [*copying, *halted, *copying, *spinning]
    assert wait_still(partial(seen.pop, 0), lambda: None)[1] in spinning[-2:]
    assert len(seen) <= 1


def test_a_host_that_answers_now_and_then_is_still_still() -> None:
    end = looks(*[5] * 40)
    for number in (3, 9, 15):
        end[number] = replace(end[number], address="abc")
    seen = list(end)
    first, last = wait_still(partial(seen.pop, 0), lambda: None)
    assert (first, last) == (end[1], end[_STILL_LOOKS + 3])
    assert _STILL_LOOKS < _LOOKS


def test_hosts_that_count_instructions_are_watched() -> None:
    COUNTING.check()
    assert needs_watch(COUNTING)
    assert not needs_watch(replace(COUNTING, hosting=None))
    assert not needs_watch(replace(COUNTING, icount=False))


def answer_as_still(listener: socket.socket) -> None:
    """QEMU's side of the watcher's connection, whose processor never moves; the first connection is lost."""
    listener.accept()[0].close()
    connection, _ = listener.accept()
    answers = {"query-replay": {"icount": 17}, "human-monitor-command": REGISTERS.format(halted=0)}
    with connection, connection.makefile("rwb") as file:
        file.write(b'{"QMP": {}}\n')
        file.flush()
        for line in file:
            asked = json.loads(line)
            answer = {"id": asked["id"], "return": answers.get(asked["execute"], {})}
            file.write(json.dumps(answer).encode() + b"\n")
            file.flush()


def test_a_watcher_that_is_not_answered_looks_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watch, "_LOOK_EVERY_S", 0.001)
    with closing(listen(tmp_path, watch.WATCH_SOCKET)) as listener:
        threading.Thread(target=answer_as_still, args=[listener], daemon=True).start()
        with subprocess.Popen(["sleep", "1000"]) as stand_in:
            qemu = read_identity(stand_in.pid)
            assert qemu is not None
            monkeypatch.setattr(sys, "argv", ["watch", str(tmp_path), str(qemu.pid), str(qemu.start_ticks)])
            watch.main()
            assert stand_in.wait(30) == -signal.SIGKILL
    assert read_frozen(tmp_path).startswith("stood still at ffffffff81e0e2fb: 0 instructions in")


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

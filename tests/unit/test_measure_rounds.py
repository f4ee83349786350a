# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol of `measure`: which moves in which order, what is kept, and the balloon put back."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured_vm import FULL_BYTES, TAKE, NumberVm, ScriptGuest

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure import rounds as rounds_module
from balloontrace.measure.folders import made_folders
from balloontrace.measure.getting_ready import GettingReady, begin
from balloontrace.measure.guest import GuestGone
from balloontrace.measure.plan import Plan, turns
from balloontrace.measure.recorder import ChildRecorder, RecorderFailed
from balloontrace.measure.rounds import LEAST_LEFT_BYTES, NotReached, Rounds, check_memory, format_seconds
from balloontrace.measure.sides import Sides
from balloontrace.measure.vm import VmGone

pytestmark = pytest.mark.usefixtures("looks_often")
LOW = FULL_BYTES - TAKE
ENDS_EARLY = """
import sys, time
sys.stderr.write("balloontrace: probes attached\\n"); sys.stderr.flush()
sys.stdout.write("x" * 100); sys.stdout.flush()
time.sleep(0.3)
sys.exit("balloontrace: the driver is gone")
"""


def plan(out: Path, **changes: Any) -> Plan:
    return replace(Plan(out, TAKE, rounds=2, settle_s=0.01, timeout_s=0.3), **changes)


def run(measured: Rounds, asked: Plan) -> None:
    with made_folders(asked):
        measured.run()


def rounds(vm: NumberVm, guest: ScriptGuest, asked: Plan, said: list[str] | None = None) -> Rounds:
    say = (said if said is not None else []).append
    return Rounds(vm, guest, asked, Sides(None, guest, guest_options=asked.guest_options), say, begin())


def test_each_round_has_a_recording_and_the_first_is_apart(tmp_path: Path) -> None:
    vm, guest, said = NumberVm(), ScriptGuest(), list[str]()
    asked = plan(tmp_path / "out", guest_options=["--capture", "payload"])
    measured = rounds(vm, guest, asked, said)
    run(measured, asked)
    assert vm.targets == [LOW, FULL_BYTES] * 3
    assert measured.complete == 2
    found = sorted(str(path.relative_to(asked.out)) for path in asked.out.rglob("*") if path.is_file())
    assert found == ["first/round-000-guest.bt", "measure.json", "round-001-guest.bt", "round-002-guest.bt"]
    assert not (asked.out / "incomplete").exists()
    assert guest.options[1] == ["--label", "vm1 round 1 of 2", "--capture", "payload"]
    told = json.loads((asked.out / "measure.json").read_text())
    assert [each["number"] for each in told["rounds"]] == [1, 2]
    assert (told["vm"], told["guest"], told["touched"]) == ("vm1", {"kernel": "6.12"}, False)
    assert said.pop(0) == f"vm1: 256 MiB out of 1.00 GiB and back, 3 times, into {asked.out}"
    assert said.pop(0).startswith("vm1: ready after ")
    assert set(told["ready_s"]) == {"note", "state", "touch", "attach", "settle"}
    assert len(said) == 3
    assert said[1].startswith("vm1: round 1 of 2: inflate 0.")
    assert "left" in said[1]
    assert "left" not in said[2]


def test_getting_ready_leaves_nothing_out() -> None:
    started_s = time.clock_gettime(time.CLOCK_BOOTTIME) - 100
    ready = GettingReady(started_s)
    ready.done("start")
    ready.done("attach")
    ready.done("settle")
    passed_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    assert 100 <= sum(ready.steps_s.values()) <= passed_s
    assert ready.describe() == "ready after 100.0 s: starting 100.0 s"
    started = begin()
    started.done("start")
    assert 0 < started.steps_s["start"] < time.clock_gettime(time.CLOCK_BOOTTIME)


def test_two_states_in_turn(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = (f"echo a >> {log}", f"echo b >> {log}")
    asked = plan(tmp_path / "out", alternate=commands, first=False, rounds=3)
    assert [(turn.number, turn.state) for turn in turns(asked)] == [
        (1, 0),
        (1, 1),
        (2, 1),
        (2, 0),
        (3, 0),
        (3, 1),
    ]
    vm = NumberVm()
    run(rounds(vm, ScriptGuest(), asked), asked)
    assert log.read_text().split() == ["a", "b", "a", "b"]  # a state that lasts is entered once
    for state, command in zip("ab", commands, strict=True):
        folder = asked.out / state
        assert len(list(folder.glob("*.bt"))) == 3
        told = json.loads((folder / "measure.json").read_text())
        assert (told["state"], told["state_command"]) == (state, command)
        assert [each["number"] for each in told["rounds"]] == [1, 2, 3]


def test_a_state_that_cannot_be_entered(tmp_path: Path) -> None:
    asked = plan(tmp_path / "out", alternate=("true", "echo no such module >&2; exit 3"), first=False)
    measured = rounds(NumberVm(), ScriptGuest(), asked)
    with pytest.raises(
        BalloontraceError, match=r"the command of state b ended with status 3: no such module"
    ):
        run(measured, asked)
    assert measured.complete == 1


def test_memory_is_touched_before_each_inflate(tmp_path: Path) -> None:
    guest = ScriptGuest()
    asked = plan(tmp_path / "out", touched=True, first=False)
    run(rounds(NumberVm(), guest, asked), asked)
    assert guest.touches == 3  # once before, and after each deflate: that is the touch before the next
    told = json.loads((asked.out / "measure.json").read_text())
    assert [each["touched_ns"] for each in told["rounds"]] == [2000, 3000]


def test_a_target_that_is_not_reached(tmp_path: Path) -> None:
    vm = NumberVm(stuck_at=3)
    asked = plan(tmp_path / "out", first=False)
    measured = rounds(vm, ScriptGuest(), asked)
    with pytest.raises(
        NotReached, match=r"not reached its target within 0.3 s: .* 768 MiB, and has 1.00 GiB"
    ):
        run(measured, asked)
    assert vm.targets == [LOW, FULL_BYTES, LOW, FULL_BYTES]
    assert measured.complete == 1
    assert [path.name for path in (asked.out / "incomplete").iterdir()] == ["out-round-002-guest.bt"]


def test_a_vm_that_ends(tmp_path: Path) -> None:
    said: list[str] = []
    asked = plan(tmp_path / "out", first=False)
    measured = rounds(NumberVm(ends_at=3), ScriptGuest(), asked, said)
    with pytest.raises(VmGone, match="has ended"):
        run(measured, asked)
    assert measured.complete == 1
    assert said[-1] == "the balloon could not be set back: the VM vm1 has ended"


def test_a_balloon_is_set_back_though_nobody_can_tell_where_it_is(tmp_path: Path) -> None:
    """As where the guest is asked, and the way to it is lost: the VMM may well do as it is told."""
    vm, said = NumberVm(), list[str]()
    read = vm.read_size_bytes

    def read_until_inflated() -> int:
        if vm.targets:
            raise GuestGone("the connection to vm1 is lost")
        return read()

    vm.read_size_bytes = read_until_inflated  # type: ignore[method-assign]
    asked = plan(tmp_path / "out")
    with pytest.raises(GuestGone):
        run(rounds(vm, ScriptGuest(), asked, said), asked)
    assert vm.targets == [LOW, FULL_BYTES]
    assert said[-1].endswith("whether it went there is not known: the connection to vm1 is lost")


def test_a_recorder_that_ends_by_itself(tmp_path: Path) -> None:
    vm = NumberVm()
    asked = plan(tmp_path / "out", settle_s=30.0)
    with pytest.raises(RecorderFailed, match="the driver is gone"):
        run(rounds(vm, ScriptGuest(ENDS_EARLY), asked), asked)
    assert vm.targets == [FULL_BYTES]  # it had not moved, and is told again where to be


def test_a_vm_that_ends_is_told_before_what_it_did_to_a_recorder(tmp_path: Path) -> None:
    vm = NumberVm()
    read = vm.read_size_bytes

    def read_once() -> int:
        vm.read_size_bytes = gone  # type: ignore[method-assign]
        return read()

    def gone() -> int:
        raise VmGone("the VM vm1 has ended")

    vm.read_size_bytes = read_once  # type: ignore[method-assign]
    asked = plan(tmp_path / "out", settle_s=30.0)
    with pytest.raises(VmGone):
        run(rounds(vm, ScriptGuest(ENDS_EARLY), asked), asked)


FILLS = """
import sys
sys.stderr.write("balloontrace: probes attached\\n"); sys.stderr.flush()
sys.stdin.read()
sys.exit("balloontrace: the recording is incomplete")
"""


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the second round's recording is written; then that is told, and not what it did to a recorder."""
    asked, guest, vm = plan(tmp_path / "out", first=False), ScriptGuest(), NumberVm()
    start = guest.start_recorder

    def fill_in_round_2(options: Sequence[str], path: Path) -> ChildRecorder:
        if guest.options:
            monkeypatch.setattr(rounds_module, "try_writing", refuse)
            guest._script = FILLS
        return start(options, path)

    def refuse(_folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    guest.start_recorder = fill_in_round_2  # type: ignore[method-assign]
    measured = rounds(vm, guest, asked)
    with pytest.raises(OSError, match="No space left on device"):
        run(measured, asked)
    assert measured.complete == 1
    assert vm.targets == [LOW, FULL_BYTES] * 2 + [FULL_BYTES]
    assert [path.name for path in asked.out.glob("*.bt")] == ["round-001-guest.bt"]


@pytest.mark.parametrize(
    ("take", "available", "most"),
    [(FULL_BYTES, None, 960), (FULL_BYTES - LEAST_LEFT_BYTES + 1, None, 960), (TAKE, TAKE, 192)],
)
def test_not_enough_memory(take: int, available: int | None, most: int) -> None:
    guest = None if available is None else ScriptGuest(available_bytes=available)
    with pytest.raises(UsageError, match=f"not enough memory to take .*: take {most}M at most"):
        check_memory(FULL_BYTES, take, guest)


def test_enough_memory() -> None:
    check_memory(FULL_BYTES, TAKE, ScriptGuest(available_bytes=TAKE + LEAST_LEFT_BYTES))


@pytest.mark.parametrize(
    ("seconds", "words"), [(8.4, "some 8 s"), (100, "some 2 min"), (3600, "some 60 min")]
)
def test_time_left(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words

# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol: settle, inflate, settle, deflate, again and again; each round has recordings of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure import provenance
from balloontrace.measure.folders import try_writing
from balloontrace.measure.getting_ready import GettingReady
from balloontrace.measure.guest import Guest, GuestGone
from balloontrace.measure.plan import INCOMPLETE, STATES, Plan, Turn, turns
from balloontrace.measure.provenance import RoundDone
from balloontrace.measure.recorder import RecorderFailed
from balloontrace.measure.shell import run_shell
from balloontrace.measure.sides import Recorded, Sides
from balloontrace.measure.vm import Vm
from balloontrace.units import format_bytes, format_things

# Less than this left to a guest, or free in it, would have it kill processes.
LEAST_LEFT_BYTES = 64 << 20
_LOOK_EVERY_S = 0.2
_PUT_BACK_S = 60.0
_TOUCHES_S = _STATE_S = 600.0


class NotReached(BalloontraceError):  # noqa: N818
    """The balloon did not get where it was told to go."""


class Rounds:
    """Rounds of one VM; `done` has those that are complete, by their folder."""

    def __init__(
        self,
        vm: Vm,
        guest: Guest | None,
        plan: Plan,
        sides: Sides,
        say: Callable[[str], None],
        ready: GettingReady,
    ) -> None:
        self._vm, self._guest, self._plan, self._sides, self._say = vm, guest, plan, sides, say
        self._ready: GettingReady | None = ready  # until the first inflate
        self._state: int | None = None
        self._is_touched = False
        self.done: dict[Path, list[RoundDone]] = {}
        self._turns = list(turns(plan))
        self._finished = 0

    @property
    def complete(self) -> int:
        """How many rounds are complete, the first apart."""
        return sum(map(len, self.done.values()))

    def run(self) -> None:
        """All rounds, into folders that are there. The balloon is where it was afterwards, whatever happens.

        Raises BalloontraceError, and OSError where nothing can be written any more.
        """
        full_bytes = self._vm.read_size_bytes()
        check_memory(full_bytes, self._plan.take_bytes, self._guest)
        incomplete = self._plan.out / INCOMPLETE
        self._say(
            f"{self._vm.named.name}: {format_bytes(self._plan.take_bytes)} out of {format_bytes(full_bytes)} "
            f"and back, {format_things(len(self._turns), 'time')}, into {self._plan.out}"
        )
        described = provenance.describe(self._plan, self._vm.named, self._guest)
        if self._ready is not None:
            described["ready_s"] = self._ready.steps_s  # told with the first round
        provenance.write(self._plan, described, self.done)
        self._step("note")
        started_s = time.monotonic()
        try:
            for turn in self._turns:
                done = self._try_turn(turn, full_bytes, incomplete)
                self._finished += 1
                if not turn.is_first:
                    self.done.setdefault(turn.folder, []).append(done)
                    provenance.write(self._plan, described, self.done)
                self._tell(turn, done, time.monotonic() - started_s)
        finally:
            self._put_back(full_bytes)

    def _try_turn(self, turn: Turn, full_bytes: int, incomplete: Path) -> RoundDone:
        """`_run_turn`; where the VM is gone, or the disk is full, that is the error, and not what it did."""
        try:
            return self._run_turn(turn, full_bytes, incomplete)
        except (RecorderFailed, GuestGone):
            self._vm.read_size_bytes()
            try_writing(incomplete)
            raise

    def _run_turn(self, turn: Turn, full_bytes: int, incomplete: Path) -> RoundDone:
        """One turn; its recordings are in its folder when all of it went well, else in `incomplete`."""
        self._enter_state(turn.state)
        self._step("state")
        if self._plan.touched and not self._is_touched:
            self._touch()
        self._step("touch")
        recorded = Recorded(self._sides)
        label = f"{self._vm.named.name} {turn.describe(self._plan.rounds)}"
        recorded.start(incomplete, f"{turn.folder.name}-{turn.name}", label)
        self._step("attach")
        try:
            self._settle(recorded)
            self._step("settle")
            self._tell_ready()
            inflate_s = self._move(full_bytes - self._plan.take_bytes, recorded)
            self._settle(recorded)
            deflate_s = self._move(full_bytes, recorded)
            self._settle(recorded)
        except BaseException:
            recorded.give_up()
            raise
        recorded.end()
        for path in recorded.paths:
            path.replace(turn.folder / path.name.removeprefix(f"{turn.folder.name}-"))
        return RoundDone(turn.number, inflate_s, deflate_s, self._touch() if self._plan.touched else None)

    def _step(self, step: str) -> None:
        if self._ready is not None:
            self._ready.done(step)

    def _tell_ready(self) -> None:
        if self._ready is not None:
            self._say(f"{self._vm.named.name}: {self._ready.describe()}")
            self._ready = None

    def _settle(self, recorded: Recorded) -> None:
        deadline_s = time.monotonic() + self._plan.settle_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            recorded.check()
            time.sleep(min(left_s, _LOOK_EVERY_S))

    def _move(self, size_bytes: int, recorded: Recorded) -> float:
        """Move the balloon; how long until it was there. NotReached, or what ended a recorder or the VM."""
        started_s = time.monotonic()
        self._vm.set_size_bytes(size_bytes)
        while (now_bytes := self._vm.read_size_bytes()) != size_bytes:
            recorded.check()
            if time.monotonic() - started_s > self._plan.timeout_s:
                raise NotReached(
                    f"the balloon of {self._vm.named.name} has not reached its target within "
                    f"{self._plan.timeout_s:g} s: the guest should have {format_bytes(size_bytes)}, "
                    f"and has {format_bytes(now_bytes)}"
                )
            time.sleep(_LOOK_EVERY_S)
        return time.monotonic() - started_s

    def _touch(self) -> int:
        """Have the guest use the memory that is taken next; how long that took, in ns."""
        assert self._guest is not None  # a plan with `touched` has one
        self._is_touched = True
        return self._guest.touch(self._plan.take_bytes, _TOUCHES_S)

    def _enter_state(self, state: int | None) -> None:
        """Run the command of the next turn's state, unless the machine is in it."""
        if state is None or state == self._state:
            return
        run_shell(self._plan.alternate[state], f"the command of state {STATES[state]}", _STATE_S)
        self._state = state

    def _put_back(self, full_bytes: int) -> None:
        """The balloon to where it was, where the last round has not left it there. What fails is told."""
        if self._finished == len(self._turns):
            return
        deadline_s = time.monotonic() + _PUT_BACK_S
        failed = "the balloon could not be set back"
        try:
            self._vm.set_size_bytes(full_bytes)
            failed = "the balloon was set back, and whether it went there is not known"
            while self._vm.read_size_bytes() != full_bytes:
                if time.monotonic() > deadline_s:
                    self._say(f"the balloon has not gone back yet: told to leave {format_bytes(full_bytes)}")
                    return
                time.sleep(_LOOK_EVERY_S)
        except BalloontraceError as error:
            self._say(f"{failed}: {error}")

    def _tell(self, turn: Turn, done: RoundDone, elapsed_s: float) -> None:
        left = len(self._turns) - self._finished
        left_s = elapsed_s / self._finished * left
        more = f"; {format_seconds(left_s)} left" if left else ""
        self._say(
            f"{self._vm.named.name}: {turn.describe(self._plan.rounds)}: inflate {done.inflate_s:.1f} s, "
            f"deflate {done.deflate_s:.1f} s{more}"
        )


def check_memory(full_bytes: int, take_bytes: int, guest: Guest | None) -> None:
    """UsageError where the guest cannot give so much."""
    most_bytes = full_bytes - LEAST_LEFT_BYTES
    has = f"has {format_bytes(full_bytes)}"
    if guest is not None and guest.facts.available_bytes is not None:
        available_bytes = guest.facts.available_bytes
        if available_bytes - LEAST_LEFT_BYTES < most_bytes:
            most_bytes, has = available_bytes - LEAST_LEFT_BYTES, f"can spare {format_bytes(available_bytes)}"
    if take_bytes > most_bytes:
        advice = (
            f"take {max(most_bytes, 0) >> 20}M at most" if most_bytes > 1 << 20 else "it has none to give"
        )
        raise UsageError(
            f"not enough memory to take {format_bytes(take_bytes)}: the guest {has} "
            f"and needs {format_bytes(LEAST_LEFT_BYTES)} to live: {advice}"
        )


def format_seconds(seconds: float) -> str:
    """Roughly, for who waits: `40 s`, `3 min`."""
    return (
        f"some {round(seconds)} s"
        if seconds < 90
        else f"some {format_things(round(seconds / 60), 'min', 'min')}"
    )

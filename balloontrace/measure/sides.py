# SPDX-License-Identifier: GPL-2.0-or-later
"""Both sides of a balloon recorded at the same time, or one of them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from balloontrace.errors import BalloontraceError
from balloontrace.format.vocabulary import Side
from balloontrace.measure.folders import give_path_to_sudo_user
from balloontrace.measure.guest import Guest
from balloontrace.measure.recorder import Recorder, start_host_recorder

ATTACH_S = 600.0
_LOOK_EVERY_S = 0.1
_EMPTY_BYTES = 64  # no recording that says what it is has so few


@dataclass(frozen=True)
class Sides:
    """What is recorded: a process on this host, a guest, or both; with more options of `record`."""

    pid: int | None
    guest: Guest | None
    host_options: Sequence[str] = ()
    guest_options: Sequence[str] = ()


class Recorded:
    """Recorders that are at work, from `start` until `end` or `give_up`."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._recorders: list[Recorder] = []
        self.paths: tuple[Path, ...] = ()

    def start(self, folder: Path, name: str, label: str) -> None:
        """Start all at once, into NAME-guest.bt and NAME-host.bt; wait until their probes are attached.

        Raises BalloontraceError; nothing runs then any more.
        """
        # Their clocks need not agree: the same word says that they belong together.
        common = ["--label", label]
        if self._sides.pid is not None and self._sides.guest is not None:
            common += ["--pair", f"{name}-{secrets.token_hex(8)}"]
        try:
            if self._sides.pid is not None:
                path = folder / f"{name}-{Side.HOST}.bt"
                options = [*common, *self._sides.host_options]
                self._recorders.append(start_host_recorder(self._sides.pid, options, path))
            if self._sides.guest is not None:
                path = folder / f"{name}-{Side.GUEST}.bt"
                options = [*common, *self._sides.guest_options]
                self._recorders.append(self._sides.guest.start_recorder(options, path))
            self.paths = tuple(recorder.path for recorder in self._recorders)
            self._wait_attached()
        except BaseException:
            self.give_up()
            raise

    def check(self) -> None:
        """Raises RecorderFailed when one of them has ended by itself."""
        for recorder in self._recorders:
            recorder.check()

    def end(self) -> None:
        """End all in order, the guest's first: what the host did for it is recorded until then."""
        failure: BalloontraceError | OSError | None = None
        for recorder in reversed(self._recorders):
            try:
                recorder.wait_ended()
            except (BalloontraceError, OSError) as error:
                failure = failure or error
                recorder.kill()
        self._recorders = []
        for path in filter(Path.exists, self.paths):
            give_path_to_sudo_user(path)
        if failure is not None:
            raise failure

    def give_up(self) -> None:
        """End all, in order if they still can; never raises. What holds nothing is removed."""
        for recorder in self._recorders:
            recorder.tell_end()
        for recorder in self._recorders:
            try:
                recorder.wait_ended(10.0)
            except (BalloontraceError, OSError):
                recorder.kill()
        for recorder in self._recorders:
            with suppress(OSError):
                give_path_to_sudo_user(recorder.path)
                if recorder.path.stat().st_size < _EMPTY_BYTES:
                    recorder.path.unlink()
        self._recorders = []

    def _wait_attached(self) -> None:
        deadline_s = time.monotonic() + ATTACH_S
        waiting = list(self._recorders)
        while waiting:
            waiting = [recorder for recorder in waiting if not recorder.is_attached(_LOOK_EVERY_S)]
            self.check()
            if waiting and time.monotonic() > deadline_s:
                raise BalloontraceError(
                    f"{waiting[0].whose} has not attached its probes within {ATTACH_S:.0f} s"
                )

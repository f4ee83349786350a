# SPDX-License-Identifier: GPL-2.0-or-later
"""`record --side both`: a guest and its host recorded at once, around a command that moves the balloon."""

from __future__ import annotations

import select
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.format.vocabulary import Side
from balloontrace.measure.ending import be_deaf
from balloontrace.measure.sides import Recorded, Sides
from balloontrace.trace.workload import Workload

_LOOK_EVERY_S = 0.5


def names_of(output: Path) -> tuple[Path, Path]:
    """Where both go: NAME-guest.bt and NAME-host.bt beside NAME.bt."""
    guest, host = (output.with_name(f"{output.stem}-{side}.bt") for side in (Side.GUEST, Side.HOST))
    return guest, host


def refuse_taken_names(output: Path, *, force: bool) -> None:
    """UsageError where a recording is there already, or no folder for it."""
    if not output.parent.is_dir():
        raise UsageError(f"cannot write into the folder {output.parent}: there is none")
    for path in names_of(output):
        if path.exists() and not force:
            raise UsageError(f"{path} exists already; give another name, or -f to replace it")


def record_both(
    sides: Sides,
    output: Path,
    label: str,
    command: Sequence[str],
    duration_s: float | None,
    say: Callable[[str], None],
) -> int:
    """Record until the command ends, the time is over, or KeyboardInterrupt; the command's status, or 0.

    Raises BalloontraceError when a recorder failed; what was recorded is there then, too.
    """
    folder = Path(tempfile.mkdtemp(prefix=".balloontrace-", dir=output.parent))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        recorded = Recorded(sides)
        recorded.start(folder, output.stem, label)
        stack.callback(_keep, folder, output.parent)
        stack.callback(recorded.give_up)
        say("probes attached on both sides")
        status = _wait(recorded, command, duration_s)
        # Until here Ctrl-C was the end that is wanted; from here on it would tear what is written.
        be_deaf()
        recorded.end()
    return status


def _wait(recorded: Recorded, command: Sequence[str], duration_s: float | None) -> int:
    deadline_s = None if duration_s is None else time.monotonic() + duration_s
    try:
        with Workload(command) as workload:
            while not workload.ended and (deadline_s is None or time.monotonic() < deadline_s):
                recorded.check()
                left_s = _LOOK_EVERY_S if deadline_s is None else max(0, deadline_s - time.monotonic())
                wait_s = min(left_s, _LOOK_EVERY_S)
                select.select([workload.fd] if workload.fd is not None else [], [], [], wait_s)
            return workload.status or 0
    except KeyboardInterrupt:
        return 0


def _keep(folder: Path, place: Path) -> None:
    for path in folder.iterdir():
        try:
            path.replace(place / path.name)
        except OSError as error:
            raise BalloontraceError(f"cannot create {place / path.name}: {error.strerror}") from error

# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording in pieces that follow each other without a gap; each can be archived once it has ended.

A piece is a recording of its own. Programs stay attached between two, and what they count is divided at one
look: each event and each count is in one piece. A piece is called `*.bt.part` while it is written, and `*.bt`
after that, until a child has archived it (`trace/archiver`) or somebody else does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from balloontrace.console.open_files import is_open_for_writing
from balloontrace.console.output_file import OutputFile, open_output
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.trace.archiver import Archiver, NoArchiver
from balloontrace.trace.end_signals import EndSignals
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.session import Ending, SessionResult
from balloontrace.trace.side import Attached

_ENDED, _UNFINISHED = ".bt", ".bt.part"


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where pieces lie, when one ends (each `every_s` of the wall clock), and what archives them."""

    folder: Path
    every_s: float
    archiver: Archiver | NoArchiver

    def prepare(self) -> None:
        """Make the folder. What a recorder that was killed has left there is a piece that has ended.

        UsageError where that is refused.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in sorted(self.folder.glob(f"*{_UNFINISHED}")):
                if is_open_for_writing(left) is False:
                    left.rename(left.with_name(left.name.removesuffix(_UNFINISHED) + _ENDED))
        except OSError as error:
            raise UsageError(f"cannot keep recordings in {self.folder}: {error.strerror}") from error

    @contextmanager
    def open_piece(self) -> Iterator[OutputFile]:
        """A file for a piece; it is a piece that has ended after the context, which an error drops."""
        began = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = self.folder / f"balloon-{began}{_UNFINISHED}"
        with open_output(path, force=False) as file:
            yield file
            path.rename(path.with_name(path.name.removesuffix(_UNFINISHED) + _ENDED))

    def next_s(self) -> float:
        """When the piece that begins now is to end (monotonic): when the wall clock has passed so often.

        So pieces of a guest and of its host end at the same time.
        """
        return time.monotonic() + self.every_s - time.time() % self.every_s


def record_in_pieces(
    attached: Attached, options: TraceOptions, pieces: Pieces, greeting: str
) -> SessionResult:
    """Record until something ends it; returns how all pieces went together.

    Those but the last are given to the archiver meanwhile. Errors as `open_output`.
    """
    deadline = None if options.duration_s is None else time.monotonic() + options.duration_s
    result, session = SessionResult(Ending.NEXT), None
    with EndSignals() as signals:
        while result.ending is Ending.NEXT:
            pieces.archiver.start()  # the piece before, or what an earlier recorder has left
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            with pieces.open_piece() as file:
                session, before = attached.open_session(file.fd, replace(options, duration_s=left_s)), session
                if before is not None:
                    session.follow(before)
                try:
                    session.write_start()
                except OSError as error:
                    raise BalloontraceError(f"cannot write the recording: {error.strerror}") from error
                file.publish()
                try:
                    piece = session.run(greeting, signals=signals, next_s=pieces.next_s())
                except (KeyboardInterrupt, UsageError):
                    file.discard()
                    raise
            result = _joined(result, piece)
            if result.ending is Ending.NEXT:
                attached.collector.begin_anew()
                greeting = ""
    return result


def _joined(before: SessionResult, piece: SessionResult) -> SessionResult:
    """A piece's result, with what was written and lost in those before it."""
    losses = {
        function: {
            name: _sum(before.losses.get(function, {}).get(name), count) for name, count in counts.items()
        }
        for function, counts in piece.losses.items()
    }
    return replace(
        piece,
        records=before.records + piece.records,
        bytes_written=before.bytes_written + piece.bytes_written,
        losses=losses,
    )


def _sum(before: int | None, count: int | None) -> int | None:
    return count if before is None or count is None else before + count

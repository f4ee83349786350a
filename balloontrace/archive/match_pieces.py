# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's recording with those pieces of its host's that have the buffers for its sends.

Neither side is cut where the other is: buffers of one piece of a guest may lie in several of its host. These
are joined, and matched as one recording is (`analysis/matching`). Those are taken that have a buffer, and no
others, so that what is archived does not depend on what else was given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from balloontrace.analysis.make_report import Examined, examine
from balloontrace.analysis.metadata import text
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.archive.find_pairs import Run
from balloontrace.archive.look_at_recordings import Reader, Seen
from balloontrace.errors import RecordingError
from balloontrace.format.recording import Recording
from balloontrace.results.report import Report

_PAIR = "pair"


@dataclass(frozen=True, slots=True)
class Match:
    """The pieces that a guest's recording matches, and the report of both sides.

    `is_whole`: each send has its buffer, or no other piece can have it.
    """

    run: Run
    report: Report
    pairs: int
    is_whole: bool


def match_run(seen: Seen, guest: Recording, run: Run, reader: Reader) -> Match | None:
    """The pieces of `run` that serve a guest; None where none do, or nothing proves it."""
    likeliest = max(run, key=lambda piece: _common_ns(seen, piece))
    alone = _match(seen, guest, (likeliest,), reader)
    if len(run) == 1 or (alone and alone[1].is_whole):
        return alone and alone[1]
    joined = _match(seen, guest, run, reader)
    if joined is None:
        return alone and alone[1]
    needed = _pieces_with_buffers(run, joined[0])
    fewer = _match(seen, guest, needed, reader) if needed != run else None
    return fewer[1] if fewer and fewer[1].pairs >= joined[1].pairs else joined[1]


def _match(seen: Seen, guest: Recording, run: Run, reader: Reader) -> tuple[Examined, Match] | None:
    host = reader.read_run(run)
    if (seen.is_piece or run[0].is_piece) and _pair(guest) == _pair(host):
        # It is the name of many pieces, so it does not tell that these were made at the same time.
        guest, host = _without_pair(guest), _without_pair(host)
    try:
        examined = examine(guest, host)
    except RecordingError:
        return None
    pairing = examined.report.host.pairing if examined.report.host else None
    sends, pairs = (pairing.sends, pairing.pairs) if pairing else (0, 0)
    report = replace(examined.report, header=replace(examined.report.header, pair=seen.pair))
    return examined, Match(run, report, pairs, sends == pairs or not run[0].is_piece)


def _pair(recording: Recording) -> str | None:
    return text(recording.metadata, _PAIR)


def _without_pair(recording: Recording) -> Recording:
    return replace(
        recording, metadata={key: value for key, value in recording.metadata.items() if key != _PAIR}
    )


def _common_ns(guest: Seen, host: Seen) -> int:
    """For how long both were recording, by the wall clock; negative where they were not."""
    if guest.window is None or host.window is None:
        return 0
    return min(guest.window[1], host.window[1]) - max(guest.window[0], host.window[0])


def _pieces_with_buffers(run: Run, examined: Examined) -> Run:
    """From the piece that has the first buffer of the guest's to the one that has the last."""
    assert examined.both is not None
    assert examined.host is not None
    matched = np.flatnonzero(examined.both.send_of_batch != NO_SPAN)
    ends_ns = [piece.ended[1] for piece in run[:-1] if piece.ended]
    if not len(matched) or len(ends_ns) < len(run) - 1:
        return run
    # A buffer is in the piece in which it was served to its end.
    places = np.searchsorted(ends_ns, examined.host.batches.int64("last_return_ns")[matched])
    return run[int(places.min()) : int(places.max()) + 1]

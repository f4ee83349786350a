# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's part of a time line: the buffers that it served, by thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from balloontrace.analysis.both_sides import BothSides
from balloontrace.analysis.columns import Batches, Column
from balloontrace.analysis.guest_side import GuestEvents
from balloontrace.analysis.host_side import HostRecording
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.export.event_rows import BATCH_COLUMNS, batch_values
from balloontrace.export.tracks import CHUNK_ROWS, Rows, grouped, lane_name, lanes
from balloontrace.format.vocabulary import BatchFlag
from balloontrace.results.time_line import Process, Slice, Track


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """When each batch began and ended, and its calls, in ns of the time line's clock."""

    start_ns: Column
    first_call_ns: Column
    last_return_ns: Column
    end_ns: Column


def batch_times(batches: Batches, both: BothSides | None, guest: GuestEvents | None) -> BatchTimes:
    """A batch whose kick or completion was not seen begins with its first call, or ends with its last."""

    def shown(name: str) -> Column:
        host_ns = batches.int64(name)
        return host_ns if both is None else both.guest_ns(host_ns)

    first_ns, last_ns = shown("first_call_ns"), shown("last_return_ns")
    if batches.sampled:  # no more of the calls is known than instants inside them
        first_ns, last_ns = np.minimum(first_ns, last_ns), np.maximum(first_ns, last_ns)
    start_ns = np.where(batches.has(BatchFlag.KICK_SEEN), shown("kick_ns"), first_ns)
    if both is not None and guest is not None and len(guest.spans):
        # No kick comes before its send: that it seems to, by a rounded nanosecond, is the clocks' error.
        paired = both.send_of_batch != NO_SPAN
        sent_ns = guest.spans.int64("start_ns")[both.send_of_batch]
        start_ns = np.where(paired, np.maximum(start_ns, sent_ns), start_ns)
    first_ns = np.maximum(first_ns, start_ns)
    last_ns = np.maximum(last_ns, first_ns)
    done_ns = np.where(batches.has(BatchFlag.DONE_SEEN), shown("done_ns"), last_ns)
    return BatchTimes(start_ns, first_ns, last_ns, np.maximum(done_ns, last_ns))


def host_process(host: HostRecording, times: BatchTimes, both: BothSides | None, origin_ns: int) -> Process:
    """The buffers that each thread served, on the time line's clock."""
    batches = host.batches
    tid = batches.int64("tid")
    tracks = []
    for each, rows in grouped(tid, np.arange(len(batches)), "threads"):
        # They lie in order of their first call, which for overlapping ones is not that of their starts.
        rows = rows[np.lexsort((-times.end_ns[rows], times.start_ns[rows]))]
        name = f"buffers served (thread {each})"
        found = lanes(times.start_ns[rows].tolist(), times.end_ns[rows].tolist(), name)
        tracks += [
            Track(lane_name(name, lane), _BatchSlices(batches, rows[places], times, both, origin_ns))
            for lane, places in enumerate(found)
        ]
    who = host.header.label or host.header.machine.hostname or "unnamed machine"
    process = f", process {host.side.process}" if host.side.process else ""
    return Process(f"host: {who}{process}", tuple(tracks))


@dataclass(frozen=True, slots=True)
class _BatchSlices:
    """Batches as slices, each with one inside it from its first call to the return of its last."""

    batches: Batches
    rows: Rows
    times: BatchTimes
    both: BothSides | None
    origin_ns: int

    def __iter__(self) -> Iterator[Slice]:
        for start in range(0, len(self.rows), CHUNK_ROWS):
            rows = self.rows[start : start + CHUNK_ROWS]
            times = zip(
                *((column[rows] - self.origin_ns).tolist() for column in self._columns()), strict=True
            )
            values = zip(*batch_values(self.batches, self.both, rows), strict=True)
            for row, (start_ns, first_ns, last_ns, end_ns), value in zip(
                rows.tolist(), times, values, strict=True
            ):
                arguments = {
                    name: each for name, each in zip(BATCH_COLUMNS, value, strict=True) if each is not None
                }
                arrow = row + 1 if "send" in arguments else None
                yield Slice("buffer", start_ns, end_ns, arguments, arrow_in=arrow)
                if "calls_ns" in arguments:
                    yield Slice("calls", first_ns, last_ns, {"inside_calls_ns": arguments["calls_ns"]})

    def _columns(self) -> tuple[Column, ...]:
        times = self.times
        return times.start_ns, times.first_call_ns, times.last_return_ns, times.end_ns

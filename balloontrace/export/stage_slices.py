# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of stages as slices of a time line: of sends inside them, of stage a on a track beside the thread.

When a part of stage a was is not recorded, only for how long and how often. So the parts lie one after the
other from where the target was read, and the rest is last.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from balloontrace.analysis.allocation_parts import STAGE_OF_PART
from balloontrace.analysis.columns import Spans
from balloontrace.analysis.operations import Operations
from balloontrace.export.stage_columns import A_COLUMN, PART_COLUMNS, REST_COLUMN, StageColumns
from balloontrace.export.tracks import grouped, lane_name, lanes
from balloontrace.format.stages import A_REST, BCD_INTERRUPT, BCD_RUNNING, A
from balloontrace.format.vocabulary import Kind
from balloontrace.results.time_line import Slice, Track

_PLACED = {"placed": "one after the other; when each was is not known"}


def parts_of_send(start_ns: int, end_ns: int, acked_ns: object) -> Iterator[Slice]:
    """Until its interrupt, and until it went on; nothing of a send without one."""
    if not isinstance(acked_ns, int):
        return
    told_ns = min(start_ns + acked_ns, end_ns)
    for stage, first_ns, last_ns in (
        (BCD_INTERRUPT, start_ns, told_ns),
        (BCD_RUNNING, told_ns, end_ns),
    ):
        if last_ns > first_ns:
            yield Slice(stage.name, first_ns, last_ns)


def allocation_tracks(
    spans: Spans, operations: Operations, stages: StageColumns, origin_ns: int
) -> Iterator[Track]:
    """Stage a of each work item that had a part of it, by thread; none where they were not told apart."""
    told = np.flatnonzero(stages.known[REST_COLUMN] & (stages.values[REST_COLUMN] < stages.values[A_COLUMN]))
    start_ns = spans.int64("start_ns") + spans.int64("config_ns")
    end_ns = start_ns + stages.values[A_COLUMN]
    deflates = set(operations.items.span[operations.items.direction < 0].tolist())
    for tid, rows in grouped(spans.int64("tid"), told, "threads"):
        name = f"stage a in parts (thread {tid})"
        for lane, places in enumerate(lanes(start_ns[rows].tolist(), end_ns[rows].tolist(), name)):
            yield Track(
                lane_name(name, lane),
                [
                    each
                    for row in rows[places].tolist()
                    for each in _stage_a(
                        row,
                        int(start_ns[row]) - origin_ns,
                        stages,
                        Kind.DEFLATE if row in deflates else Kind.INFLATE,
                    )
                ],
            )


def _stage_a(row: int, start_ns: int, stages: StageColumns, kind: Kind) -> Iterator[Slice]:
    """Stage a, then its parts inside it."""
    yield Slice(A.name_for(kind), start_ns, start_ns + int(stages.values[A_COLUMN][row]), _PLACED)
    for part, (duration_name, count_name) in PART_COLUMNS.items():
        part_ns = int(stages.values[duration_name][row])
        if part_ns and stages.known[duration_name][row]:
            count = {"count": int(stages.values[count_name][row])}
            yield Slice(STAGE_OF_PART[part].name, start_ns, start_ns + part_ns, count)
            start_ns += part_ns
    rest_ns = int(stages.values[REST_COLUMN][row])
    if rest_ns:
        yield Slice(A_REST.name_for(kind), start_ns, start_ns + rest_ns)

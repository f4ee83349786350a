# SPDX-License-Identifier: GPL-2.0-or-later
"""What most of allocating or releasing was, where that is known and it took some part of the time."""

from __future__ import annotations

from collections.abc import Sequence

from balloontrace.format.stages import ALLOCATION_PARTS, A
from balloontrace.format.vocabulary import Kind
from balloontrace.results.operation import StageRow
from balloontrace.units import format_duration_ns, format_share, format_things

MOST = 0.5
NAMED_FROM = 0.05  # of the wall time

_PARTS = frozenset(part.code for part in ALLOCATION_PARTS)


def explain_allocation(kind: Kind, rows: Sequence[StageRow]) -> str | None:
    """Names the part that made up at least half of stage a."""
    whole = next((row for row in rows if row.stage == A.code), None)
    if whole is None or not whole.total_ns or (whole.share or 0) < NAMED_FROM:
        return None
    for row in rows:
        if row.stage in _PARTS and (row.total_ns or 0) >= MOST * whole.total_ns:
            share = format_share((row.total_ns or 0) / whole.total_ns)
            often = format_things(row.count or 0, "time")
            doing = "allocating" if kind is Kind.INFLATE else "releasing"
            return f"{share} of {doing} was {row.name}: {format_duration_ns(row.total_ns)}, {often}"
    return None

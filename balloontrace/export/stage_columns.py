# SPDX-License-Identifier: GPL-2.0-or-later
"""What stages of single calls consist of, as columns beside those of the spans.

A work item of an operation has stage a, and where `record --split-allocation` told them the parts of it and
the rest: they add up to a. A send that an interrupt answered has `acked_ns` until that and `running_ns` after
it: they add up to its duration, which is b+c+d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from balloontrace.analysis.allocation_parts import STAGE_OF_PART, items_with_parts, possible_parts
from balloontrace.analysis.columns import Column, Mask
from balloontrace.analysis.group_statistics import sums
from balloontrace.analysis.guest_side import GuestEvents
from balloontrace.analysis.operations import NO_OPERATION
from balloontrace.format.stages import A_REST, A, Stage
from balloontrace.format.vocabulary import Part, SpanFlag


def _column_of(stage: Stage, ending: str) -> str:
    """`a.off_cpu` is `a_off_cpu_ns`, and `a_off_cpu_count`."""
    return f"{stage.code.replace('.', '_')}_{ending}"


A_COLUMN, REST_COLUMN, RUNNING_COLUMN = _column_of(A, "ns"), _column_of(A_REST, "ns"), "running_ns"
PART_COLUMNS: Mapping[Part, tuple[str, str]] = {
    part: (_column_of(stage, "ns"), _column_of(stage, "count")) for part, stage in STAGE_OF_PART.items()
}
STAGE_COLUMNS = (
    A_COLUMN,
    *(name for names in PART_COLUMNS.values() for name in names),
    REST_COLUMN,
    RUNNING_COLUMN,
)


@dataclass(frozen=True, slots=True)
class StageColumns:
    """For each of STAGE_COLUMNS the values by span, and which of them were measured."""

    values: Mapping[str, Column]
    known: Mapping[str, Mask]


def find_stage_columns(guest: GuestEvents) -> StageColumns:
    """The stages of all spans of a recording."""
    spans, items = guest.spans, guest.operations.items
    nothing = np.zeros(len(spans), dtype=np.int64)
    values = dict.fromkeys(STAGE_COLUMNS, nothing)
    known = dict.fromkeys(STAGE_COLUMNS, np.zeros(len(spans), dtype=np.bool_))

    def tell(name: str, of_items: Column, which: Mask) -> None:
        values[name], known[name] = nothing.copy(), np.zeros(len(spans), dtype=np.bool_)
        values[name][items.span], known[name][items.span] = of_items, which

    acked = spans.has(SpanFlag.ACK)
    values[RUNNING_COLUMN] = spans.int64("duration_ns") - spans.int64("wait_ns")
    known[RUNNING_COLUMN] = acked
    if guest.sends_traced:
        tell(A_COLUMN, items.a_ns, guest.operations.item_operation != NO_OPERATION)
    parts = guest.allocation
    if guest.sends_traced and parts.measured:
        item, which, damaged = possible_parts(parts, guest.operations)
        split = items_with_parts(parts, guest.operations) & items.config_measured & ~damaged
        rest_ns = items.a_ns.copy()
        for part in parts.measured:
            mine = parts.part[which] == part
            of_part = item[mine]
            part_ns = sums(parts.duration_ns[which][mine], of_part, len(items))
            rest_ns -= part_ns
            duration_name, count_name = PART_COLUMNS[part]
            tell(duration_name, part_ns, split)
            tell(count_name, sums(parts.count[which][mine], of_part, len(items)), split)
        tell(REST_COLUMN, rest_ns, split)
    return StageColumns(values, known)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What changed from one week or kernel to another, by the tests of `compare`.

A VM is one replicate, whatever number of operations it made, for those are alike. Its value is time for each
GiB moved by its operations that reached their target. VMs that are on both sides are compared in pairs, where
there are enough.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from balloontrace.fleet.question import Found, Options, Question, Row
from balloontrace.fleet.side_filter import SideFilter, parse_side
from balloontrace.format.stages import OTHER, STAGES, find_stage
from balloontrace.format.vocabulary import Kind
from balloontrace.results.comparison import WALL
from balloontrace.results.fleet_answer import AnswerColumn, Cell, Picture, Unit
from balloontrace.results.operation import REACHED
from balloontrace.units import GIB_BYTES, format_count, format_things

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from balloontrace.results import comparison

_COLUMNS = (
    AnswerColumn("kind", label="kind", most=8),
    AnswerColumn("stage", label="stage", most=8),
    AnswerColumn("vms_before", Unit.COUNT, "VMs"),
    AnswerColumn("vms_after", Unit.COUNT, "VMs"),
    AnswerColumn("before_ns_per_gib", Unit.NS, "before"),
    AnswerColumn("after_ns_per_gib", Unit.NS, "after"),
    AnswerColumn("ratio", Unit.RATIO, "ratio"),
    AnswerColumn("ratio_low", Unit.RATIO, "from"),
    AnswerColumn("ratio_high", Unit.RATIO, "to"),
    AnswerColumn("p_value", Unit.RATIO, "p"),
    AnswerColumn("verdict", label="verdict"),
)
_KEYS = ("vm", "kind", "stage", "before", "after")
# Stages of most VMs of a side only: the others' would be another selection of VMs.
_FEWEST_SHARE = 0.5

_Values = dict[str, float]
"""Ns for each GiB, by VM."""


def _sides(options: Options) -> tuple[SideFilter, SideFilter]:
    return parse_side(options.before or ""), parse_side(options.after or "")


def _ask(tables: Mapping[str, ir.Table], options: Options) -> ir.Table:
    stages, operations = tables["stages"], tables["operations"]
    whole = stages.filter(stages.part_of.isnull())
    asked = operations.filter(operations.kind.isin([*map(str, Kind)]))
    walls = asked.mutate(stage=_literal(WALL), total_ns=asked.wall_ns)
    return _sums(whole, options).union(_sums(walls, options))


def _literal(text: str) -> ir.StringScalar:
    import ibis

    return ibis.literal(text)


def _sums(table: ir.Table, options: Options) -> ir.Table:
    """By VM, kind and stage, and by the sides it is on: a side may be a part of the other."""
    before, after = (side.holds(table) for side in _sides(options))
    counted = table.filter(
        (before | after) & (table.outcome == REACHED) & (table.bytes > 0) & table.total_ns.notnull()
    )
    told = counted.select(
        "vm",
        "kind",
        "stage",
        "total_ns",
        "bytes",
        before=before.fill_null(False),
        after=after.fill_null(False),
    )
    return told.group_by(list(_KEYS)).aggregate(total_ns=told.total_ns.sum(), bytes=told.bytes.sum())


def _finish(rows: Sequence[Row], options: Options) -> Found:
    values = _values_of(rows)
    shown: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for kind in map(str, Kind):
        sides = [values.get((side, kind, WALL), {}) for side in ("before", "after")]
        if not all(sides):
            if any(sides):
                notes.append(f"only one side has a complete {kind}")
            continue
        compared, note = _compare(kind, values)
        shown += [_cells(kind, row) for row in compared]
        notes.append(note)
    if not shown:
        notes.append("no operation reached its target on both sides")
    else:
        notes.append(
            "times are for each GiB of a VM, and medians of VMs; "
            f"before is {options.before}, after {options.after}"
        )
    return Found(shown, tuple(notes))


def _values_of(rows: Sequence[Row]) -> dict[tuple[str, str, str], _Values]:
    """By side, kind and stage."""
    sums: dict[tuple[str, str, str], dict[str, tuple[int, int]]] = defaultdict(dict)
    named = (row for row in rows if row["vm"] is not None)
    for row in sorted(named, key=lambda row: str(row["vm"])):
        for side in ("before", "after"):
            if row[side]:
                of_vms = sums[side, row["kind"], row["stage"]]
                total_ns, size_bytes = of_vms.get(row["vm"], (0, 0))
                of_vms[row["vm"]] = total_ns + row["total_ns"], size_bytes + row["bytes"]
    return {
        key: {vm: total_ns * GIB_BYTES / size_bytes for vm, (total_ns, size_bytes) in of_vms.items()}
        for key, of_vms in sums.items()
    }


def _compare(kind: str, values: Mapping[tuple[str, str, str], _Values]) -> tuple[list[comparison.Row], str]:
    """All rows of a kind, and how they were compared."""
    from balloontrace.compare.compare_group import judge_times
    from balloontrace.compare.compare_rows import Quantity, compare_row, to_frame
    from balloontrace.compare.run_order import UNKNOWN_ORDER, Order, Turns
    from balloontrace.compare.significance import FEWEST_FOR_VERDICT

    walls = [values[side, kind, WALL] for side in ("before", "after")]
    both = set(walls[0]) & set(walls[1])
    paired = len(both) >= FEWEST_FOR_VERDICT

    def row_of(stage: str) -> tuple[comparison.Row, Order] | None:
        found = [values.get((side, kind, stage), {}) for side in ("before", "after")]
        if any(len(each) < _FEWEST_SHARE * len(wall) for each, wall in zip(found, walls, strict=True)):
            return None
        order = UNKNOWN_ORDER
        if paired:
            names = [name for name in found[0] if name in found[1]]
            found = [{name: each[name] for name in names} for each in found]
            places = tuple(range(len(names)))
            order = Order(Turns.PAIRS, pairs=tuple(zip(places, places, strict=True)))
        if not all(found):
            return None
        frames = [to_frame([{stage: value} for value in each.values()]) for each in found]
        known = find_stage(stage)
        quantity = Quantity(stage, known.name_for(Kind(kind)) if known else stage)
        return compare_row(quantity, frames, order, judged=True)[0], order

    codes = [WALL, *(stage.code for stage in STAGES if stage.part_of is None and stage != OTHER), OTHER.code]
    rows = [each for each in map(row_of, codes) if each is not None]
    judged = judge_times([row for row, _ in rows], rows[0][1])
    alone = len(walls[0]) + len(walls[1]) - 2 * len(both)
    if not paired:
        return (
            judged,
            f"{kind}: {format_things(len(both), 'VM')} on both sides, so sides are compared as two samples",
        )
    left = f"; {format_count(alone)} on one side only are left out" if alone else ""
    return judged, f"{kind}: {format_things(len(both), 'VM')} on both sides, compared in pairs{left}"


def _cells(kind: str, row: comparison.Row) -> tuple[Cell, ...]:
    return (
        kind,
        row.name,
        row.before.n,
        row.after.n,
        row.before.median,
        row.after.median,
        row.ratio,
        row.ratio_low,
        row.ratio_high,
        row.p_adjusted,
        row.verdict,
    )


QUESTION = Question(
    text="what changed from --before to --after, each a week, a month, a day or a kernel",
    columns=lambda _options: _COLUMNS,
    ask=_ask,
    finish=_finish,
    picture=lambda _options: Picture(("kind", "stage"), "ratio"),
    sides=True,
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operations cost their guest: a row a quantity, a column an operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from balloontrace.render import numbers
from balloontrace.render.blocks import Line, Number, Section, Table, Title
from balloontrace.results.operation import Operation, longest
from balloontrace.units import format_duration_ns

# Columns that fit a terminal of 80.
_SHOWN_OPERATIONS = 5

_ROWS: tuple[tuple[str, str, Callable[[int | None], Number]], ...] = (
    ("available_start_bytes", "available at the start", numbers.size),
    ("available_least_bytes", "available at the least", numbers.size),
    ("available_end_bytes", "available at the end", numbers.size),
    ("reclaimed_by_kswapd_pages", "reclaimed by kswapd", numbers.pages),
    ("direct_reclaims", "direct reclaims", numbers.count),
    ("reclaimed_directly_pages", "reclaimed directly", numbers.pages),
    ("swapped_out_pages", "swapped out", numbers.pages),
    ("swapped_in_pages", "swapped in", numbers.pages),
    ("major_faults", "major faults", numbers.count),
    ("compactions", "compactions by tasks", numbers.count),
    ("thp_splits", "huge pages split", numbers.count),
    ("thp_collapses", "huge pages made", numbers.count),
    ("memory_pressure_some_ns", "some waited for memory", numbers.duration),
    ("memory_pressure_full_ns", "all waited for memory", numbers.duration),
    ("cpu_pressure_some_ns", "some waited for a CPU", numbers.duration),
    ("steal_ns", "taken by hypervisor", numbers.duration),
    ("oom_kills", "out-of-memory kills", numbers.count),
)
# Shown even where it is 0 everywhere: that nothing of it happened is what people ask.
_ALWAYS = {"direct_reclaims", "swapped_out_pages", "oom_kills"}


def describe_guest_cost(operations: Sequence[Operation]) -> list[Section]:
    """The longest operations of which it is known, or nothing."""
    known = [operation for operation in operations if operation.guest_cost is not None]
    if not known:
        return []
    shown = longest(known, _SHOWN_OPERATIONS)
    costs = [operation.guest_cost for operation in shown if operation.guest_cost is not None]
    table = [
        (name, *(formatted(getattr(cost, field)) for cost in costs))
        for field, name, formatted in _ROWS
        if field in _ALWAYS or any(getattr(cost, field) for cost in costs)
    ]
    names = ("by the guest's kernel", *(f"{each.number} {each.kind}" for each in shown))
    apart_ns = max(max(cost.before_ns, cost.after_ns) for cost in costs)
    note = f"Read up to {format_duration_ns(apart_ns)} before and after each operation."
    if len(known) > len(shown):
        note += f" {len(known) - len(shown)} shorter ones: --format csv has them all."
    return [[Title("What it cost the guest"), Table(names, table, "l" + "r" * len(shown)), Line(note)]]

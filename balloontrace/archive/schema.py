# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of a dataset, column by column; docs/fleet.md is held to it by a test.

Names carry units. Times are integers in ns, sizes integers in bytes; what was not measured is null. Moments
are ns since 1970 (UTC). Every table begins with the same columns, so that no stock question needs a join.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# History of the schema. A reader takes a batch of any minor version of its own major one: columns may be
# added, and are null in older batches.
#   1.0  machines, operations, stages, calls, losses
#   1.1  `whole` of operations. Ranks in commits: above these bits a level, as they were before; below them
#        how many events are known.
SCHEMA_VERSION = (1, 1)
LEVEL_BITS = 40


class Type(StrEnum):
    """What a column holds."""

    TEXT = "text"
    INTEGER = "integer"  # 64 bits
    BOOLEAN = "boolean"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    type: Type = Type.INTEGER


def _columns(*names: str, type_: Type = Type.INTEGER) -> tuple[Column, ...]:
    return tuple(Column(name, type_) for name in names)


def _texts(*names: str) -> tuple[Column, ...]:
    return _columns(*names, type_=Type.TEXT)


COMMON: tuple[Column, ...] = (
    *_texts("batch", "recording_id"),
    Column("day", Type.DAY),
    *_texts("host", "vm", "kernel_release", "driver_kind"),
    Column("started_at_ns"),
)
"""First in every table. `started_at_ns` is of the operation a row is about, else of the recording."""

TABLES: dict[str, tuple[Column, ...]] = {
    "machines": (
        *COMMON,
        *_texts(
            "side", "label", "pair", "process", "boot_id", "architecture", "thp_enabled", "module_srcversion"
        ),
        *_texts("tool_version", "format_version", "engine", "engine_version", "ended"),
        Column("complete", Type.BOOLEAN),
        *_columns("duration_ns", "cpus", "memory_bytes", "swap_bytes", "page_size_bytes", "numa_nodes"),
        *_columns("events_seen", "events_lost", "spans_missing", "moved_bytes", "unseen_bytes"),
        *_columns("balloon_bytes", "below_target_bytes", "above_target_bytes"),
        *_columns(
            "bpf_ns", "bpf_runs", "cpu_ns", "setup_cpu_ns", "peak_memory_bytes", "written_bytes", "wakeups"
        ),
    ),
    "operations": (
        *COMMON,
        *_texts("host_recording_id", "host_kernel_release"),
        Column("operation"),
        *_texts("device", "kind", "outcome"),
        Column("whole", Type.BOOLEAN),
        *_columns("wall_ns", "bytes", "target_bytes", "before_bytes", "after_bytes", "shortfall_bytes"),
        *_columns("sends", "work_items", "run_delay_ns", "oom_bytes"),
        *_columns("host_calls", "host_errors", "thp_splits"),
        *_texts("freed_verdict", "freed_reason", "freed_memory"),
        *_columns("asked_bytes", "freed_least_bytes", "freed_most_bytes", "taken_back_bytes"),
    ),
    "stages": (
        *COMMON,
        Column("operation"),
        *_texts("kind", "outcome"),
        Column("bytes"),
        *_texts("stage", "part_of"),
        *_columns("count", "total_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns", "error_ns"),
    ),
    "calls": (
        *COMMON,
        *_texts("process", "call"),
        *_columns("calls", "bytes", "errors", "without_bytes", "freed_nothing", "freed_bytes", "total_ns"),
    ),
    "losses": (
        *COMMON,
        *_texts("side", "function"),
        *_columns("entries", "returns", "unmatched_returns", "lost", "no_state", "overwritten", "missed"),
        *_columns("events_lost", "summed", "summed_ns", "summed_bytes"),
    ),
}
"""Every table by its name, which is the name of its folder."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""What recording cost the machines that were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from balloontrace.fleet.question import By, Found, Options, Question, Row, cells, key_column, share_of
from balloontrace.results.fleet_answer import AnswerColumn, Picture, Unit

if TYPE_CHECKING:
    import ibis.expr.types as ir


def _columns(options: Options) -> tuple[AnswerColumn, ...]:
    return (
        key_column(options),
        AnswerColumn("side", label="side"),
        AnswerColumn("engine"),
        AnswerColumn("recordings", Unit.COUNT, "rec"),
        AnswerColumn("duration_ns", Unit.NS, "recorded"),
        AnswerColumn("cpu_ns", Unit.NS),
        AnswerColumn("cpu_share", Unit.SHARE, "CPU"),
        AnswerColumn("bpf_ns", Unit.NS),
        AnswerColumn("bpf_share", Unit.SHARE, "BPF"),
        AnswerColumn("setup_cpu_ns", Unit.NS),
        AnswerColumn("peak_memory_bytes", Unit.BYTES, "memory"),
        AnswerColumn("written_bytes", Unit.BYTES),
        AnswerColumn("events_seen", Unit.COUNT),
    )


def _ask(tables: Mapping[str, ir.Table], options: Options) -> ir.Table:
    machines = tables["machines"]
    keys = [key_column(options).name, "side", "engine"]
    timed = machines.duration_ns.notnull()
    summed = machines.group_by(keys).aggregate(
        recordings=machines.count(),
        duration_ns=machines.duration_ns.sum(),
        cpu_ns=machines.cpu_ns.sum(),
        bpf_ns=machines.bpf_ns.sum(),
        # Shares are of recordings that know both.
        timed_cpu_ns=machines.cpu_ns.sum(where=timed),
        cpu_duration_ns=machines.duration_ns.sum(where=machines.cpu_ns.notnull()),
        timed_bpf_ns=machines.bpf_ns.sum(where=timed),
        bpf_duration_ns=machines.duration_ns.sum(where=machines.bpf_ns.notnull()),
        setup_cpu_ns=machines.setup_cpu_ns.sum(),
        peak_memory_bytes=machines.peak_memory_bytes.max(),
        written_bytes=machines.written_bytes.sum(),
        events_seen=machines.events_seen.sum(),
    )
    order = [summed.cpu_ns.desc(nulls_first=False), *(summed[key].asc(nulls_first=False) for key in keys)]
    return summed.order_by(order).limit(options.limit)


def _finish(rows: Sequence[Row], options: Options) -> Found:
    more = [
        {
            **row,
            "cpu_share": share_of(row["timed_cpu_ns"], row["cpu_duration_ns"]),
            "bpf_share": share_of(row["timed_bpf_ns"], row["bpf_duration_ns"]),
        }
        for row in rows
    ]
    return Found(cells(more, _columns(options)), ("shares are of one processor, over the time recorded",))


QUESTION = Question(
    text="what recording cost",
    columns=_columns,
    ask=_ask,
    finish=_finish,
    picture=lambda options: Picture((key_column(options).name, "side"), "cpu_ns"),
    by=By.KERNEL,
)

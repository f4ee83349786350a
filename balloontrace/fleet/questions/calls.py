# SPDX-License-Identifier: GPL-2.0-or-later
"""Which calls hosts made for balloons, what they took, and which of them freed nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from balloontrace.fleet.question import (
    By,
    Found,
    Options,
    Question,
    Row,
    cells,
    key_column,
    rate_of,
    share_of,
)
from balloontrace.results.fleet_answer import AnswerColumn, Picture, Unit

if TYPE_CHECKING:
    import ibis.expr.types as ir

_SUMS = ("calls", "bytes", "errors", "without_bytes", "freed_nothing", "freed_bytes", "total_ns")


def _columns(options: Options) -> tuple[AnswerColumn, ...]:
    return (
        key_column(options),
        AnswerColumn("call", label="call", most=20),
        AnswerColumn("calls", Unit.COUNT, "calls"),
        AnswerColumn("bytes", Unit.BYTES, "bytes"),
        AnswerColumn("errors", Unit.COUNT),
        AnswerColumn("without_bytes", Unit.COUNT),
        AnswerColumn("freed_nothing", Unit.COUNT, "freed none"),
        AnswerColumn("freed_bytes", Unit.BYTES),
        AnswerColumn("total_ns", Unit.NS),
        AnswerColumn("mean_ns", Unit.NS, "mean"),
        AnswerColumn("rate_bytes_per_s", Unit.RATE),
    )


def _ask(tables: Mapping[str, ir.Table], options: Options) -> ir.Table:
    every = tables["calls"]
    made = every.filter(every.calls > 0)
    keys = [key_column(options).name, "call"]
    summed = made.group_by(keys).aggregate(**{name: made[name].sum() for name in _SUMS})
    order = [summed.total_ns.desc(nulls_first=False), *(summed[key].asc(nulls_first=False) for key in keys)]
    return summed.order_by(order).limit(options.limit)


def _finish(rows: Sequence[Row], options: Options) -> Found:
    more = [
        {
            **row,
            "mean_ns": share_of(row["total_ns"], row["calls"]),
            "rate_bytes_per_s": rate_of(row["bytes"], row["total_ns"]),
        }
        for row in rows
    ]
    return Found(cells(more, _columns(options)))


QUESTION = Question(
    text="which calls hosts made, how long they took, which freed nothing",
    columns=_columns,
    ask=_ask,
    finish=_finish,
    picture=lambda options: Picture((key_column(options).name, "call"), "total_ns"),
    by=By.HOST,
)

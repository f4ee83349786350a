# SPDX-License-Identifier: GPL-2.0-or-later
"""What recorders lost, and at which function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from balloontrace.fleet.question import By, Found, Options, Question, Row, cells, key_column, share_of
from balloontrace.results.fleet_answer import AnswerColumn, Picture, Unit

if TYPE_CHECKING:
    import ibis.expr.types as ir

_SUMS = ("entries", "events_lost", "lost", "no_state", "overwritten", "missed", "unmatched_returns", "summed")


def _columns(options: Options) -> tuple[AnswerColumn, ...]:
    return (
        key_column(options),
        AnswerColumn("function", label="function", most=26),
        AnswerColumn("entries", Unit.COUNT, "calls"),
        AnswerColumn("events_lost", Unit.COUNT, "lost"),
        AnswerColumn("share", Unit.SHARE, "share"),
        *(AnswerColumn(name, Unit.COUNT) for name in _SUMS[2:]),
    )


def _ask(tables: Mapping[str, ir.Table], options: Options) -> ir.Table:
    losses = tables["losses"]
    keys = [key_column(options).name, "function"]
    summed = losses.group_by(keys).aggregate(**{name: losses[name].sum() for name in _SUMS})
    order = [
        summed.events_lost.desc(nulls_first=False),
        summed.entries.desc(nulls_first=False),
        *(summed[key].asc(nulls_first=False) for key in keys),
    ]
    return summed.order_by(order).limit(options.limit)


def _finish(rows: Sequence[Row], options: Options) -> Found:
    more = [{**row, "share": share_of(row["events_lost"], row["entries"])} for row in rows]
    return Found(cells(more, _columns(options)))


QUESTION = Question(
    text="what recorders lost, and at which function",
    columns=_columns,
    ask=_ask,
    finish=_finish,
    picture=lambda options: Picture((key_column(options).name, "function"), "events_lost"),
    by=By.KERNEL,
)

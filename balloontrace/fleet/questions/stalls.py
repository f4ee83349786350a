# SPDX-License-Identifier: GPL-2.0-or-later
"""Where balloons stalled, or stayed away from their targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from balloontrace.fleet.question import By, Found, Options, Question, cells, key_column
from balloontrace.format.vocabulary import Kind
from balloontrace.results.fleet_answer import AnswerColumn, Picture, Unit
from balloontrace.results.operation import IN_PROGRESS, STALLED

if TYPE_CHECKING:
    import ibis.expr.types as ir


def _columns(options: Options) -> tuple[AnswerColumn, ...]:
    return (
        key_column(options),
        AnswerColumn("operations", Unit.COUNT, "ops"),
        AnswerColumn("stalled", Unit.COUNT, "stalled"),
        AnswerColumn("short", Unit.COUNT, "short"),
        AnswerColumn("most_short_bytes", Unit.BYTES, "most"),
        AnswerColumn("short_bytes", Unit.BYTES, "short in all"),
        AnswerColumn("oom_bytes", Unit.BYTES, "for OOM"),
        AnswerColumn("run_delay_ns", Unit.NS, "no processor"),
    )


def _ask(tables: Mapping[str, ir.Table], options: Options) -> ir.Table:
    every = tables["operations"]
    asked = every.filter(every.kind.isin([*map(str, Kind)]))
    key = key_column(options).name
    # What its recording cuts off goes on in the next one, and is counted where it ends.
    ended = asked.outcome.fill_null("") != IN_PROGRESS
    summed = asked.group_by(key).aggregate(
        operations=ended.cast("int64").sum(),
        stalled=(asked.outcome == STALLED).cast("int64").sum(),
        short=(asked.shortfall_bytes > 0).cast("int64").sum(),
        most_short_bytes=asked.shortfall_bytes.max(),
        short_bytes=asked.shortfall_bytes.sum(),
        oom_bytes=asked.oom_bytes.sum(),
        run_delay_ns=asked.run_delay_ns.sum(),
    )
    worst = [
        summed.stalled.desc(nulls_first=False),
        summed.short_bytes.desc(nulls_first=False),
        summed[key].asc(nulls_first=False),
    ]
    return summed.order_by(worst).limit(options.limit)


QUESTION = Question(
    text="where balloons stalled or stayed short of their targets",
    columns=_columns,
    ask=_ask,
    finish=lambda rows, options: Found(cells(rows, _columns(options))),
    picture=lambda options: Picture((key_column(options).name,), "short_bytes"),
    by=By.VM,
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether hosts got memory back, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from balloontrace.fleet.question import By, Found, Options, Question, cells, key_column
from balloontrace.results.fleet_answer import AnswerColumn, Picture, Unit

if TYPE_CHECKING:
    import ibis.expr.types as ir


def _columns(options: Options) -> tuple[AnswerColumn, ...]:
    return (
        key_column(options),
        AnswerColumn("freed_verdict", label="verdict", most=13),
        AnswerColumn("freed_reason", label="reason", most=16),
        AnswerColumn("freed_memory"),
        AnswerColumn("operations", Unit.COUNT, "ops"),
        AnswerColumn("asked_bytes", Unit.BYTES, "asked"),
        AnswerColumn("freed_least_bytes", Unit.BYTES, "at least"),
        AnswerColumn("freed_most_bytes", Unit.BYTES),
    )


def _ask(tables: Mapping[str, ir.Table], options: Options) -> ir.Table:
    every = tables["operations"]
    told = every.filter(every.freed_verdict.notnull())
    keys = [key_column(options).name, "freed_verdict", "freed_reason", "freed_memory"]
    summed = told.group_by(keys).aggregate(
        operations=told.count(),
        asked_bytes=told.asked_bytes.sum(),
        freed_least_bytes=told.freed_least_bytes.sum(),
        freed_most_bytes=told.freed_most_bytes.sum(),
    )
    order = [
        summed.asked_bytes.desc(nulls_first=False),
        *(summed[key].asc(nulls_first=False) for key in keys),
    ]
    return summed.order_by(order).limit(options.limit)


QUESTION = Question(
    text="whether hosts got memory back, and why not",
    columns=_columns,
    ask=_ask,
    finish=lambda rows, options: Found(cells(rows, _columns(options))),
    picture=lambda options: Picture(
        (key_column(options).name, "freed_verdict", "freed_reason"), "asked_bytes"
    ),
    by=By.HOST,
)

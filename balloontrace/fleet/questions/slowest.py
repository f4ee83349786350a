# SPDX-License-Identifier: GPL-2.0-or-later
"""Which operations took longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from balloontrace.fleet.question import Found, Options, Question, Row, rate_of
from balloontrace.results.fleet_answer import AnswerColumn, Picture, Unit

if TYPE_CHECKING:
    import ibis.expr.types as ir

_COLUMNS = (
    AnswerColumn("started_at_ns", Unit.MOMENT, "started"),
    AnswerColumn("host", label="host", most=12),
    AnswerColumn("vm", label="vm", most=12),
    AnswerColumn("kernel_release"),
    AnswerColumn("driver_kind"),
    AnswerColumn("kind", label="kind", most=10),
    AnswerColumn("outcome"),
    AnswerColumn("whole"),
    AnswerColumn("bytes", Unit.BYTES, "size"),
    AnswerColumn("wall_ns", Unit.NS, "time"),
    AnswerColumn("rate_bytes_per_s", Unit.RATE, "rate"),
    AnswerColumn("recording_id"),
    AnswerColumn("operation", Unit.COUNT),
)


def _ask(tables: Mapping[str, ir.Table], options: Options) -> ir.Table:
    operations = tables["operations"]
    names = [column.name for column in _COLUMNS if column.name in operations.columns]
    known = operations.filter(operations.wall_ns.notnull()).select(*names)
    order = [known.wall_ns.desc(), known.recording_id, known.started_at_ns, known.kind]
    return known.order_by(order).limit(options.limit)


def _finish(rows: Sequence[Row], _options: Options) -> Found:
    rated = ({**row, "rate_bytes_per_s": rate_of(row["bytes"], row["wall_ns"])} for row in rows)
    return Found([tuple(row[column.name] for column in _COLUMNS) for row in rated])


QUESTION = Question(
    text="which operations took longest",
    columns=lambda _options: _COLUMNS,
    ask=_ask,
    finish=_finish,
    picture=lambda _options: Picture(("host", "vm", "kind"), "wall_ns"),
)

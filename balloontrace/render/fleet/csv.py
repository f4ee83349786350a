# SPDX-License-Identifier: GPL-2.0-or-later
"""An answer as CSV: integers in ns and bytes, empty = not measured; nothing rounded."""

from __future__ import annotations

from balloontrace.render.csv_rows import render_rows
from balloontrace.results.fleet_answer import Answer


def render_answer_csv(answer: Answer) -> str:
    """The whole table, header first."""
    return render_rows([column.name for column in answer.columns], answer.rows, header=True)

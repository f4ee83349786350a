# SPDX-License-Identifier: GPL-2.0-or-later
"""An answer as one HTML page: a picture, and the table with every column."""

from __future__ import annotations

from balloontrace.format.stages import drawn_stages
from balloontrace.render.fleet.pictures_svg import draw_answer
from balloontrace.render.fleet.sections import table_of
from balloontrace.render.html_page import render_page
from balloontrace.results.fleet_answer import Answer


def render_answer_html(answer: Answer) -> str:
    """The whole page of an answer."""
    drawn = _stages_of(answer)
    return render_page(
        "fleet.html",
        answer=answer,
        title=f"balloontrace fleet: {answer.title}",
        heading=f"{answer.title[0].upper()}{answer.title[1:]}",
        picture=draw_answer(answer),
        legend=[stage for stage in drawn_stages() if stage.code in drawn],
        rows=table_of(answer, whole=True) if answer.rows else None,
    )


def _stages_of(answer: Answer) -> set[str]:
    """Those that its picture has."""
    if answer.picture is None or answer.picture.segment is None:
        return set()
    names = [column.name for column in answer.columns]
    place = names.index(answer.picture.segment)
    return {str(row[place]) for row in answer.rows}

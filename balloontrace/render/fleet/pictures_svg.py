# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of an answer: a bar for each row, or one of stages for each group of rows."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from balloontrace.format.stages import find_stage
from balloontrace.render.blocks import plain
from balloontrace.render.fleet.sections import show_cell
from balloontrace.render.stage_bars import Bar, Segment, draw_bars
from balloontrace.render.svg import Drawing
from balloontrace.results.fleet_answer import Answer, AnswerColumn, Cell, Picture
from balloontrace.units import NOT_MEASURED, format_duration_ns

_MOST_BARS = 20
_BAR_PX, _LABEL_PX = 14, 18
_IDENT = "answer"


def draw_answer(answer: Answer) -> Markup | None:
    """None where there is nothing to draw."""
    picture = answer.picture
    if picture is None:
        return None
    if picture.segment is not None:
        bars = _stage_bars(answer, picture, picture.segment)[:_MOST_BARS]
        return draw_bars(_IDENT, answer.title, bars) if bars else None
    return _draw_rows(answer, picture)


def _draw_rows(answer: Answer, picture: Picture) -> Markup | None:
    column, values = _column(answer, picture.value)
    labels = list(_labels(answer, picture))
    rows = [
        (label, value)
        for label, value in zip(labels, values, strict=True)
        if isinstance(value, int | float) and value > 0
    ][:_MOST_BARS]
    if not rows:
        return None
    most = max(value for _, value in rows)
    pitch_px = _BAR_PX + _LABEL_PX + 4
    drawing = Drawing(pitch_px * len(rows))
    told = []
    for index, (label, value) in enumerate(rows):
        words = plain(show_cell(value, column))
        told.append(f"{label}: {words}")
        drawing.text("label", 0, index * pitch_px + 13, told[-1])
        drawing.rect("bucket", 0, index * pitch_px + _LABEL_PX, value / most, _BAR_PX, told[-1])
    return drawing.markup(_IDENT, answer.title, "; ".join(told))


def _stage_bars(answer: Answer, picture: Picture, segment: str) -> list[Bar]:
    """Rows that agree in their labels are one bar, the longest first."""
    groups: dict[str, list[Segment]] = {}
    _, stages = _column(answer, segment)
    _, values = _column(answer, picture.value)
    for label, stage, value in zip(_labels(answer, picture), stages, values, strict=True):
        known = find_stage(str(stage))
        if isinstance(value, int | float) and value > 0:
            groups.setdefault(label, []).append(
                Segment(str(stage), known.name if known else "", round(value))
            )
    bars = [
        Bar(f"{label}: {format_duration_ns(_sum(segments))}", _sum(segments), tuple(segments))
        for label, segments in groups.items()
    ]
    return sorted(bars, key=lambda bar: bar.wall_ns, reverse=True)


def _sum(segments: list[Segment]) -> int:
    return sum(segment.total_ns for segment in segments)


def _labels(answer: Answer, picture: Picture) -> Iterator[str]:
    columns = [_column(answer, name)[1] for name in picture.labels]
    for cells in zip(*columns, strict=True):
        yield ", ".join(NOT_MEASURED if cell is None else str(cell) for cell in cells)


def _column(answer: Answer, name: str) -> tuple[AnswerColumn, list[Cell]]:
    place = next(place for place, column in enumerate(answer.columns) if column.name == name)
    return answer.columns[place], [row[place] for row in answer.rows]

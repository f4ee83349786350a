# SPDX-License-Identifier: GPL-2.0-or-later
"""The pictures of a comparison: both bars, every run, and the ratios with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from balloontrace.format.stages import colour_class
from balloontrace.render.axis_ticks import time_ticks
from balloontrace.render.comparison.sections import format_interval, format_ratio, name_of
from balloontrace.render.stage_bars import Bar, Segment, draw_bars
from balloontrace.render.svg import Drawing
from balloontrace.results.comparison import FASTER, FEWER, MORE, SLOWER, WALL, Group, Replicate, Row
from balloontrace.units import format_count, format_duration_ns

_VERDICT_CLASSES = {FASTER: "v-less", FEWER: "v-less", SLOWER: "v-more", MORE: "v-more"}
_LEFT = 0.44
_RATIO_ROW_PX = 36
_RUN_ROW_PX = 44
# Ratios beyond are drawn at the edge.
_MOST_DOUBLINGS = 16


def draw_both(ident: str, group: Group) -> Markup:
    """The stages before and after, as medians, in one scale."""
    bars = [_bar(name, group, pick) for name, pick in _SIDES]
    return draw_bars(ident, f"Stages of {group.kind} before and after", bars)


def _before(row: Row) -> float | None:
    return row.before.median


def _after(row: Row) -> float | None:
    return row.after.median


_SIDES: tuple[tuple[str, Callable[[Row], float | None]], ...] = (("before", _before), ("after", _after))


def _bar(name: str, group: Group, median: Callable[[Row], float | None]) -> Bar:
    """Medians of stages: what they add up to is near the median of the whole, and need not be it."""
    segments = tuple(
        Segment(row.name, row.label, round(value))
        for row in group.times
        if row.part_of is None and colour_class(row.name) and (value := median(row))
    )
    total_ns = sum(segment.total_ns for segment in segments)
    wall_ns = median(group.wall)
    return Bar(f"{name}: {format_duration_ns(wall_ns)}", total_ns, segments)


def draw_runs(ident: str, group: Group) -> Markup:
    """The wall time of each run as a dot, from 0 on, with the median of each side."""
    sides = (("before", group.before, group.wall.before), ("after", group.after, group.wall.after))
    walls = [run.values[WALL] for _, runs, _ in sides for run in runs if WALL in run.values]
    most_ns = max(walls, default=0.0) * 1.02 or 1.0
    bottom_px = _RUN_ROW_PX * len(sides)
    drawing = Drawing(bottom_px + 18)
    for at_ns, words in time_ticks(int(most_ns), 5):
        drawing.line("grid", (at_ns / most_ns, 0), (at_ns / most_ns, bottom_px))
        anchor = "start" if at_ns == 0 else "end" if at_ns / most_ns > 0.94 else "middle"
        drawing.text("tick", at_ns / most_ns, bottom_px + 14, words, anchor)
    for index, (name, runs, spread) in enumerate(sides):
        top_px = index * _RUN_ROW_PX
        drawing.text(
            "label", 0, top_px + 13, f"{name}, {format_count(len(runs))} run{'s' if len(runs) != 1 else ''}"
        )
        _draw_dots(drawing, runs, most_ns, top_px)
        if spread.median is not None:
            x = spread.median / most_ns
            drawing.line("median", (x, top_px + 18), (x, top_px + _RUN_ROW_PX - 2))
    return drawing.markup(ident, f"Wall time of each {group.kind}", _runs_in_words(sides))


def _draw_dots(drawing: Drawing, runs: Sequence[Replicate], most_ns: float, top_px: float) -> None:
    for index, run in enumerate(runs):
        wall_ns = run.values.get(WALL)
        if wall_ns is None:
            continue
        # In three rows, so that dots close to each other can be distinguished.
        y_px = top_px + 23 + 7 * (index % 3)
        tip = f"{run.recording}, operation {run.operation}: {format_duration_ns(wall_ns)}"
        drawing.dot("run", wall_ns / most_ns, y_px, 4, tip)


def _runs_in_words(sides: Sequence[tuple[str, Sequence[Replicate], object]]) -> str:
    return "; ".join(
        f"{name}: {', '.join(format_duration_ns(run.values.get(WALL)) for run in runs[:20])}"
        + (" and more" if len(runs) > 20 else "")
        for name, runs, _ in sides
    )


def draw_ratios(ident: str, rows: Sequence[Row], title: str) -> Markup | None:
    """Each row's ratio with its interval, on a scale of doublings; None where nothing changed."""
    shown = [row for row in rows if row.ratio]
    if not any(format_ratio(row.ratio) != format_ratio(1.0) for row in shown):
        return None
    low, high = _bounds(shown)
    drawing = Drawing(_RATIO_ROW_PX * len(shown) + 20)
    bottom_px = _RATIO_ROW_PX * len(shown)

    def x(ratio: float) -> float:
        doublings = min(max(math.log2(ratio), low), high) if ratio > 0 else low
        return _LEFT + (1 - _LEFT) * (doublings - low) / (high - low) * 0.98 + 0.005

    step = max(1, math.ceil((high - low) / 5))
    for doublings in range(math.ceil(low), math.floor(high) + 1):
        if doublings % step == 0:
            at = x(2.0**doublings)
            drawing.line("axis" if doublings == 0 else "grid", (at, 0), (at, bottom_px))
            words = f"1/{2**-doublings}" if doublings < 0 else str(2**doublings)
            drawing.text("tick", at, bottom_px + 15, words, "end" if at > 0.96 else "middle")
    for index, row in enumerate(shown):
        _draw_ratio(drawing, row, index * _RATIO_ROW_PX, x)
    words = "; ".join(f"{name_of(row)}: {_in_words(row)}" for row in shown)
    return drawing.markup(ident, title, words)


def _draw_ratio(drawing: Drawing, row: Row, top_px: float, x: Callable[[float], float]) -> None:
    kind = _VERDICT_CLASSES.get(row.verdict or "", "v-open")
    middle_px, ratio = top_px + _RATIO_ROW_PX / 2, row.ratio or 1.0
    drawing.text("name", 0.0 if row.part_of is None else 0.03, top_px + 15, name_of(row).removeprefix("- "))
    interval = f" ({format_interval(row)})" if row.ratio_low is not None else ""
    drawing.text(
        "tick", 0.0 if row.part_of is None else 0.03, top_px + 29, f"{format_ratio(ratio)}{interval}"
    )
    if row.ratio_low is not None and row.ratio_high is not None:
        drawing.line(f"interval {kind}", (x(row.ratio_low), middle_px), (x(row.ratio_high), middle_px))
    drawing.dot(f"ratio {kind}", x(ratio), middle_px, 5, _in_words(row))


def _in_words(row: Row) -> str:
    verdict = f", {row.verdict}" if row.verdict else ""
    interval = f", 95 % interval {format_interval(row)}" if row.ratio_low is not None else ""
    return f"{format_ratio(row.ratio)} times{interval}{verdict}"


def _bounds(rows: Sequence[Row]) -> tuple[float, float]:
    """In doublings: all ratios and intervals, and 1, with half a doubling around."""
    values = [value for row in rows for value in (row.ratio, row.ratio_low, row.ratio_high) if value]
    doublings = [math.log2(value) for value in values]
    low = max(math.floor(2 * min(*doublings, -0.5)) / 2 - 0.5, -_MOST_DOUBLINGS)
    high = min(math.ceil(2 * max(*doublings, 0.5)) / 2 + 0.5, _MOST_DOUBLINGS)
    return low, high

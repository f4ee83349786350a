# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of operations as time passed: size and target, what each moment went to, the rate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from balloontrace.format.stages import OTHER, colour_class
from balloontrace.format.vocabulary import Kind
from balloontrace.render.axis_ticks import size_ticks, time_ticks
from balloontrace.render.stage_bars import LABEL_PX
from balloontrace.render.svg import Drawing, number, steps_path
from balloontrace.results.pictures import PAGES_MOVED, Curve, TimeLine
from balloontrace.units import (
    NS_PER_S,
    format_bytes,
    format_count,
    format_duration_ns,
    format_pages_as_bytes,
    format_rate,
    format_things,
    pages_to_bytes,
)

_STEPS_FOR_RATE = 32
_STEPS_A_COLUMN = 4
_LABELS_PX = 14
_MEMORY_PX = 60


def draw_time_line(ident: str, kind: Kind, line: TimeLine) -> Markup:
    """Pages against time, the stage that each moment went to, and the rate; times below."""
    curve_px, strip_px, rate_px = (170 if line.curve else 0), 44, 44
    moved = line.moved_pages if line.curve and line.curve.steps >= _STEPS_FOR_RATE else None
    panels = [(LABEL_PX, curve_px)] if line.curve else []
    memory_px = [_MEMORY_PX] if line.available else []
    for height_px in [strip_px] + ([rate_px] if moved else []) + memory_px:
        below_px = sum(panels[-1]) if panels else 0
        panels.append((below_px + LABEL_PX + 6, height_px))
    bottom_px = sum(panels[-1])
    drawing = Drawing(bottom_px + 18)
    _draw_time_axis(drawing, line.wall_ns, panels, bottom_px)
    places = iter(panels)
    if line.curve is not None:
        _draw_curve(drawing, line, line.curve, next(places), kind)
    _draw_strip(drawing, line, next(places))
    if line.curve is not None and moved:
        _draw_rate(drawing, line, line.curve, moved, next(places))
    if line.available:
        _draw_memory(drawing, line, next(places))
    return drawing.markup(ident, f"Operation {line.number} against time", _line_in_words(line))


def _draw_time_axis(
    drawing: Drawing, wall_ns: int, panels: Sequence[tuple[float, float]], bottom_px: float
) -> None:
    for at_ns, words in time_ticks(wall_ns, 6):
        x = at_ns / wall_ns if wall_ns else 0.0
        for top_px, height_px in panels:
            drawing.line("grid", (x, top_px), (x, top_px + height_px))
        anchor = "start" if x == 0 else "end" if x > 0.96 else "middle"
        drawing.text("tick", x, bottom_px + 14, words, anchor)


def _draw_curve(
    drawing: Drawing, line: TimeLine, curve: Curve, place: tuple[float, float], kind: Kind
) -> None:
    top_px, height_px = place
    known = [pages for pages in curve.high_pages if pages is not None]
    most = max([*known, *(target.pages for target in line.targets), curve.last_pages, 1])
    # Room above, for the words on the highest target.
    top = most * height_px / (height_px - _LABELS_PX - 4)
    scale = height_px / top

    def y(pages: int) -> float:
        return top_px + height_px - pages * scale

    wall_ns = line.wall_ns or 1
    for stretch in line.waits:
        tip = f"{format_count(stretch.count)} work items got fewer pages than they asked for"
        _draw_band(drawing, "wait", (stretch.from_ns / wall_ns, stretch.until_ns / wall_ns), place, tip)
    for index, pause in enumerate(line.pauses or (), start=1):
        tip = f"pause {index}: {format_duration_ns(pause.until_ns - pause.from_ns)}, mostly {pause.stage}"
        _draw_band(drawing, "pause", (pause.from_ns / wall_ns, pause.until_ns / wall_ns), place, tip)
    aside = kind is Kind.DEFLATE and curve.what != PAGES_MOVED
    for pages, words in size_ticks(most, 4):
        drawing.line("grid", (0, y(pages)), (1, y(pages)))
        if all(abs(y(pages) - y(target.pages)) > _LABELS_PX for target in line.targets):
            drawing.text("tick", 1.0 if aside else 0.0, y(pages) - 3, words, "end" if aside else "start")
    drawing.line("axis", (0, top_px + height_px), (1, top_px + height_px))
    _draw_targets(drawing, line, y)
    points = _curve_points(curve)
    box = (float(len(curve.low_pages)), top)
    path = steps_path([(x, top - pages) for x, pages in points])
    drawing.paths(top_px, height_px, box, [("area", _closed(path, points, box)), ("curve", path)])
    for index, pause in enumerate(line.pauses or (), start=1):
        middle = (pause.from_ns + pause.until_ns) / 2 / wall_ns
        drawing.text("mark", min(max(middle, 0.01), 0.99), top_px + height_px - 4, str(index), "middle")
    for at_ns in line.shortages_ns:
        x = at_ns / wall_ns
        drawing.line("shortage", (x, top_px + height_px - 12), (x, top_px + height_px))
    words = "pages moved" if curve.what == PAGES_MOVED else "size of the balloon"
    drawing.text("label", 0, top_px - 7, words)


def _draw_band(
    drawing: Drawing, kind: str, bounds: tuple[float, float], place: tuple[float, float], tip: str
) -> None:
    drawing.rect(kind, bounds[0], place[0], bounds[1] - bounds[0], place[1], tip)


def _draw_targets(drawing: Drawing, line: TimeLine, y: Callable[[int], float]) -> None:
    wall_ns = line.wall_ns or 1
    ends = [*(target.from_ns for target in line.targets[1:]), wall_ns]
    for target, end_ns in zip(line.targets, ends, strict=False):
        height_px, x = y(target.pages), target.from_ns / wall_ns
        drawing.line("target", (x, height_px), (end_ns / wall_ns, height_px))
        if (end_ns - target.from_ns) / wall_ns > 0.25:
            words = f"target {format_pages_as_bytes(target.pages)}"
            drawing.text("target-label", x + 0.005, height_px - 5, words)


def _curve_points(curve: Curve) -> list[tuple[float, float]]:
    """The corners of the step function: in each column it goes down and up as far as it did."""
    points: list[tuple[float, float]] = []
    columns = zip(curve.first_pages, curve.low_pages, curve.high_pages, strict=True)
    for index, (first, low, high) in enumerate(columns):
        if low is None or high is None:
            continue
        if first is not None and (not points or points[-1][1] != first):
            points.append((points[-1][0] if points else index, first))
        follows = curve.first_pages[index + 1] if index + 1 < len(curve.first_pages) else curve.last_pages
        if first == low == high == follows:
            continue
        middle = index + 0.5
        start = first if first is not None else low
        rising = follows is None or follows >= start
        for pages in (low, high) if rising else (high, low):
            points += [(middle, points[-1][1])] if points and points[-1][0] != middle else []
            points.append((middle, pages))
        if follows is not None:
            points.append((middle, follows))
    if points:
        points.append((float(len(curve.low_pages)), points[-1][1]))
    return points


def _closed(path: str, points: Sequence[tuple[float, float]], box: tuple[float, float]) -> str:
    return f"{path}V{number(box[1])}H{number(points[0][0])}Z" if points else ""


def _draw_strip(drawing: Drawing, line: TimeLine, place: tuple[float, float]) -> None:
    """Each column of time divided into its stages, from the bottom up in their order."""
    top_px, height_px = place
    columns = len(line.stages[0].ns)
    widths = [max(sum(column), 1) for column in zip(*(stage.ns for stage in line.stages), strict=True)]
    below = [0.0] * columns
    shapes = []
    for stage in line.stages:
        above = [low + ns / width for low, ns, width in zip(below, stage.ns, widths, strict=True)]
        if any(stage.ns):
            shapes.append((colour_class(stage.stage) or OTHER.css_class, _band(below, above)))
        below = above
    drawing.paths(top_px, height_px, (columns, 1.0), shapes)
    drawing.text("label", 0, top_px - 7, "where each moment went")


def _band(below: Sequence[float], above: Sequence[float]) -> str:
    """The area between two step functions of equal columns, whose values are from 0 to 1 upwards."""
    upper = [(x, 1 - value) for index, value in enumerate(above) for x in (index, index + 1)]
    lower = [(x, 1 - value) for index, value in enumerate(below) for x in (index, index + 1)]
    there = steps_path([(float(x), round(y, 3)) for x, y in upper])
    back = steps_path([(float(x), round(y, 3)) for x, y in reversed(lower)])
    return f"{there}L{back.removeprefix('M')}Z"


def _draw_rate(
    drawing: Drawing, line: TimeLine, curve: Curve, moved: Sequence[int | None], place: tuple[float, float]
) -> None:
    """Progress by time, in columns wide enough to hold some steps each: else it would look like a comb."""
    top_px, height_px = place
    together = math.ceil(_STEPS_A_COLUMN * len(moved) / curve.steps)
    groups = [moved[start : start + together] for start in range(0, len(moved), together)]
    rates = [max(sum(pages or 0 for pages in group), 0) / len(group) for group in groups]
    most = max(rates) or 1.0
    edges = [min(index * together, len(moved)) for index in range(len(groups) + 1)]
    points = [
        (float(x), round(1 - rate / most, 3))
        for rate, start, end in zip(rates, edges, edges[1:], strict=False)
        for x in (start, end)
    ]
    path = f"{steps_path([(0.0, 1.0), *points])}V1Z"
    drawing.paths(top_px, height_px, (len(moved), 1.0), [("rate", path)])
    drawing.line("axis", (0, top_px + height_px), (1, top_px + height_px))
    column_ns = (line.wall_ns or 1) / len(moved)
    peak = format_rate(pages_to_bytes(1) * most * NS_PER_S / column_ns)
    drawing.text("label", 0, top_px - 7, f"rate, up to {peak}")


def _draw_memory(drawing: Drawing, line: TimeLine, place: tuple[float, float]) -> None:
    """The readings, joined by straight lines: what lies between them is not known."""
    top_px, height_px = place
    wall_ns = line.wall_ns or 1
    most = max(1, *(each.size_bytes for each in line.available))
    dots = [
        (each.at_ns / wall_ns, top_px + height_px * (1 - each.size_bytes / most)) for each in line.available
    ]
    for before, after in itertools.pairwise(dots):
        drawing.line("memory", before, after)
    drawing.line("axis", (0, top_px + height_px), (1, top_px + height_px))
    # A phone has room for some 50 letters; the whole sentence is in the picture's description.
    sizes = [each.size_bytes for each in line.available]
    drawing.text(
        "label",
        0,
        top_px - 7,
        f"memory available: {format_bytes(sizes[0])}, least {format_bytes(min(sizes))}",
    )


def _memory_in_words(line: TimeLine) -> str:
    sizes = [each.size_bytes for each in line.available]
    start, least, end = map(format_bytes, (sizes[0], min(sizes), sizes[-1]))
    return f"memory available in the guest: {start}, at the least {least}, then {end}"


def _line_in_words(line: TimeLine) -> str:
    sentences = [f"{format_duration_ns(line.wall_ns)} from left to right."]
    if line.curve is not None:
        start = line.curve.first_pages[0]
        sentences.append(
            f"The {line.curve.what}: from {format_pages_as_bytes(start)} to "
            f"{format_pages_as_bytes(line.curve.last_pages)} in {format_things(line.curve.steps, 'step')}."
        )
    sentences += [f"Target {format_pages_as_bytes(target.pages)}." for target in line.targets[:8]]
    if line.available:
        sentences.append(f"{_memory_in_words(line).capitalize()}.")
    if line.waits:
        sentences.append(
            f"{format_count(sum(each.count for each in line.waits))} work items waited for pages."
        )
    if line.pauses:
        sentences.append(
            f"{format_things(len(line.pauses), 'pause is', 'pauses are')} marked and listed below."
        )
    return " ".join(sentences)

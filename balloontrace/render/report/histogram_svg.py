# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures in columns by powers of two: how long calls took, and how long runs of pages are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from balloontrace.render.axis_ticks import size_ticks
from balloontrace.render.svg import Drawing
from balloontrace.units import (
    format_count,
    format_things,
)


def draw_buckets(
    ident: str, title: str, buckets: Sequence[int], bounds: tuple[int, int], unit: Callable[[int], str]
) -> Markup:
    """Calls by powers of two, `bounds` being the first bucket drawn and the one behind the last.

    `unit` words the lower bound of a bucket. The scale of the counts is logarithmic, so that one call can be
    seen beside a million.
    """
    decades = max(math.log10(max([*buckets, 1])), 0.5)

    def height(count: int) -> float:
        return (math.log10(count) + 0.4) / (decades + 0.4) if count else 0.0

    grid = [(height(10**decade), format_count(10**decade)) for decade in range(math.floor(decades) + 1)]
    tips = [
        f"{unit(index)} to {unit(index + 1)}: {format_things(n, 'call')}" for index, n in enumerate(buckets)
    ]
    heights = [height(count) for count in buckets]
    return _draw_columns(heights, bounds, grid, tips, unit).markup(
        ident, title, "; ".join(tip for tip, count in zip(tips, buckets, strict=True) if count)
    )


def draw_run_lengths(ident: str, title: str, pages: Sequence[int]) -> Markup:
    """Pages by the length of the run they lie in, in powers of two from 1 page on."""
    most = max([*pages, 1])
    grid = [(at / most, words) for at, words in size_ticks(most, 3)]
    tips = [
        f"runs of {format_count(1 << order)}{' and more' if order else ''}: {format_things(count, 'page')}"
        for order, count in enumerate(pages)
    ]
    heights = [count / most for count in pages]
    bounds = (0, max(len(pages), 8))
    return _draw_columns(heights, bounds, grid, tips, lambda order: format_count(1 << order)).markup(
        ident, title, "; ".join(tip for tip, count in zip(tips, pages, strict=True) if count)
    )


def _draw_columns(
    heights: Sequence[float],
    bounds: tuple[int, int],
    grid: Sequence[tuple[float, str]],
    tips: Sequence[str],
    unit: Callable[[int], str],
) -> Drawing:
    """Columns side by side, from 0 to 1 high, with lines and words at the heights of `grid`."""
    first, end = bounds
    top_px, high_px, columns = 14.0, 108.0, max(end - first, 1)
    base_px = top_px + high_px
    drawing = Drawing(base_px + 18)
    for height, _ in grid:
        drawing.line("grid", (0, base_px - height * high_px), (1, base_px - height * high_px))
    for column in range(first, min(end, len(heights))):
        if heights[column]:
            # What is there is seen, however little it is.
            tall_px = max(heights[column] * high_px, 1.5)
            x = (column - first + 0.06) / columns
            drawing.rect("bucket", x, base_px - tall_px, 0.88 / columns, tall_px, tips[column])
    # Where the columns are lower, the words are easier to read.
    quarter = max(columns // 4, 1)
    at_left = max(heights[first : first + quarter], default=0) < max(heights[end - quarter : end], default=0)
    for height, words in grid:
        y_px = base_px - height * high_px - 3
        drawing.text("tick", 0 if at_left else 1, y_px, words, "start" if at_left else "end")
    drawing.line("axis", (0, base_px), (1, base_px))
    for column in range(first, end, max(1, math.ceil(columns / 4))):
        x = (column - first) / columns
        if x < 0.85:
            drawing.text("tick", x, base_px + 14, unit(column))
    return drawing

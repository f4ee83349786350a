# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps of the page numbers that an operation named."""

from __future__ import annotations

import math

from markupsafe import Markup

from balloontrace.render.svg import Drawing, number
from balloontrace.results.pictures import PageMap
from balloontrace.units import (
    format_count,
    format_pages_as_bytes,
)

RUN_CLASSES = ((2, "r-1"), (16, "r-2"), (128, "r-3"), (512, "r-4"), (math.inf, "r-5"))
"""Run lengths in pages, each class up to (and without) its number."""
_MAP_ROW_PX = 9


def draw_page_map(ident: str, page_map: PageMap) -> tuple[Markup, Markup]:
    """The addresses beside the rows, and the cells: filled as far as they were named, coloured by runs."""
    row_cells = page_map.row_cells
    rows = len(page_map.pages) // row_cells
    height_px = rows * _MAP_ROW_PX
    labels, cells = Drawing(height_px + 4), Drawing(height_px + 4)
    stride = max(1, math.ceil(22 / _MAP_ROW_PX), 2 ** math.ceil(math.log2(max(rows / 10, 1))))
    for row in range(0, rows, stride):
        pfn = page_map.first_pfn + row * row_cells * page_map.cell_pages
        labels.text("tick", 1, row * _MAP_ROW_PX + 9, format_pages_as_bytes(pfn), "end")
    drawn = {name: "" for _, name in RUN_CLASSES}
    for row in range(rows):
        for start, end, name, eighths in _cell_runs(page_map, row * row_cells, row_cells):
            top, tall = row + 0.08 + 0.84 * (1 - eighths / 8), 0.84 * eighths / 8
            drawn[name] += f"M{start} {number(top)}h{end - start}v{number(tall)}h{start - end}z"
    ground = "".join(f"M0 {number(row + 0.08)}h{row_cells}v.84h-{row_cells}z" for row in range(rows))
    cells.paths(0, height_px, (row_cells, rows), [("ground", ground), *drawn.items()])
    named = sum(page_map.pages)
    used = sum(1 for pages in page_map.pages if pages)
    words = (
        f"{format_count(named)} page numbers in {format_count(used)} of {format_count(len(page_map.pages))} "
        f"cells of {format_pages_as_bytes(page_map.cell_pages)} each, {row_cells} to a row"
    )
    title = f"Page numbers that operation {page_map.number} named"
    return (
        labels.markup(f"{ident}-rows", "Where each row of the map begins", "guest-physical addresses"),
        cells.markup(ident, title, words),
    )


def _cell_runs(page_map: PageMap, first: int, count: int) -> list[tuple[int, int, str, int]]:
    """The cells of a row that are not empty, those that look alike together: bounds, class, eighths full."""
    found: list[tuple[int, int, str, int]] = []
    for column in range(count):
        run_pages = page_map.run_pages[first + column]
        if run_pages is None:
            continue
        name = next(name for below, name in RUN_CLASSES if run_pages < below)
        # What is there is seen, however little it is.
        eighths = max(math.ceil(8 * page_map.pages[first + column] / page_map.cell_pages), 2)
        if found and found[-1][1:] == (column, name, eighths):
            found[-1] = (found[-1][0], column + 1, name, eighths)
        else:
            found.append((column, column + 1, name, eighths))
    return found

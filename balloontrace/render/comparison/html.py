# SPDX-License-Identifier: GPL-2.0-or-later
"""A comparison as one HTML page: both sides in pictures and tables, and whether the data can tell."""

from __future__ import annotations

from balloontrace.render.blocks_html import unbroken
from balloontrace.render.comparison.pictures_svg import draw_both, draw_ratios, draw_runs
from balloontrace.render.comparison.sections import (
    describe_side,
    headline,
    interval_of,
    is_measured,
    left_out,
    method,
    name_of,
    ratio_of,
    row_table,
    title,
    title_of_runs,
    value_of,
)
from balloontrace.render.html_page import render_page
from balloontrace.results.comparison import Comparison, Group, Row, RunGroup
from balloontrace.units import format_pages_as_bytes


def render_comparison_html(comparison: Comparison) -> str:
    """The whole page of a comparison."""
    return render_page(
        "compare.html",
        comparison=comparison,
        title=_title(comparison),
        groups=[_shown(number, group) for number, group in enumerate(comparison.groups, start=1)],
        run_groups=[
            _shown_runs(number, group) for number, group in enumerate(comparison.run_groups, start=1)
        ],
        sides=(("before", comparison.before), ("after", comparison.after)),
        expected=[each.text for each in comparison.differences if each.expected],
        left_out=list(left_out(comparison.left_out)),
        method=method(comparison.method),
        describe_side=describe_side,
        value=lambda spread, row: value_of(spread.median, row.unit),
        ratio=ratio_of,
        interval=interval_of,
    )


def _shown(number: int, group: Group) -> dict[str, object]:
    """A group with its words and pictures."""
    words = title(group)
    times = [row for row in group.times if is_measured(row)]
    counts = [row for row in group.counts if is_measured(row)]
    return {
        "number": number,
        "group": group,
        "title": f"{words[0].upper()}{words[1:]}",
        "short": f"{group.kind} of {unbroken(format_pages_as_bytes(group.pages))}",
        "headline": headline(group),
        "caption": f"Medians of {len(group.before)} before and {len(group.after)} after",
        "bars": draw_both(f"both-{number}", group),
        "runs": draw_runs(f"runs-{number}", group),
        "times": row_table("time", times, group, whole=True),
        "counts": row_table("count", counts, group, whole=True) if counts else None,
        "unmeasured": [name_of(row).removeprefix("- ") for row in group.counts if not is_measured(row)],
        "time_ratios": draw_ratios(f"time-ratios-{number}", times, "Times, after to before"),
        "count_ratios": draw_ratios(f"count-ratios-{number}", counts, "Counts, after to before"),
    }


def _shown_runs(number: int, group: RunGroup) -> dict[str, object]:
    """What whole recordings have, with its words and pictures."""
    return {
        "id": f"runs-of-{group.what}",
        "title": title_of_runs(group),
        "short": title_of_runs(group).partition(":")[0],
        "notes": group.notes,
        "tables": [row_table(name, rows, group, whole=True) for name, rows in _tables(group) if rows],
        "ratios": [
            draw_ratios(f"runs-{name}-{number}", rows, f"{name}s, after to before".capitalize())
            for name, rows in _tables(group)
        ],
        "caption": f"Medians of {len(group.before)} before and {len(group.after)} after",
    }


def _tables(group: RunGroup) -> tuple[tuple[str, tuple[Row, ...]], ...]:
    return ("time", group.times), ("count", group.counts)


def _title(comparison: Comparison) -> str:
    return f"balloontrace: {comparison.before.given} against {comparison.after.given}"

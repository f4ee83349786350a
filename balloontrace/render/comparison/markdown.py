# SPDX-License-Identifier: GPL-2.0-or-later
"""A comparison as Markdown, to be pasted into a mail or a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tabulate import tabulate

from balloontrace.render.comparison.table import (
    describe_side,
    format_interval,
    format_p_value,
    format_ratio,
    format_value,
    headline,
    is_measured,
    left_out,
    method,
    name_of,
    title,
)
from balloontrace.results.comparison import Comparison, Group, Row

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>|~#"})
_NAMES = ("before", "after", "ratio", "95 % interval", "p", "verdict")


def render_comparison_markdown(comparison: Comparison) -> str:
    """All of it: headings, lists and tables, separated by empty lines."""
    sections = [
        "\n".join(_sides(comparison)),
        "\n".join(f"* **Warning:** {escape(warning)}" for warning in comparison.warnings),
        *(_group(group) for group in comparison.groups),
        "\n".join(f"* {escape(line)}" for line in left_out(comparison.left_out)),
        escape(method(comparison.method)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def escape(text: str) -> str:
    """Text that Markdown takes as it is: names come from other people's machines."""
    return text.translate(_SPECIAL)


def _sides(comparison: Comparison) -> Iterator[str]:
    for name, side in (("before", comparison.before), ("after", comparison.after)):
        yield f"* **{name}:** {escape(side.given)}: {escape(describe_side(side))}"
    for difference in comparison.differences:
        if difference.expected:
            yield f"* expected difference: {escape(difference.text)}"


def _group(group: Group) -> str:
    heading = escape(title(group))
    parts = [
        f"### {heading[0].upper()}{heading[1:]}",
        f"**{escape(headline(group))}**",
        "\n".join(f"* {escape(note)}" for note in group.notes),
        _table("time", group.times),
        _table("count", [row for row in group.counts if is_measured(row)]),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(name: str, rows: Sequence[Row]) -> str:
    cells = [
        (
            escape(name_of(row)),
            format_value(row.before.median, row.unit),
            format_value(row.after.median, row.unit),
            format_ratio(row.ratio),
            format_interval(row),
            escape(format_p_value(row.p_adjusted)),
            escape(row.verdict or ""),
        )
        for row in rows
    ]
    columns = ("left", *("right",) * 5, "left")
    if not cells:
        return ""
    return tabulate(cells, headers=(name, *_NAMES), tablefmt="pipe", disable_numparse=True, colalign=columns)

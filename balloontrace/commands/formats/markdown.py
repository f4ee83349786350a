# SPDX-License-Identifier: GPL-2.0-or-later
"""Markdown, to be pasted into a mail or a pull request: the words of the table, nothing cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balloontrace.commands.formats import Format

if TYPE_CHECKING:
    from balloontrace.analysis.make_report import Examined
    from balloontrace.results.comparison import Comparison
    from balloontrace.results.fleet_answer import Answer
    from balloontrace.results.measurement import Measurement


def _report(examined: Examined) -> list[str]:
    from balloontrace.render.blocks_markdown import markdown_of
    from balloontrace.render.report.sections import describe_report

    return [markdown_of(describe_report(examined.report))]


def _compare(comparison: Comparison) -> list[str]:
    from balloontrace.render.blocks_markdown import markdown_of
    from balloontrace.render.comparison.sections import describe_comparison

    return [markdown_of(describe_comparison(comparison))]


def _measure(measurement: Measurement) -> list[str]:
    from balloontrace.render.blocks_markdown import markdown_of
    from balloontrace.render.measurement.sections import describe_measurement

    return [markdown_of(describe_measurement(measurement))]


def _fleet(answer: Answer) -> list[str]:
    from balloontrace.render.blocks_markdown import markdown_of
    from balloontrace.render.fleet.sections import describe_answer

    return [markdown_of(describe_answer(answer, whole=True))]


FORMAT = Format(
    "markdown",
    ".md",
    report=_report,
    compare=_compare,
    measure=_measure,
    fleet=_fleet,
    export=_report,
    export_help="the report's tables, as report --format markdown writes them",
)

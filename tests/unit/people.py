# SPDX-License-Identifier: GPL-2.0-or-later
"""What people are shown of a report and of a comparison, in one call each."""

from __future__ import annotations

from balloontrace.render.blocks_markdown import markdown_of
from balloontrace.render.blocks_text import text_of
from balloontrace.render.comparison.sections import describe_comparison
from balloontrace.render.report.sections import describe_report
from balloontrace.results.comparison import Comparison
from balloontrace.results.report import Report


def render_table(report: Report) -> str:
    return text_of(describe_report(report))


def render_markdown(report: Report) -> str:
    return markdown_of(describe_report(report))


def render_comparison(comparison: Comparison) -> str:
    return text_of(describe_comparison(comparison))


def render_comparison_markdown(comparison: Comparison) -> str:
    return markdown_of(describe_comparison(comparison))

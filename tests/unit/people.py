# SPDX-License-Identifier: GPL-2.0-or-later
"""What people are shown of a report and of a comparison, in one call each."""

from __future__ import annotations

from balloontrace.render.blocks_markdown import write_markdown
from balloontrace.render.blocks_text import write_text
from balloontrace.render.comparison.sections import describe_comparison
from balloontrace.render.report.sections import describe_report
from balloontrace.results.comparison import Comparison
from balloontrace.results.report import Report


def render_table(report: Report) -> str:
    return write_text(describe_report(report))


def render_markdown(report: Report) -> str:
    return write_markdown(describe_report(report))


def render_comparison(comparison: Comparison) -> str:
    return write_text(describe_comparison(comparison))


def render_comparison_markdown(comparison: Comparison) -> str:
    return write_markdown(describe_comparison(comparison))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Text for a terminal, at most 80 columns wide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balloontrace.commands.formats import Format

if TYPE_CHECKING:
    from balloontrace.analysis.make_report import Examined
    from balloontrace.results.comparison import Comparison
    from balloontrace.results.fleet_answer import Answer
    from balloontrace.results.measurement import Measurement


def _report(examined: Examined) -> list[str]:
    from balloontrace.render.blocks_text import text_of
    from balloontrace.render.report.sections import describe_report

    return [text_of(describe_report(examined.report))]


def _compare(comparison: Comparison) -> list[str]:
    from balloontrace.render.blocks_text import text_of
    from balloontrace.render.comparison.sections import describe_comparison

    return [text_of(describe_comparison(comparison))]


def _measure(measurement: Measurement) -> list[str]:
    from balloontrace.render.blocks_text import text_of
    from balloontrace.render.measurement.sections import describe_measurement

    return [text_of(describe_measurement(measurement))]


def _fleet(answer: Answer) -> list[str]:
    from balloontrace.render.blocks_text import text_of
    from balloontrace.render.fleet.sections import describe_answer

    return [text_of(describe_answer(answer))]


FORMAT = Format(
    "table", ".txt", report=_report, compare=_compare, fleet=_fleet, measure=_measure, for_people=True
)

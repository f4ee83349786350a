# SPDX-License-Identifier: GPL-2.0-or-later
"""One HTML page with pictures, which needs no other file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balloontrace.commands.formats import Format

if TYPE_CHECKING:
    from balloontrace.analysis.make_report import Examined
    from balloontrace.results.comparison import Comparison
    from balloontrace.results.fleet_answer import Answer
    from balloontrace.results.measurement import Measurement


def _report(examined: Examined) -> list[str]:
    from balloontrace.analysis.make_pictures import depict
    from balloontrace.render.report.html import render_html

    return [render_html(examined.report, depict(examined))]


def _compare(comparison: Comparison) -> list[str]:
    from balloontrace.render.comparison.html import render_comparison_html

    return [render_comparison_html(comparison)]


def _measure(measurement: Measurement) -> list[str]:
    from balloontrace.render.measurement.html import render_measurement_html

    return [render_measurement_html(measurement)]


def _fleet(answer: Answer) -> list[str]:
    from balloontrace.render.fleet.html import render_answer_html

    return [render_answer_html(answer)]


FORMAT = Format("html", ".html", report=_report, compare=_compare, fleet=_fleet, measure=_measure)

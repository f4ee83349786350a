# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON with every number; docs/report.schema.json and compare.schema.json describe its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balloontrace.commands.formats import Format

if TYPE_CHECKING:
    from balloontrace.analysis.make_report import Examined
    from balloontrace.results.comparison import Comparison
    from balloontrace.results.fleet_answer import Answer
    from balloontrace.results.measurement import Measurement


def _report(examined: Examined) -> list[str]:
    from balloontrace.render.json import render_json

    return [render_json(examined.report)]


def _compare(comparison: Comparison) -> list[str]:
    from balloontrace.render.json import render_comparison_json

    return [render_comparison_json(comparison)]


def _measure(measurement: Measurement) -> list[str]:
    from balloontrace.render.json import render_measurement_json

    return [render_measurement_json(measurement)]


def _fleet(answer: Answer) -> list[str]:
    from balloontrace.render.json import render_answer_json

    return [render_answer_json(answer)]


FORMAT = Format("json", ".json", report=_report, compare=_compare, fleet=_fleet, measure=_measure)

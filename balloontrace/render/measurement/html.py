# SPDX-License-Identifier: GPL-2.0-or-later
"""A measurement as one HTML page: its tables, and on what they were measured."""

from __future__ import annotations

from balloontrace.render.html_page import render_page
from balloontrace.render.measurement.sections import headline, notes, rate_table, time_table, title
from balloontrace.results.measurement import Measurement


def render_measurement_html(found: Measurement) -> str:
    """The whole page."""
    shown = [move for move in found.moves if move.times or move.driven is not None]
    return render_page(
        "measure.html",
        title=f"balloontrace: {headline(found)}",
        headline=headline(found),
        measurement=found,
        rates=rate_table(found) if any(move.rates for move in found.moves) else None,
        moves=[
            (number, title(move), time_table(move), notes(move)) for number, move in enumerate(shown, start=1)
        ],
    )

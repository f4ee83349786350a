# SPDX-License-Identifier: GPL-2.0-or-later
"""A measurement as one CSV table, a quantity of all inflates or deflates a row; empty = not measured."""

from __future__ import annotations

from collections.abc import Iterator

from balloontrace.render.csv_rows import render_rows
from balloontrace.results.measurement import Measurement, Move, Summary

_SUMMARY = ("name", "label", "unit", "n", "median", "low", "high", "minimum", "maximum", "share")
COLUMNS = ("vm", "state", "kind", "pages", "published_as", *_SUMMARY)


def render_measurement_csv(found: Measurement) -> str:
    """The whole table, header first."""
    rows = (_row(found, move, each) for move in found.moves for each in _summaries(move))
    return render_rows(COLUMNS, rows, header=True)


def _summaries(move: Move) -> Iterator[Summary]:
    yield from move.rates
    yield from move.times
    if move.driven is not None:
        yield move.driven


def _row(found: Measurement, move: Move, each: Summary) -> list[object]:
    same = [found.vm, found.state, move.kind, move.pages, move.published_as]
    return [*same, *(getattr(each, name) for name in _SUMMARY)]

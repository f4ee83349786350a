# SPDX-License-Identifier: GPL-2.0-or-later
"""CSV: a report or a comparison as one table, single events as one table for each sort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from balloontrace.commands.formats import Format, Pieces

if TYPE_CHECKING:
    from balloontrace.analysis.make_report import Examined
    from balloontrace.format.recording import Recording
    from balloontrace.results.comparison import Comparison
    from balloontrace.results.fleet_answer import Answer
    from balloontrace.results.measurement import Measurement


def _report(examined: Examined) -> list[str]:
    from balloontrace.render.report.csv import render_csv

    return [render_csv(examined.report)]


def _compare(comparison: Comparison) -> list[str]:
    from balloontrace.render.comparison.csv import render_comparison_csv

    return [render_comparison_csv(comparison)]


def _measure(measurement: Measurement) -> list[str]:
    from balloontrace.render.measurement.csv import render_measurement_csv

    return [render_measurement_csv(measurement)]


def _tables(sources: Sequence[Recording], examined: Examined) -> dict[str, Pieces]:
    from balloontrace.analysis.metadata import is_of_host
    from balloontrace.export import event_rows
    from balloontrace.render.csv_rows import render_chunks

    guest, host = examined.guest, examined.host
    tables: dict[str, Pieces] = {}
    if guest is not None:
        tables["spans"] = render_chunks(event_rows.SPAN_COLUMNS, event_rows.span_rows(guest))
        if guest.payloads.found or guest.payloads.of_reports:
            tables["payloads"] = render_chunks(event_rows.PAYLOAD_COLUMNS, event_rows.payload_rows(guest))
        source = next(each for each in sources if not is_of_host(each))
        tables["counters"] = render_chunks(event_rows.COUNTER_COLUMNS, event_rows.counter_rows(source))
    if host is not None:
        rows = event_rows.batch_rows(host.batches, examined.both)
        tables["batches"] = render_chunks(event_rows.BATCH_COLUMNS, rows)
    return tables


def _fleet(answer: Answer) -> list[str]:
    from balloontrace.render.fleet.csv import render_answer_csv

    return [render_answer_csv(answer)]


FORMAT = Format(
    "csv",
    ".csv",
    report=_report,
    compare=_compare,
    measure=_measure,
    fleet=_fleet,
    tables=_tables,
    export_help="a row for each event",
)

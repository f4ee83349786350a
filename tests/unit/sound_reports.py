# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether all that is made of a recording is sound: no number below zero, and as described."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from people import render_table
from schemas import hold, validator

from balloontrace.analysis.make_pictures import depict
from balloontrace.analysis.make_report import examine
from balloontrace.export.event_rows import described_events
from balloontrace.export.make_time_line import build_timeline
from balloontrace.format.recording import Recording
from balloontrace.render.export.ndjson import render_ndjson
from balloontrace.render.export.perfetto import render_perfetto
from balloontrace.render.json import render_json
from balloontrace.render.report.csv import render_csv
from balloontrace.render.report.html import render_html
from balloontrace.results.report import Report

# Signed on purpose: how far a size moved, clocks against each other, and what a function returned.
SIGNED = {"spans", "independent", "clock_offset_ns", "clock_drift_ppm", "result"}
_SIGNED_LINES = ("actual of", "rss_")


def negative(value: Any, name: str = "") -> Iterator[str]:
    """Names of the numbers below zero that have no sign."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from negative(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from negative(each, name)
    elif isinstance(value, int | float) and value < 0 and name not in SIGNED:
        yield f"{name}: {value}"


def assert_sound(*sources: Recording) -> Report:
    """Everything that is made of recordings has no number below zero and is as the schemas describe it."""
    examined = examine(*sources)
    report = examined.report
    described = json.loads(render_json(report))
    assert not list(negative(described))
    hold(validator("report"), described)
    for line in "".join(render_ndjson(described_events(examined))).splitlines():
        assert not list(negative(json.loads(line)))
    events = json.loads("".join(render_perfetto(build_timeline(examined))))
    assert not list(negative(events))
    for row in csv.DictReader(io.StringIO(render_csv(report))):
        if row["name"].rpartition(".")[2] not in SIGNED:
            assert not [cell for cell in row.values() if cell.startswith("-")], row
    # How far a size moved has a sign there too.
    shown = [line for line in render_table(report).splitlines() if not line.startswith(_SIGNED_LINES)]
    assert not [line for line in shown if re.search(r"(?<![\w-])-\d", line)]
    render_html(report, depict(examined))
    return report

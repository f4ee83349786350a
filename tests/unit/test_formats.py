# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings made in the lab, one a format version, are read for ever."""

from __future__ import annotations

from pathlib import Path

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import read_recording

DATA = Path(__file__).parents[1] / "data"
MIB_PAGES = 256


def test_version_1_0() -> None:
    """61 MiB out of a guest of 1 GiB and back: `lab.scenario.record_moves(guest, name, (963, 1024))`."""
    recording = read_recording(DATA / "stock-61-mib.bt")
    assert (recording.version, recording.complete) == ((1, 0), True)
    report = analyse(recording)
    assert [(found.kind, found.pages, found.sends, found.outcome) for found in report.operations] == [
        ("inflate", 61 * MIB_PAGES, 61, "reached"),
        ("deflate", 61 * MIB_PAGES, 61, "reached"),
    ]
    assert all(check.agrees for check in report.checks)
    assert report.events_lost == 0
    for found in report.operations:
        parts = [row.total_ns for row in found.stages if row.part_of is None]
        assert sum(part for part in parts if part is not None) == found.wall_ns

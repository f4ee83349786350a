# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings made in the lab, one a format version, are read for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import read_recording
from balloontrace.results.report import Report

DATA = Path(__file__).parents[1] / "data"
MIB_PAGES = 256


def read(name: str, version: tuple[int, int]) -> Report:
    recording = read_recording(DATA / name)
    assert (recording.version, recording.complete) == (version, True)
    return analyse(recording)


@pytest.mark.parametrize(
    ("name", "version", "mib"),
    [
        ("stock-61-mib.bt", (1, 0), (61, 61)),
        ("cases/n2-guest.bt", (1, 1), (64, 32)),
        ("stock-61-mib-1.2.bt", (1, 2), (61, 61)),
    ],
)
def test_guest(name: str, version: tuple[int, int], mib: tuple[int, int]) -> None:
    """61 MiB out of a guest of 1 GiB and back: `lab.scenario.record_moves(guest, name, (963, 1024))`."""
    report = read(name, version)
    assert [(found.kind, found.pages, found.sends, found.outcome) for found in report.operations] == [
        ("inflate", mib[0] * MIB_PAGES, mib[0], "reached"),
        ("deflate", mib[1] * MIB_PAGES, mib[1], "reached"),
    ]
    assert all(check.agrees for check in report.checks)
    assert report.events_lost == 0
    for found in report.operations:
        parts = [row.total_ns for row in found.stages if row.part_of is None]
        assert sum(part for part in parts if part is not None) == found.wall_ns


def test_host() -> None:
    """A process gives back 1 MiB of its own, page by page, with `--count-freed`."""
    report = read("host-256-pages-1.2.bt", (1, 2))
    assert report.host is not None
    (row,) = report.host.calls
    assert (row.call, row.calls, row.bytes, row.freed_bytes) == ("madvise_dontneed", 256, 1 << 20, 1 << 20)
    assert (report.host.calls_in_batches, report.host.events_lost) == (256, 0)


def test_page_reporting() -> None:
    """900 MiB freed in a guest with free page reporting, and 61 MiB taken meanwhile."""
    report = read("reporting-1.5.bt", (1, 5))
    (inflate,) = report.operations
    assert (inflate.pages, inflate.sends) == (61 * MIB_PAGES, 61)
    assert all(check.agrees for check in report.checks)
    reporting = report.page_reporting
    assert reporting is not None
    assert (reporting.reports, reporting.cycles, reporting.blocks) == (7, 4, 213)
    assert [(each.order, each.blocks) for each in reporting.orders] == [(9, 13), (10, 200)]
    assert reporting.pages == 13 * 512 + 200 * 1024


def test_page_hinting() -> None:
    """Two migrations of a guest with 1 GiB: in the first its memory gets short, the second is cancelled."""
    report = read("hinting-1.5.bt", (1, 5))
    assert report.page_hinting is not None
    first, second = report.page_hinting.operations
    assert [(each.blocks, each.held_pages) for each in (first, second)] == [(283, 0), (195, 0)]
    assert [(each.why, each.calls, each.blocks) for each in first.returns] == [
        ("shrinker", 88, 88),
        ("done", 1, 195),
    ]
    assert [each.ended_by for each in first.rounds] == ["no free block left"] * 2
    assert not report.operations
    assert report.events_lost == 0

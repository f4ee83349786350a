# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's memory over an operation, as pages draw it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import synthetic
from flows import Flow
from html_tree import assert_sound

from balloontrace.analysis.make_pictures import depict
from balloontrace.analysis.make_report import examine
from balloontrace.format.recording import Recording
from balloontrace.render.report.html import render_html
from balloontrace.results.pictures import TimeLine

MIB = 1 << 20


def recording_with(*readings: tuple[int, int]) -> tuple[Recording, int, int]:
    """An inflate with readings at these ns after its start, and its start and end."""
    flow = Flow()
    expected = flow.resize(4096)
    tables: tuple[dict[str, object], ...] = tuple(
        {
            "monotonic_ns": expected.start_ns + at_ns,
            "memory_bytes": {"MemAvailable": mib * MIB},
            "counts": {"oom_kill": 0},
        }
        for at_ns, mib in readings
    )
    return replace(synthetic.recording(flow), readings=tables), expected.start_ns, expected.wall_ns


def line_of(recording: Recording) -> TimeLine:
    (line,) = depict(examine(recording)).time_lines
    return line


def test_readings_outside_count_as_of_the_ends() -> None:
    recording, _, wall_ns = recording_with((-9, 700), (-5, 600), (1000, 50), (10**9, 80), (2 * 10**9, 1))
    found = [(each.at_ns, each.size_bytes // MIB) for each in line_of(recording).available]
    assert found == [(0, 600), (1000, 50), (wall_ns, 80)]


@pytest.mark.parametrize("readings", [(), ((-5, 600),), ((10**9, 80),)])
def test_without_a_reading_on_either_side_there_is_no_curve(readings: tuple[tuple[int, int], ...]) -> None:
    recording, _, _ = recording_with(*readings)
    assert line_of(recording).available == ()


def test_many_readings_keep_the_least() -> None:
    many = [(1000 + place, 3 if place == 777 else 500) for place in range(5000)]
    recording, _, _ = recording_with((-5, 600), *many, (10**9, 80))
    available = line_of(recording).available
    assert len(available) < 800
    assert min(each.size_bytes for each in available) == 3 * MIB
    assert (available[0].size_bytes, available[-1].size_bytes) == (600 * MIB, 80 * MIB)


def test_a_page_says_what_it_shows() -> None:
    recording, _, _ = recording_with((-5, 600), (1000, 50), (10**9, 80))
    examined = examine(recording)
    page = render_html(examined.report, depict(examined))
    words = "memory available in the guest: 600 MiB, at the least 50.0 MiB, then 80.0 MiB"
    assert "memory available: 600 MiB, least 50.0 MiB" in page
    assert f"{words.capitalize()}." in page
    assert_sound(page)

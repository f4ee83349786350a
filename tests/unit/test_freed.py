# SPDX-License-Identifier: GPL-2.0-or-later
"""What calls of the host freed: told where that was counted, and where not, why."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace

import pytest
from collection import ROOT
from people import render_table
from synthetic_host import FREED_NOTHING, host_recording

from balloontrace.analysis.make_report import analyse
from balloontrace.format.host_layout import CALL_SUMS, THREAD
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Call
from balloontrace.results.host_side import HostCalls
from balloontrace.results.report import Report

CALLS, FREED_BYTES = 1009, 37 << 12
DONTNEED, REMOVE, WILLNEED = "madvise_dontneed", "madvise_remove", "madvise_willneed"
COUNTED = {"freed_by": "mm_page_free or remove_rmap or truncate_folio", "freed_counts": "freed"}
FILE = {"name": "/memfd:guest (deleted)", "mapped_bytes": 1 << 28}


def counters() -> bytes:
    """One slot: equally many calls of three kinds, the same in all else."""
    slot = bytearray(THREAD.size_bytes)
    struct.pack_into("<Q", slot, 0, 4242 << 32 | 4242)
    for call in (Call.MADVISE_DONTNEED, Call.MADVISE_REMOVE, Call.MADVISE_WILLNEED):
        at = THREAD.offsets["sums"] + call * CALL_SUMS.size_bytes
        struct.pack_into("<QQIIIIQ", slot, at, CALLS << 12, CALLS * 700, 0, 0, FREED_NOTHING, 0, FREED_BYTES)
        struct.pack_into("<I", slot, at + CALL_SUMS.offsets["buckets"] + 4 * 9, CALLS)
    return bytes(slot)


def report_of(
    said: Mapping[str, object], memory: Mapping[str, object] | None = None, **more: object
) -> Report:
    """The report of such calls, given what the recording says at its beginning and at its end."""
    recording = host_recording([], changes=said)
    end = {**(recording.end or {}), "memory": memory, **more}
    return analyse(replace(recording, counters=counters(), end=end))


def calls_of(report: Report) -> dict[str, HostCalls]:
    assert report.host is not None
    return {each.call: each for each in report.host.calls}


def freed_of(report: Report) -> dict[str, tuple[int | None, int | None]]:
    return {name: (each.freed_nothing, each.freed_bytes) for name, each in calls_of(report).items()}


def sentences(report: Report) -> list[str]:
    return [sentence for sentence in report.not_measured if "freed" in sentence]


def test_what_was_counted_is_told_of_calls_that_are_there_to_free() -> None:
    report = report_of(COUNTED)
    counted = (FREED_NOTHING, FREED_BYTES)
    assert freed_of(report) == {DONTNEED: counted, REMOVE: counted, WILLNEED: (None, None)}
    assert sentences(report) == []
    assert "madvise_remove             0             3     148 KiB" in render_table(report)


@pytest.mark.parametrize(
    ("said", "memory", "why"),
    [
        ({}, None, "record --count-freed counts it"),
        ({**COUNTED, "freed_by": None}, None, "not all functions that show it could be probed"),
        (COUNTED, {"hugetlb_bytes": 2 << 20}, "memory of hugetlbfs goes back to its pool"),
        (
            {**COUNTED, "memory": {"hugetlb_bytes": 2 << 20}},
            None,
            "memory of hugetlbfs goes back to its pool",
        ),
    ],
)
def test_what_was_not_counted_is_no_number(
    said: Mapping[str, object], memory: Mapping[str, object] | None, why: str
) -> None:
    report = report_of(said, memory)
    assert set(freed_of(report).values()) == {(None, None)}
    (sentence,) = sentences(report)
    assert sentence.startswith(f"host: what the calls freed: {why}")


def test_memory_of_hugetlbfs_that_was_mapped_meanwhile() -> None:
    assert sentences(report_of(COUNTED, has_hugetlb=False)) == []
    report = report_of(COUNTED, has_hugetlb=True)
    assert set(freed_of(report).values()) == {(None, None)}
    assert "goes back to its pool" in sentences(report)[0]


def test_a_recording_that_counted_unmapping_does_not_tell_what_dontneed_freed() -> None:
    kept = {**FILE, "allocated_bytes": 1 << 20}
    said = {"freed_by": "remove_rmap or truncate_folio", "memory": {"shared_files": [kept]}}
    report = report_of(said, {"shared_files": [{**kept, "allocated_bytes": 0}]})
    # What leaves a file is free, and was counted rightly.
    assert freed_of(report) == {DONTNEED: (None, None), REMOVE: (3, None), WILLNEED: (None, None)}
    (sentence,) = sentences(report)
    assert sentence == (
        "host: what madvise_dontneed calls freed: this recording counts pages unmapped, and a page that was "
        "unmapped need not be free"
    )
    (sentence,) = sentences(report_of(said, {"shared_files": [kept]}))
    assert sentence.endswith("; the files behind its shared memory kept theirs")


def test_dontneed_of_shared_memory_is_not_said_to_have_freed() -> None:
    report = analyse(read_recording(ROOT / "tests/data/cases/m2-shared-dontneed-counted.bt"))
    calls = calls_of(report)[DONTNEED]
    assert (calls.calls, calls.freed_nothing, calls.freed_bytes) == (5120, None, None)
    (sentence,) = sentences(report)
    assert "counts pages unmapped" in sentence
    assert sentence.endswith("the files behind its shared memory kept theirs")
    assert "madvise_dontneed           0             -           -" in render_table(report)


def test_calls_of_every_kind_fit_on_a_terminal() -> None:
    recording = host_recording([])
    slot = bytearray(THREAD.size_bytes)
    struct.pack_into("<Q", slot, 0, 4242 << 32 | 4242)
    for call in Call:
        at = THREAD.offsets["sums"] + call * CALL_SUMS.size_bytes
        struct.pack_into("<QQ", slot, at, CALLS << 12, CALLS * 700)
        struct.pack_into("<I", slot, at + CALL_SUMS.offsets["buckets"] + 4 * 9, CALLS)
    shown = render_table(analyse(replace(recording, counters=bytes(slot)))).splitlines()
    assert max(map(len, shown)) <= 80
    headings = [line for line in shown if line.startswith("time of a call")]
    assert sum(len(line.split()) - 4 for line in headings) == len(Call)

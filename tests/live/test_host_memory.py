# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the host got its memory back, and what it costs to take it again, for each kind of memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from backings import (
    AGAIN,
    BYTES,
    FREED,
    HUGE_IN_USE,
    NOTHING,
    PAGES,
    TAKING_BACK_S,
    UNTOUCHED,
    WARM_UP,
    Backings,
    Case,
    expect,
    judge,
)
from tracing import report, start_recording

SHARED, TOO_LARGE = "shared memory", "hugetlb page larger than the discard"
# The verdicts where the process has a control group of its own.
CASES = (
    # What is pinned or has a child is known whole only while there is nothing else.
    Case(
        "a child has it",
        ("touch anon", "fork"),
        "anon dontneed 1",
        NOTHING,
        "held by a child process",
        0,
        ("reap",),
    ),
    Case("touched", ("touch anon",), "anon dontneed 1", FREED, None, 1),
    Case("touched, in ranges", ("touch anon",), "anon dontneed 512", FREED, None, 1),
    Case("never touched", (), "anon dontneed 1", UNTOUCHED, None, 0),
    Case("half touched", ("touch anon 2",), "anon dontneed 1", "freed in part", None, 0.5),
    Case("when needed", ("touch anon",), "anon free 512", "freed later", None, 0, (AGAIN,)),
    Case("pinned", ("touch anon", "pin anon"), "anon dontneed 1", NOTHING, "pinned", 0, ("unpin",)),
    Case("huge pages whole", ("touch thp",), "thp dontneed 1", FREED, None, 1),
    Case("huge pages by half", ("touch thptoo",), "thptoo dontneed 1 2", NOTHING, HUGE_IN_USE, 0),
    Case("memfd unmapped", ("touch memfd",), "memfd dontneed 1", NOTHING, SHARED, 0),
    Case("memfd removed", ("touch memfd",), "memfd remove 1", FREED, None, 1),
    Case("memfd never touched", (), "memfd remove 1", UNTOUCHED, None, 0),
    Case("memfd never touched, unmapped", (), "memfd dontneed 1", UNTOUCHED, None, 0),
    Case("memfd punched", ("touch memfd",), "memfd punch 1", FREED, None, 1),
    Case("memfd both", ("touch memfd",), "memfd both 1", FREED, None, 1),
    Case(
        "memfd of two, unmapped", ("touch memfd", "fork"), "memfd dontneed 1", NOTHING, SHARED, 0, ("reap",)
    ),
    Case("memfd of two, removed", ("touch memfd", "fork"), "memfd remove 1", FREED, None, 1, ("reap",)),
    Case("file read", ("touch file",), "file dontneed 1", NOTHING, "private mapping of a file", 0),
    Case("file written", ("write file",), "file dontneed 1", FREED, None, 1),
    Case("hugetlb by small pages", ("touch hugetlb",), "hugetlb dontneed 1", NOTHING, TOO_LARGE, 0),
    Case("hugetlb", ("touch hugetlb",), "hugetlb dontneed 512", FREED, None, 1),
    Case("hugetlb never touched", (), "hugetlb dontneed 512", UNTOUCHED, None, 0),
    Case("hugetlb file by small pages", ("touch hugetlbfile",), "hugetlbfile punch 1", NOTHING, TOO_LARGE, 0),
    Case("hugetlb file unmapped", ("touch hugetlbfile",), "hugetlbfile dontneed 512", NOTHING, SHARED, 0),
    Case("hugetlb file", ("touch hugetlbfile",), "hugetlbfile remove 512", FREED, None, 1),
    Case("locked", (), "locked dontneed 1", NOTHING, "locked", 0),
)
# Without a group, no more is known than that somebody else may hold what was unmapped.
UNKNOWN_WITHOUT_GROUP = {"pinned", "huge pages by half"}


@pytest.mark.parametrize("backings", [True, False], indirect=True, ids=["own group", "no group"])
def test_each_kind_of_memory_freed_or_not(backings: Backings, tmp_path: Path) -> None:
    unknown = () if backings.in_group else UNKNOWN_WITHOUT_GROUP
    assert judge(backings, CASES, tmp_path) == expect(CASES, unknown)


# What is touched, by how many faults, how many of them of huge pages, and how many bytes that is.
TOUCHED = (
    ("touch anon 3", PAGES // 3, 0, PAGES // 3 * 4096),
    ("touch thp", BYTES >> 21, BYTES >> 21, BYTES),
    ("touch hugetlb", BYTES >> 21, BYTES >> 21, BYTES),
    ("touch memfd 2", PAGES // 2, 0, PAGES // 2 * 4096),
    ("", 0, 0, 0),
)


# A sample has to fall into one of the calls, so that these are many.
@pytest.mark.parametrize(
    ("touched", "pages_each", "options"),
    [(TOUCHED, 512, ()), (TOUCHED[::2], 1, ("--sample", "--time-faults"))],
    ids=["traced", "sampled"],
)
def test_what_is_touched_again_is_counted(
    backings: Backings,
    tmp_path: Path,
    touched: Sequence[tuple[str, int, int, int]],
    pages_each: int,
    options: Sequence[str],
) -> None:
    """Faults of a deflate's memory, exactly as many as pages were touched; none where it was left alone."""
    recorder = start_recording(
        backings.guest, "/root/taken.bt", "-f", "-p", str(backings.pid), *options
    ).wait_attached()
    backings.obey(WARM_UP)
    for after, *_ in touched:
        backings.wait_for_looks()
        backings.obey(f"serve memfd willneed {pages_each}")
        backings.obey(*([after] if after else []))
        backings.wait_for_looks(TAKING_BACK_S)
    recorder.end()
    found = report(recorder.pull(tmp_path))
    taken = [each["taken_back"] for each in found["host"]["periods"]]
    print(*taken, sep="\n")
    _, faults, huge_faults, back_bytes = map(list, zip(*touched, strict=True))
    assert [each["traced_faults"] for each in taken] == faults
    assert [each["huge_faults"] for each in taken] == huge_faults
    assert [each["faults"] for each in taken] == faults
    # What the process holds besides is next to nothing.
    assert all(abs(each["bytes"] - size) <= 1 << 20 for each, size in zip(taken, back_bytes, strict=True))
    assert all((each["fault_ns"] > 0) == (each["traced_faults"] > 0) for each in taken)
    assert taken[-1]["sentence"] is None

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel does of its own with memory that a balloon gives back: huge pages, merged pages, swap."""

from __future__ import annotations

from typing import Any

import pytest
from memory_readings import (
    DONTNEED,
    FILE,
    HUGETLB,
    MIB,
    PAGES,
    REMOVE,
    anon,
    freed_of,
    group,
    period_of,
    reading,
    report_of,
    shared,
    verdict,
)

from balloontrace.format.vocabulary import Call, Queue
from balloontrace.results.host_memory import Reason, Verdict


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        (anon(500, 500, collapsed=0), (Verdict.UNTOUCHED, None)),
        (anon(500, 500, collapsed=5), (Verdict.UNTOUCHED, None)),
        # What was missing of 50 huge pages may be all of what had been given back.
        (anon(500, 500, collapsed=50), (Verdict.UNKNOWN, Reason.COLLAPSED)),
        (anon(500, 450, collapsed=25), (Verdict.FREED, None)),
        (anon(500, 460, collapsed=25), (Verdict.UNKNOWN, Reason.COLLAPSED)),
        (anon(500, 400, collapsed=500), (Verdict.FREED, None)),
        # It grew: more came back than was given.
        (anon(500, 520, collapsed=60), (Verdict.UNKNOWN, Reason.COLLAPSED)),
        (anon(500, 500, collapsed=1, faults=PAGES), (Verdict.UNKNOWN, Reason.UNCLEAR)),
    ],
)
def test_khugepaged_may_have_filled_again_what_was_freed(
    readings: tuple[dict[str, Any], ...], expected: tuple[Verdict, Reason | None]
) -> None:
    freed = freed_of(*readings)
    assert (freed.verdict, freed.reason) == expected
    made = readings[1]["collapsed"] - readings[0]["collapsed"]
    assert freed.huge_pages_collapsed == made
    assert freed.sentence is not None
    told = f"khugepaged made {made} huge pages meanwhile" in freed.sentence
    assert told == (freed.reason is Reason.COLLAPSED)


@pytest.mark.parametrize(
    ("missing", "unclear"), [(0, False), (16, False), (256, True), (511, True), (None, True)]
)
def test_khugepaged_fills_no_more_than_it_may(missing: int | None, unclear: bool) -> None:
    freed = freed_of(*anon(500, 500, collapsed=50), machine={"khugepaged_max_ptes_none": missing})
    assert (freed.reason is Reason.COLLAPSED) == unclear
    assert (freed.verdict is Verdict.UNTOUCHED) != unclear
    assert freed.most_bytes == 50 * min(2 * MIB, 4096 * (512 if missing is None else missing))


def test_pages_of_hugetlbfs_are_none_that_khugepaged_makes() -> None:
    readings = (
        reading(-0.5, hugetlb_bytes=500 * MIB, collapsed=0),
        reading(0.5, hugetlb_bytes=500 * MIB, collapsed=90),
    )
    calls = {**DONTNEED, f"calls_{int(Call.MADVISE_DONTNEED)}": 50}
    assert verdict(*readings, of=HUGETLB, calls=calls) == (Verdict.UNTOUCHED, None)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({}, (Verdict.UNTOUCHED, None)),
        ({"thp_sizes_bytes": [2 * MIB]}, (Verdict.UNTOUCHED, None)),
        ({"thp_sizes_bytes": [16 << 10, 64 << 10, 2 * MIB]}, (Verdict.UNKNOWN, Reason.UNCLEAR)),
        ({"page_size_bytes": 64 << 10}, (Verdict.UNKNOWN, Reason.UNCLEAR)),
    ],
)
def test_a_fault_may_bring_more_than_4_kib(
    machine: dict[str, object], expected: tuple[Verdict, Reason | None]
) -> None:
    readings = anon(500, 500, faults=PAGES // 16)
    assert verdict(*readings, of={"huge_bytes": 0}, machine=machine) == expected


@pytest.mark.parametrize(
    ("faults", "made", "grown_mib", "said"),
    [
        (8000, 15, 30, "8 000 page faults until"),
        (8000, 15, 30, "and khugepaged made 15 huge pages on this machine: 30.0 MiB came back"),
        (
            0,
            15,
            30,
            "khugepaged made 15 huge pages on this machine until 5.49 s after it: 30.0 MiB came back",
        ),
        (8000, 0, 30, "in the kernel: 30.0 MiB came back"),
        # It made them elsewhere.
        (0, 15, 0, None),
    ],
)
def test_what_khugepaged_fills_comes_back_without_a_fault(
    faults: int, made: int, grown_mib: int, said: str | None
) -> None:
    readings = (
        reading(-0.5, rss_anon_bytes=400 * MIB, collapsed=3),
        reading(5.5, rss_anon_bytes=(400 + grown_mib) * MIB, faults=faults, collapsed=3 + made),
    )
    calls = {f"calls_{int(Call.MADVISE_WILLNEED)}": PAGES}
    taken = period_of(report_of(*readings, calls=calls, queue=Queue.DEFLATE)).taken_back
    assert taken is not None
    assert taken.huge_pages_collapsed == made
    assert said in taken.sentence if said and taken.sentence else taken.sentence is said


def swapped(
    before_mib: int,
    after_mib: int,
    cached_mib: int | None,
    *,
    anon_mib: tuple[int, int] = (500, 500),
    brought_in_mib: int = 0,
) -> Any:
    """Readings with so much in swap, of which some is in memory still, and so much anonymous memory."""
    readings = anon(*anon_mib)
    for each, size in zip(readings, (before_mib, after_mib), strict=True):
        each["memory"]["swap_bytes"] = size * MIB
        if cached_mib is not None:
            swap = {"used_bytes": (900 + size) * MIB, "cached_bytes": cached_mib * MIB, "brought_in_pages": 9}
            each["swap"] = swap
    readings[1].get("swap", {})["brought_in_pages"] = 9 + brought_in_mib * MIB // 4096
    return readings


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        (swapped(300, 200, 0), (Verdict.NOTHING, Reason.SWAPPED)),
        (swapped(300, 200, 3), (Verdict.NOTHING, Reason.SWAPPED)),
        # What was written to swap may be in memory still, and became free there.
        (swapped(300, 200, 90), (Verdict.UNKNOWN, Reason.SWAPPED)),
        (swapped(300, 200, None), (Verdict.UNKNOWN, Reason.SWAPPED)),
        # What a kernel thread brings in meanwhile is no fault of the process.
        (swapped(300, 200, 0, brought_in_mib=100), (Verdict.UNKNOWN, Reason.SWAPPED)),
        (swapped(300, 200, 0, brought_in_mib=3), (Verdict.NOTHING, Reason.SWAPPED)),
        (swapped(300, 300, 0, brought_in_mib=800), (Verdict.UNTOUCHED, None)),
        (swapped(300, 250, 0, anon_mib=(500, 450)), (Verdict.PART, None)),
        (swapped(300, 300, 0, anon_mib=(500, 400)), (Verdict.FREED, None)),
        # What was swapped out meanwhile was not given back.
        (swapped(300, 400, 0, anon_mib=(500, 400)), (Verdict.UNTOUCHED, None)),
        (swapped(300, 400, 0, anon_mib=(500, 300)), (Verdict.FREED, None)),
    ],
)
def test_memory_in_swap_is_no_memory_that_became_free(
    readings: tuple[dict[str, Any], ...], expected: tuple[Verdict, Reason | None]
) -> None:
    freed = freed_of(*readings)
    assert (freed.verdict, freed.reason) == expected
    if freed.verdict is Verdict.PART:
        assert freed.sentence == "50.0 MiB of 100 MiB became free for the host, and 50.0 MiB of swap"
    if freed.verdict is Verdict.NOTHING:
        swap_mib = freed.swap_bytes // MIB if freed.swap_bytes else 0
        assert swap_mib in (97, 100)
        assert f"the memory was in swap, of which {swap_mib}" in (freed.sentence or "")


def test_what_faults_brought_in_from_swap_did_not_become_free_there() -> None:
    before, after = swapped(300, 200, 0, anon_mib=(500, 400))
    after["faults"] = {"minor": PAGES // 2, "major": PAGES // 4}
    assert freed_of(before, after).swap_bytes == 25 * MIB


def test_a_group_of_its_own_tells_what_of_swap_was_in_memory() -> None:
    before, after = swapped(300, 200, 90)
    assert verdict(group(before, 500), group(after, 400)) == (Verdict.FREED, None)
    assert verdict(group(before, 500), group(after, 500)) == (Verdict.NOTHING, Reason.SWAPPED)


@pytest.mark.parametrize(
    ("used_mib", "expected"),
    [
        ((900, 800), (Verdict.UNKNOWN, Reason.SWAPPED)),
        ((900, 899), (Verdict.FREED, None)),
        ((900, 950), (Verdict.FREED, None)),
        (None, (Verdict.FREED, None)),
    ],
)
def test_a_file_takes_as_much_in_memory_or_in_swap(
    used_mib: tuple[int, int] | None, expected: tuple[Verdict, Reason | None]
) -> None:
    readings = shared(500, 400)
    for each, size in zip(readings, used_mib or (), strict=False):
        each["swap"] = {"used_bytes": size * MIB, "cached_bytes": 0}
    assert verdict(*readings, of=FILE, calls=REMOVE) == expected


@pytest.mark.parametrize(
    ("merged_mib", "in_group", "expected"),
    [
        (0, False, (Verdict.FREED, None)),
        (5, False, (Verdict.FREED, None)),
        (100, False, (Verdict.UNKNOWN, Reason.MERGED)),
        (100, True, (Verdict.NOTHING, Reason.MERGED)),
    ],
)
def test_pages_that_were_merged_have_other_users(
    merged_mib: int, in_group: bool, expected: tuple[Verdict, Reason | None]
) -> None:
    before, after = anon(500, 400)
    before["merged_pages"] = merged_mib * MIB // 4096
    if in_group:
        before, after = group(before, 500), group(after, 500)
    assert verdict(before, after) == expected

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the host got its memory back: verdicts on calls, by readings beside them and what was named."""

from __future__ import annotations

import errno
from collections.abc import Mapping
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
from people import render_table
from synthetic_host import OFFSET_NS

from balloontrace.analysis.host_sentences import name_what_is_known
from balloontrace.format.vocabulary import Call, Queue
from balloontrace.results.host_memory import Freed, Reason, TakenBack, Verdict


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        (anon(500, 400), (Verdict.FREED, None)),
        (anon(500, 500), (Verdict.UNTOUCHED, None)),
        (anon(500, 460), (Verdict.PART, None)),
        (anon(500, 493), (Verdict.UNTOUCHED, None)),
        # It took back as much meanwhile, or did not give it back at all.
        (anon(500, 500, faults=PAGES), (Verdict.UNKNOWN, Reason.UNCLEAR)),
        (anon(500, 430, faults=PAGES // 2), (Verdict.FREED, None)),
        (anon(500, 470, faults=PAGES), (Verdict.UNKNOWN, Reason.UNCLEAR)),
        (anon(500, 400, pinned_bytes=490 * MIB), (Verdict.NOTHING, Reason.PINNED)),
        (anon(500, 400, locked_bytes=490 * MIB), (Verdict.NOTHING, Reason.PINNED)),
        (anon(500, 400, pinned_bytes=200 * MIB), (Verdict.UNKNOWN, Reason.PINNED)),
        (anon(500, 400, pinned_bytes=10 * MIB), (Verdict.FREED, None)),
    ],
)
def test_memory_of_the_process(
    readings: tuple[dict[str, Any], ...], expected: tuple[Verdict, Reason | None]
) -> None:
    assert verdict(*readings) == expected


def test_a_child_has_what_was_given_back() -> None:
    before, after = anon(500, 400)
    after["children"] = {"7": 500 * MIB}
    assert verdict(before, after) == (Verdict.NOTHING, Reason.CHILD)
    after["children"] = {"7": 50 * MIB}
    assert verdict(before, after)[0] is Verdict.FREED
    after["children"] = {"7": 300 * MIB}
    assert verdict(before, after) == (Verdict.UNKNOWN, Reason.UNCLEAR)


def test_what_is_mapped_by_others_too_may_not_be_free() -> None:
    assert verdict(*anon(500, 400), of={"shared_bytes": 400 * MIB})[0] is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (50, (Verdict.FREED, None)),  # whole
        (100, (Verdict.UNKNOWN, Reason.HUGE_IN_USE)),  # half of each is in use, or half of them
    ],
)
def test_huge_pages_are_free_once_no_part_is_in_use(
    split: int, expected: tuple[Verdict, Reason | None]
) -> None:
    calls = {**DONTNEED, "thp_splits": split}
    assert verdict(*anon(500, 400), calls=calls, of={"huge_bytes": 200 * MIB}) == expected


@pytest.mark.parametrize(
    ("partly_mapped_mib", "swapped", "expected"),
    [
        (0, 0, (Verdict.FREED, None)),
        (2, 0, (Verdict.FREED, None)),
        (60, 0, (Verdict.UNKNOWN, Reason.HUGE_IN_USE)),
        (2, 4096, (Verdict.UNKNOWN, Reason.HUGE_IN_USE)),
        (None, 0, (Verdict.UNKNOWN, Reason.HUGE_IN_USE)),
        (-1, 0, (Verdict.UNKNOWN, Reason.HUGE_IN_USE)),
    ],
)
def test_no_more_is_kept_than_huge_pages_are_partly_mapped(
    partly_mapped_mib: int | None, swapped: int, expected: tuple[Verdict, Reason | None]
) -> None:
    before, after = anon(500, 400, swap_bytes=swapped)
    if partly_mapped_mib is not None:
        after["partly_mapped_bytes"] = partly_mapped_mib * MIB
    freed = freed_of(before, after, calls={**DONTNEED, "thp_splits": 100}, of={"huge_bytes": 200 * MIB})
    assert (freed.verdict, freed.reason) == expected
    if partly_mapped_mib == 2 and not swapped:
        assert freed.least_bytes == 98 * MIB


@pytest.mark.parametrize(
    ("charged", "split", "expected"),
    [
        ((500, 400), 100, (Verdict.FREED, None)),
        ((500, 500), 100, (Verdict.NOTHING, Reason.HUGE_IN_USE)),
        ((500, 500), 0, (Verdict.NOTHING, Reason.HELD)),
    ],
)
def test_a_group_of_its_own_tells_what_became_free(
    charged: tuple[int, int], split: int, expected: tuple[Verdict, Reason | None]
) -> None:
    calls = {**DONTNEED, "thp_splits": split}
    before, after = anon(500, 400)
    own = group(before, charged[0]), group(after, charged[1])
    assert verdict(*own, calls=calls) == expected
    # With somebody else in it, it tells nothing.
    foreign = group(before, charged[0], 99), group(after, charged[1], 99)
    assert verdict(*foreign, calls=calls) == verdict(before, after, calls=calls)


@pytest.mark.parametrize(
    ("sizes", "calls", "expected"),
    [
        ((500, 500), DONTNEED, (Verdict.NOTHING, Reason.SHARED)),
        ((0, 0), DONTNEED, (Verdict.UNTOUCHED, None)),
        ((500, 400), REMOVE, (Verdict.FREED, None)),
        ((500, 500), REMOVE, (Verdict.UNTOUCHED, None)),
        ((500, 460), REMOVE, (Verdict.PART, None)),
        # What little was in use has become free; nobody holds the rest.
        ((500, 493), REMOVE, (Verdict.UNTOUCHED, None)),
    ],
)
def test_shared_memory_is_free_when_its_file_is_smaller(
    sizes: tuple[int, int], calls: Mapping[str, int], expected: tuple[Verdict, Reason | None]
) -> None:
    assert verdict(*shared(*sizes), of=FILE, calls=calls) == expected


def test_what_little_became_free_is_said() -> None:
    assert freed_of(*shared(500, 493), of=FILE, calls=REMOVE).sentence == (
        "7.00 MiB of 100 MiB became free for the host: the rest had not been touched before"
    )
    # The group has as much as before, of which a tenth of the call's memory at most was given back.
    before, after = anon(500, 493)
    assert verdict(group(before, 500), group(after, 500)) == (Verdict.UNTOUCHED, None)


def test_pages_of_hugetlbfs_are_larger_than_what_was_given_back() -> None:
    same = reading(-0.5, hugetlb_bytes=500 * MIB), reading(0.5, hugetlb_bytes=500 * MIB)
    less = reading(-0.5, hugetlb_bytes=500 * MIB), reading(0.5, hugetlb_bytes=400 * MIB)
    in_ranges = {f"calls_{int(Call.MADVISE_DONTNEED)}": 50}
    assert verdict(*same, of=HUGETLB) == (Verdict.NOTHING, Reason.HUGETLB)
    assert verdict(*less, of=HUGETLB, calls=in_ranges) == (Verdict.FREED, None)
    assert verdict(*same, of=HUGETLB, calls=in_ranges) == (Verdict.UNTOUCHED, None)
    assert verdict(*shared(500, 500), of={**HUGETLB, **FILE}, calls=in_ranges)[1] is Reason.SHARED
    assert "2.00 MiB" in (freed_of(*same, of=HUGETLB).sentence or "")


@pytest.mark.parametrize(
    ("of", "number", "reason"),
    [
        ({"locked": True}, errno.EINVAL, Reason.LOCKED),
        (HUGETLB, errno.EINVAL, Reason.HUGETLB),
        ({}, errno.EINVAL, Reason.FAILED),
        ({"locked": True}, errno.ENOMEM, Reason.FAILED),
    ],
)
def test_calls_that_failed_freed_nothing(of: Mapping[str, object], number: int, reason: Reason) -> None:
    calls = {**DONTNEED, "errors": PAGES, "last_errno": number, "madvise_bytes": 0}
    assert verdict(*anon(500, 500), of=of, calls=calls) == (Verdict.NOTHING, reason)


def test_a_private_file_s_pages_stay_in_the_page_cache() -> None:
    of = {"name": "/ram", "file": "08:01:5"}
    read = reading(-0.5, rss_file_bytes=500 * MIB), reading(0.5, rss_file_bytes=400 * MIB)
    assert verdict(*read, of=of) == (Verdict.NOTHING, Reason.PRIVATE_FILE)
    assert verdict(*anon(500, 400), of=of) == (Verdict.FREED, None)
    assert verdict(*anon(500, 500), of=of) == (Verdict.UNTOUCHED, None)


def test_what_the_data_do_not_carry_is_unknown() -> None:
    before, after = anon(500, 400)
    assert verdict(before, after, calls={**DONTNEED, "address": 0}) == (Verdict.UNKNOWN, Reason.NO_REGION)
    assert verdict(before) == (Verdict.UNKNOWN, Reason.NO_READING)
    assert verdict(after) == (Verdict.UNKNOWN, Reason.NO_READING)
    # 64 processors may each have 128 pages that are not added up yet.
    assert verdict(before, after, cpus=64) == (Verdict.UNKNOWN, Reason.TOO_SMALL)
    # This reading had begun before the last call returned.
    late = {**after, "began_ns": OFFSET_NS}
    assert verdict(before, late) == (Verdict.UNKNOWN, Reason.NO_READING)
    report = report_of()
    assert report.host is not None
    assert report.host.periods == ()


def test_what_comes_back_is_tied_to_what_it_follows() -> None:
    readings = (
        reading(-0.5, rss_anon_bytes=400 * MIB, faults=1000),
        reading(0.5, rss_anon_bytes=400 * MIB, faults=1007),
        reading(5.5, rss_anon_bytes=430 * MIB, faults=9007),
        reading(9.5, rss_anon_bytes=500 * MIB, faults=99007),
    )
    calls = {f"calls_{int(Call.MADVISE_WILLNEED)}": PAGES}
    report = report_of(*readings, calls=calls, queue=Queue.DEFLATE)
    period = period_of(report)
    assert (period.what, period.freed) == ("wants back", None)
    taken = period.taken_back
    assert taken is not None
    # From before it until the last reading within some six seconds.
    assert (taken.faults, taken.traced_faults, taken.fault_ns) == (8007, 8007, 700 * 8007)
    assert taken.bytes == 30 * MIB
    assert taken.sentence is not None
    assert taken.sentence in " ".join(render_table(report).split())
    # What gives memory back pays for what is taken from then on.
    after = period_of(report_of(*readings)).taken_back
    assert after is not None
    assert after.faults == 8000


def test_the_report_says_what_was_discarded_and_whether_it_became_free() -> None:
    text = render_table(report_of(*shared(500, 500), of=FILE))
    assert "shared memory" in text
    assert "MADV_DONTNEED only unmaps shared memory" in " ".join(text.split())


def test_operations_say_what_is_known_of_their_memory_and_nothing_of_what_is_not() -> None:
    known = freed_of(*shared(500, 500), of=FILE)
    unknown = Freed(Verdict.UNKNOWN, 1, 0, Reason.NO_READING, sentence="nobody knows")
    taken = TakenBack(0, 9, 5, 7, sentence="7 page faults until 5 ns after it")
    assert name_what_is_known(known, taken, 700, 100) == (known.sentence, taken.sentence)
    assert name_what_is_known(unknown, None, 700, 100) == name_what_is_known(None, None, 700, 100) == ()


@pytest.mark.parametrize(
    ("fault_ns", "bytes_", "stands_out"),
    [(9, 99, False), (10, 99, True), (9, 8192, True), (None, 8192, True), (None, None, True)],
)
def test_what_hardly_came_back_does_not_stand_out(
    fault_ns: int | None, bytes_: int | None, stands_out: bool
) -> None:
    taken = TakenBack(0, 9, 5, 7, fault_ns=fault_ns, bytes=bytes_, sentence="7 page faults")
    assert name_what_is_known(None, taken, 1000, 200) == (("7 page faults",) if stands_out else ())

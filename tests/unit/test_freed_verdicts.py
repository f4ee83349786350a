# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the host got its memory back: verdicts on calls, by readings beside them and what was named."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

import pytest
from people import render_table
from synthetic_host import OFFSET_NS, Batch, host_recording, pack_batch, sampled_record, sampled_recording

from balloontrace.analysis.host_freed import Asked, Beside, judge
from balloontrace.analysis.host_readings import parse_host_readings
from balloontrace.analysis.host_regions import parse_regions
from balloontrace.analysis.host_sentences import name_what_is_known
from balloontrace.analysis.make_report import analyse
from balloontrace.format.vocabulary import BatchFlag, Call, Queue
from balloontrace.results.host_memory import DiscardPeriod, Freed, Reason, TakenBack, Verdict
from balloontrace.results.report import Report

MIB = 1 << 20
PAGES = 25_600
ASKED = PAGES * 4096
START = 0x7F0000000000
SECOND = 1_000_000_000
DONTNEED = {f"calls_{int(Call.MADVISE_DONTNEED)}": PAGES}
REMOVE = {f"calls_{int(Call.MADVISE_DONTNEED)}": 0, f"calls_{int(Call.MADVISE_REMOVE)}": PAGES}
FILE = {"shared": True, "name": "/memfd:guest (deleted)", "file": "00:01:33"}
HUGETLB = {"hugetlb": True, "page_bytes": 2 * MIB}


def region(**facts: object) -> dict[str, object]:
    return {
        "start": START, "end": START + 1024 * MIB, "shared": False, "name": "", "file": None,
        "page_bytes": 4096, "hugetlb": False, "locked": False,
        "rss_bytes": 512 * MIB, "shared_bytes": 0, "huge_bytes": 0, "swap_bytes": 0, **facts,
    }  # fmt: skip


def reading(at_s: float, *, faults: int = 0, file: int | None = None, **memory: int) -> dict[str, Any]:
    """What the process held at a time since the first call, in bytes."""
    at_ns = OFFSET_NS + round(at_s * SECOND)
    files = [] if file is None else [{"name": "x", "file": "00:01:33", "allocated_bytes": file}]
    return {
        "began_ns": at_ns - 1_000_000,
        "monotonic_ns": at_ns,
        "memory": {
            "rss_anon_bytes": 0, "rss_file_bytes": 0, "rss_shmem_bytes": 0, "hugetlb_bytes": 0,
            "swap_bytes": 0, "locked_bytes": 0, "pinned_bytes": 0, **memory, "shared_files": files,
        },
        "faults": {"minor": faults, "major": 0},
        "traced_faults": {"faults": faults, "huge": 0, "fault_ns": 700 * faults, "untimed": 0},
        "children": {},
    }  # fmt: skip


def report_of(
    *readings: Mapping[str, object],
    of: Mapping[str, object] | None = None,
    calls: Mapping[str, int] = DONTNEED,
    cpus: int = 2,
    queue: int = Queue.INFLATE,
) -> Report:
    """A buffer of 100 MiB, given back 10 ms long in a region that is `of` this sort."""
    batch = Batch(OFFSET_NS, OFFSET_NS + SECOND // 100, SECOND // 200, PAGES, queue)
    raw = pack_batch(batch, **{"address": START + 4096, **calls})
    return analyse(
        host_recording(
            [batch],
            raw=raw,
            ended_ns=OFFSET_NS + 20 * SECOND,
            changes={"machine": {"cpus": cpus}, "regions": [region(**(of or {}))]},
            readings=readings,
        )
    )


def period_of(report: Report) -> DiscardPeriod:
    assert report.host is not None
    (period,) = report.host.periods
    return period


def freed_of(*readings: Mapping[str, object], **options: Any) -> Freed:
    freed = period_of(report_of(*readings, **options)).freed
    assert freed is not None
    return freed


def verdict(*readings: Mapping[str, object], **options: Any) -> tuple[Verdict, Reason | None]:
    freed = freed_of(*readings, **options)
    return freed.verdict, freed.reason


def anon(before: int, after: int, *, faults: int = 0, **memory: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Readings before and after with so much anonymous memory, in MiB."""
    return (
        reading(-0.5, rss_anon_bytes=before * MIB, **memory),
        reading(0.5, rss_anon_bytes=after * MIB, faults=faults, **memory),
    )


def sampled(discards_by: str | None, punches: int, each_ns: int = SECOND // 200) -> Freed:
    """The same in two buffers, only one of which has samples inside calls, `punches` of two in fallocate."""
    seen = {
        "first_call_ns": OFFSET_NS + 1, "last_return_ns": OFFSET_NS + 2, "samples_0": 2 - punches,
        "samples_5": punches, "address": START + 4096,
    }  # fmt: skip
    before, after = anon(500, 400)
    end = reading(2 * each_ns / SECOND + 0.5)
    after |= {name: end[name] for name in ("began_ns", "monotonic_ns")}
    raw = b"".join(
        sampled_record(
            kick_ns=OFFSET_NS + begin_ns, done_ns=OFFSET_NS + begin_ns + each_ns, kicked_by=1,
            samples=5, tid=4242, flags=int(BatchFlag.KICK_SEEN | BatchFlag.DONE_SEEN),
            discards=PAGES // 2, discarded_bytes=ASKED // 2, **more,
        )
        for begin_ns, more in ((0, seen), (each_ns, {}))
    )  # fmt: skip
    report = analyse(
        sampled_recording(
            [Batch(OFFSET_NS, OFFSET_NS + 2 * each_ns, each_ns, PAGES, Queue.INFLATE)],
            each_ns // 5,
            raw,
            discards_by=discards_by,
            ended_ns=OFFSET_NS + 20 * SECOND,
            changes={"machine": {"cpus": 2}, "regions": [region()]},
            readings=(before, after),
        )
    )
    freed = period_of(report).freed
    assert freed is not None
    return freed


def test_a_host_alone_that_counted_discards_knows_what_was_asked_for() -> None:
    """But not where a page may be told of twice: by fallocate and by madvise."""
    counted = sampled("kvm_unmap_hva_range", 0)
    assert (counted.verdict, counted.asked_bytes) == (Verdict.FREED, ASKED)
    for unknown in (sampled(None, 0), sampled("kvm_unmap_hva_range", 1)):
        assert (unknown.verdict, unknown.reason) == (Verdict.UNKNOWN, Reason.SAMPLED)
        assert unknown.asked_bytes is None


def test_a_slow_buffer_without_a_sample_inside_a_call_is_no_rest() -> None:
    """Its calls may have been at any time from its kick to its completion."""
    slow = sampled("kvm_unmap_hva_range", 0, 9 * SECOND // 10)
    assert (slow.verdict, slow.asked_bytes) == (Verdict.FREED, ASKED)


def of_samples(
    readings: tuple[dict[str, Any], ...],
    of: Mapping[str, object],
    calls: Mapping[Call, int],
    *,
    discards: int | None = None,
) -> tuple[Verdict, Reason | None]:
    """Of an operation of 100 MiB, by samples of its calls; splits of huge pages are counted with discards."""
    batch = Batch(OFFSET_NS, OFFSET_NS + SECOND // 100, SECOND // 200, PAGES, Queue.INFLATE)
    recording = host_recording([batch], changes={"regions": [region(**of)]}, readings=readings)
    before, after = parse_host_readings(recording)
    regions = parse_regions(recording.metadata, {}).found
    split = None if discards is None else 0
    asked = Asked(calls, 0, 0, ASKED, None, split, discards, sampled=True)
    freed = judge(asked, Beside(regions, before, after, 0, 2), regions)
    assert (freed.calls, freed.errors) == (None, None)
    return freed.verdict, freed.reason


@pytest.mark.parametrize("huge_bytes", [512 * MIB, 0, None])
@pytest.mark.parametrize("partly_mapped_mib", [400, 0, None])
def test_splits_that_nobody_counted_may_keep_all(
    huge_bytes: int | None, partly_mapped_mib: int | None
) -> None:
    """By samples as where the probe of splits is missing."""
    before, after = anon(500, 400)
    after["partly_mapped_bytes"] = None if partly_mapped_mib is None else partly_mapped_mib * MIB
    found = of_samples((before, after), {"huge_bytes": huge_bytes}, {Call.MADVISE_DONTNEED: 7})
    kept = huge_bytes != 0 and partly_mapped_mib != 0
    assert found == ((Verdict.UNKNOWN, Reason.HUGE_IN_USE) if kept else (Verdict.FREED, None))


def test_a_sample_of_no_call_is_no_call_of_madv_free() -> None:
    """Where KVM tells of discards, memory of the process shows what they did; a file may keep it."""
    assert of_samples(anon(500, 400), {}, {}) == (Verdict.UNKNOWN, Reason.SAMPLED)
    assert of_samples(anon(500, 400), {}, {}, discards=PAGES) == (Verdict.FREED, None)
    assert of_samples(shared(500, 400), FILE, {}, discards=PAGES) == (Verdict.UNKNOWN, Reason.SAMPLED)
    assert of_samples(anon(500, 400), {}, {Call.MADVISE_FREE: 2})[0] is Verdict.LATER


def test_what_was_sampled_of_shared_memory_need_not_be_all_of_it() -> None:
    """A hole that no sample hit shows in the file."""
    assert of_samples(shared(500, 400), FILE, {Call.MADVISE_DONTNEED: 7})[0] is Verdict.FREED
    kept = of_samples(shared(500, 500), FILE, {Call.MADVISE_DONTNEED: 7})
    assert kept == (Verdict.NOTHING, Reason.SHARED)


@pytest.mark.parametrize(
    ("of", "may_fail"), [({}, False), ({"locked": True}, True), ({"locked": None}, True), (HUGETLB, True)]
)
def test_calls_that_were_sampled_may_have_failed(of: Mapping[str, object], may_fail: bool) -> None:
    same = tuple(
        {**each, "memory": {**each["memory"], "hugetlb_bytes": 500 * MIB}} for each in anon(500, 500)
    )
    failed = (Verdict.NOTHING, Reason.UNTOUCHED_OR_FAILED)
    calls = {Call.MADVISE_DONTNEED: 7}
    assert of_samples(same, of, calls) == (failed if may_fail else (Verdict.UNTOUCHED, None))
    assert of_samples(same, of, calls, discards=0) == (failed if may_fail else (Verdict.UNTOUCHED, None))
    # What KVM was told of was done.
    told = of_samples(same, of, calls, discards=50)
    assert told == (Verdict.UNTOUCHED, None)


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


def group(at: dict[str, Any], charged: int, *others: int) -> dict[str, Any]:
    stat = {"file": 900 * MIB, "shmem": 100 * MIB, "kernel": 9 * MIB, "sock": 0}
    current = charged * MIB + 800 * MIB + 9 * MIB
    return {**at, "cgroup": {"path": "/vm", "current_bytes": current, "stat": stat, "others": list(others)}}


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


def shared(before: int, after: int, mapped: int = 100) -> tuple[dict[str, Any], dict[str, Any]]:
    """Readings with so much in the file behind shared memory, in MiB, of which some is unmapped meanwhile."""
    return (
        reading(-0.5, rss_shmem_bytes=500 * MIB, file=before * MIB),
        reading(0.5, rss_shmem_bytes=(500 - mapped) * MIB, file=after * MIB),
    )


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

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the host got its memory back, by samples of calls: no verdict rests on what was not counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from memory_readings import (
    ASKED,
    FILE,
    HUGETLB,
    MIB,
    PAGES,
    SECOND,
    START,
    anon,
    period_of,
    reading,
    region,
    shared,
)
from synthetic_host import OFFSET_NS, Batch, host_recording, sampled_record, sampled_recording

from balloontrace.analysis.host_evidence import Asked, Beside
from balloontrace.analysis.host_freed import judge
from balloontrace.analysis.host_readings import parse_host_readings
from balloontrace.analysis.host_regions import parse_regions
from balloontrace.analysis.make_report import analyse
from balloontrace.format.vocabulary import BatchFlag, Call, Queue
from balloontrace.results.host_memory import Freed, Reason, Verdict
from balloontrace.results.recording_header import Machine


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
    freed = judge(asked, Beside(regions, before, after, 0, Machine(cpus=2)), regions)
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

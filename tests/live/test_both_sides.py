# SPDX-License-Identifier: GPL-2.0-or-later
"""Both sides of QEMU's balloon: they count the same, stages add up, and faults are not reported as right.

One recorder in the guest sees the whole course; recorders in the host see all of it or parts.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostserve import WARM_UP, Server, build_hostserve
from pairs import (
    COUNTERS,
    DONTNEED,
    MOVE_S,
    SPLIT,
    UNSPLIT,
    assert_refused,
    booted,
    host_calls,
    read_batches,
    report_both,
    top_stages,
    top_sum_ns,
    touch_memory,
)
from tracing import (
    ATTACHED,
    MIB_PAGES,
    PAGE_BYTES,
    ROOT,
    Json,
    Recorder,
    assert_sums,
    assert_whole,
    balloontrace,
    change,
    loss,
    move,
    outcomes,
    report,
    stage,
    start_recording,
    wait_below,
)

import lab
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Call
from balloontrace.units import format_count
from lab.bpftrace import bpftraced, start_bpftrace

FULL_MIB = 1536
WHOLE_MIB = 521
LATE_MIB = 251
EARLY_MIB = 307
BEGUN_MIB = 60
SEND_PAGES = 256
OTHER_SENDS = 61
FEW = 10
# Four recorders that set up at once in two emulated CPUs have taken 340 s on a busy machine.
LATE_S = 1800
# In the host: the time of the calls that give pages back. At the function, not at the tracepoints around it,
# as the recorder's programs are: either then sees a half of the other's cost. `__unused` is what the kernel's
# type information calls the registers.
TIME_MADVISE = """
interval:ms:100 {{ @before = 1; }}
fentry:vmlinux:__x64_sys_madvise /tid == {pid} && args.__unused->dx == {advice}/ {{ @start = nsecs; }}
fexit:vmlinux:__x64_sys_madvise /tid == {pid} && @start/ {{
    @ns = sum(nsecs - @start); @calls = count(); @start = 0;
}}
interval:ms:150 /@before/ {{ printf("counting\\n"); }}
"""
# In the host: stops the VMM (19 is SIGSTOP) the moment it has given so many pages back, and again at so many
# more. Nobody outside is fast enough for that: an inflate of 251 MiB has ended before a shell had started.
STOP_VMM = """
interval:ms:100 {{ @before = 1; }}
fentry:vmlinux:__x64_sys_madvise /tid == {pid} && args.__unused->dx == {advice}/ {{
    @pages += 1;
    if (@pages == {first} || @pages == {second}) {{ signal(19); printf("stopped at %d\\n", @pages); }}
}}
interval:ms:150 /@before/ {{ printf("counting\\n"); }}
"""


@dataclass(frozen=True)
class Course:
    """What was done to a guest, and what was recorded of it."""

    guest: Path
    host: Path
    parts: Path
    full: Path
    other: Path
    killed: Recorder
    vmm_pid: int
    timed: dict[str, int]
    pages: list[int]
    actual_bytes: int


@pytest.fixture(scope="module")
def pair() -> Iterator[lab.Nested]:
    with booted(memory_mib=FULL_MIB) as both:
        yield both


@pytest.fixture(scope="module")
def course(pair: lab.Nested, tmp_path_factory: pytest.TempPathFactory) -> Course:
    """An inflate and a deflate seen whole; then recorders come in the middle, and one ends in the middle."""
    host, guest = pair.host, pair.guest
    folder = tmp_path_factory.mktemp("sides")
    vmm = str(pair.vmm_pid)
    build_hostserve(host)
    touch_memory(guest)
    # One after the other: both setting up at once in one emulated CPU takes far longer.
    in_host = start_recording(host, "/root/host.bt", "--side", "host", "-p", vmm).wait_attached()
    in_guest = start_recording(guest, "/root/guest.bt").wait_attached()

    before = guest.vmstat()
    with bpftraced(host, TIME_MADVISE.format(pid=vmm, advice=DONTNEED)) as timed:
        move(guest, FULL_MIB - WHOLE_MIB, MOVE_S)
    actual_bytes = guest.qmp("query-balloon")["actual"]
    move(guest, FULL_MIB, MOVE_S)
    pages = change(before, guest.vmstat(), COUNTERS)

    # So that an inflate is under way when recorders come and go; QMP stop would stop the guest's clock too.
    stops = [BEGUN_MIB * MIB_PAGES, (LATE_MIB + BEGUN_MIB) * MIB_PAGES]
    stopper = start_bpftrace(
        host, STOP_VMM.format(pid=vmm, advice=DONTNEED, first=stops[0], second=stops[1]), "--unsafe"
    )
    guest.set_balloon(target_mib=FULL_MIB - LATE_MIB)
    stopper.wait_for(b"stopped at %d" % stops[0], MOVE_S, stream="stdout")
    other = Server(host, "other")
    late = [
        start_recording(host, "/root/parts.bt", "-p", vmm),
        start_recording(host, "/root/full.bt", "-p", vmm, "--buffer", "4K"),
        start_recording(host, "/root/killed.bt", "-p", vmm),
        start_recording(host, "/root/other.bt", "-p", str(other.pid)),
    ]
    for recorder in late:
        recorder.process.wait_for(ATTACHED, LATE_S)
    parts, full, killed, of_other = late
    # A send within 50 ms of a recording's ends may be from outside it, and counts for neither (START_NS).
    host.run(["sleep", "1"], check=True)
    full.process.signal(signal.SIGSTOP)
    host.run(["kill", "-CONT", vmm], check=True)
    other.serve(WARM_UP, *[f"dontneed {SEND_PAGES}"] * OTHER_SENDS)
    guest.wait_balloon(timeout_s=MOVE_S)
    of_other.end()
    other.end()
    move(guest, FULL_MIB, MOVE_S)

    guest.set_balloon(target_mib=FULL_MIB - EARLY_MIB)
    stopper.wait_for(b"stopped at %d" % stops[1], MOVE_S, stream="stdout")
    parts.end()
    stopper.signal(signal.SIGINT)
    stopper.wait(60, check=True)
    host.run(["kill", "-CONT", vmm], check=True)
    guest.wait_balloon(timeout_s=MOVE_S)
    full.process.signal(signal.SIGCONT)
    move(guest, FULL_MIB, MOVE_S)
    host.run(["sleep", "1"], check=True)
    for recorder in (full, in_host, in_guest):
        recorder.end()
    return Course(
        guest=in_guest.pull(folder),
        host=in_host.pull(folder),
        parts=parts.pull(folder),
        full=full.pull(folder),
        other=of_other.pull(folder),
        killed=killed,
        vmm_pid=pair.vmm_pid,
        timed=timed,
        pages=pages,
        actual_bytes=actual_bytes,
    )


@pytest.fixture(scope="module")
def found(course: Course) -> Json:
    return report_both(course.guest, course.host)


def test_driver_qemu_and_both_recordings_count_the_same(course: Course, found: Json) -> None:
    assert_whole(found)
    moved = [WHOLE_MIB * MIB_PAGES, LATE_MIB * MIB_PAGES, EARLY_MIB * MIB_PAGES]
    assert outcomes(found) == [(kind, "reached", pages) for pages in moved for kind in ("inflate", "deflate")]
    assert course.pages == [moved[0], moved[0]]
    assert course.actual_bytes == FULL_MIB - WHOLE_MIB << 20
    assert course.timed["@calls"] == moved[0]
    host = found["host"]
    batches = read_batches(course.host)
    of_device = batches.int64("tid") == course.vmm_pid  # others give their stacks back when they end
    for call in (Call.MADVISE_DONTNEED, Call.MADVISE_WILLNEED):
        assert batches.calls(call)[of_device].sum() == sum(moved)
        assert host_calls(found, call)["calls"] == batches.calls(call).sum()
    assert batches.int64("madvise_bytes")[of_device].sum() == 2 * sum(moved) * PAGE_BYTES
    sends = sum(operation["sends"] for operation in found["operations"])
    assert sends == 2 * sum(moved) // SEND_PAGES
    pairing = host["pairing"]
    assert of_device.sum() == pairing["batches"] == pairing["pairs"] == sends
    # The kernel leaves a program out that would interrupt another on the same CPU.
    print(f"{pairing['delimited']} of {sends} delimited")
    assert pairing["delimited"] >= sends - FEW
    assert host["process"].startswith(f"{course.vmm_pid} (")
    assert (host["complete"], host["events_lost"]) == (True, 0)


def test_four_stages_add_up(course: Course, found: Json) -> None:
    assert_sums(found)
    for operation in found["operations"]:
        assert top_stages(operation) == SPLIT
        assert top_sum_ns(operation) == operation["wall_ns"]
        assert stage(operation, "d")["count"] == operation["sends"]
    batches = read_batches(course.host)
    of_device = batches.int64("tid") == course.vmm_pid
    spent_ns = sum(stage(operation, "d")["total_ns"] for operation in found["operations"])
    assert spent_ns == batches.int64("calls_ns")[of_device].sum()


def test_bpftrace_measures_the_same_d(course: Course, found: Json) -> None:
    d_ns = stage(found["operations"][0], "d")["total_ns"]
    print(d_ns / course.timed["@ns"])
    assert d_ns == pytest.approx(course.timed["@ns"], rel=0.05)


def test_only_what_was_wholly_seen_is_split(course: Course) -> None:
    found = report_both(course.guest, course.parts)
    assert_sums(found)
    assert [top_stages(each) for each in found["operations"]] == [
        UNSPLIT, UNSPLIT, UNSPLIT, SPLIT, UNSPLIT, UNSPLIT,
    ]  # fmt: skip
    pairing = found["host"]["pairing"]
    first, wanted = (found["operations"][number]["sends"] for number in (2, 3))
    assert wanted < pairing["pairs"] < wanted + first + found["operations"][4]["sends"]
    assert pairing["batches"] <= pairing["pairs"] + 1


def test_what_is_split_is_the_same_by_either_recording(course: Course, found: Json) -> None:
    mine, theirs = (each["operations"][3] for each in (found, report_both(course.guest, course.parts)))
    assert mine["wall_ns"] == theirs["wall_ns"]
    print(stage(mine, "d")["total_ns"] / stage(theirs, "d")["total_ns"])
    assert stage(mine, "d")["total_ns"] == pytest.approx(stage(theirs, "d")["total_ns"], rel=0.2)


def test_what_a_full_ring_lost_is_said_and_never_matched(course: Course) -> None:
    """The rest is matched where it is proved, as it would be had nothing been lost; else all are refused."""
    alone = report(course.full)
    lost = loss({"losses": alone["host"]["losses"]}, "batches")["lost"]
    assert lost > 0
    assert any(f"of batches {format_count(lost)} were lost" in each for each in alone["warnings"])
    done = balloontrace("report", "--format", "json", course.guest, course.full)
    if done.returncode:
        said = assert_refused(course.guest, course.full)
        assert f"{format_count(lost)} buffers that the host served were lost" in said
        return
    found, whole = json.loads(done.stdout), report_both(course.guest, course.host)
    pairing, all_pairs = (each["host"]["pairing"] for each in (found, whole))
    kept, served = read_batches(course.full), read_batches(course.host)
    begun_ns = served.int64("first_call_ns")
    seen = (begun_ns > moment_ns(course.full, "started")) & (begun_ns < moment_ns(course.full, "ended"))
    assert lost == seen.sum() - len(kept)
    kept_of_device = (kept.int64("tid") == course.vmm_pid).sum()
    assert pairing["pairs"] == pairing["batches"] == kept_of_device > 0
    # Some of the lost ones may be those of threads that gave their stacks back.
    lost_of_device = (seen & (served.int64("tid") == course.vmm_pid)).sum() - kept_of_device
    assert (pairing["sends_alone"], pairing["batches_alone"]) == (lost_of_device, 0)
    apart_ns = abs(pairing["clock_offset_ns"] - all_pairs["clock_offset_ns"])
    assert apart_ns <= pairing["clock_error_ns"] + all_pairs["clock_error_ns"]
    assert any("b+c+d" in top_stages(operation) for operation in found["operations"])


def moment_ns(recording: Path, name: str) -> int:
    """When a recording "started" or "ended", by its host's monotonic clock."""
    read = read_recording(recording)
    moments: Json = {**read.metadata, **(read.end or {})}
    return int(moments[name]["monotonic_ns"])


def test_a_process_that_serves_another_at_the_same_time_is_refused(course: Course) -> None:
    assert host_calls(report(course.other), Call.MADVISE_DONTNEED)["calls"] == OTHER_SENDS * SEND_PAGES
    assert "do not belong together" in assert_refused(course.guest, course.other)


def test_another_guest_is_refused(course: Course) -> None:
    for example in ("stock-inflate.bt", "stock-deflate.bt"):
        assert_refused(ROOT / "examples" / example, course.host)


def test_a_vmm_killed_in_the_middle(pair: lab.Nested, course: Course, tmp_path: Path) -> None:
    pair.guest.set_balloon(target_mib=FULL_MIB - EARLY_MIB)
    wait_below(pair.guest, FULL_MIB - BEGUN_MIB, MOVE_S)
    pair.host.run(["kill", "-KILL", str(pair.vmm_pid)], check=True)
    done = course.killed.wait()
    assert done.status == 0, done.describe()
    assert "balloontrace: process exited: " in done.stderr
    recording = course.killed.pull(tmp_path)
    alone = report(recording)
    assert (alone["complete"], alone["ended"]) == (True, "process exited")
    assert alone["events_lost"] == 0
    assert alone["host"]["calls_in_batches"] == sum(row["calls"] for row in alone["host"]["calls"])
    # The guest's recording ended before that: the rest of it is split as far as it was seen.
    both = report_both(course.guest, recording)
    assert_sums(both)
    assert [top_stages(each) for each in both["operations"]] == [UNSPLIT] * 3 + [SPLIT] * 3

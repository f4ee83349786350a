# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page reporting in a guest, against what QEMU says it gave back for it."""

from __future__ import annotations

import re
import signal
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from memory_use import use_memory
from tracing import (
    ATTACH_S,
    MIB_PAGES,
    PAGE_BYTES,
    Json,
    Recorder,
    assert_no_trace,
    assert_sums,
    assert_whole,
    balloontrace,
    move,
    report,
    start_recording,
)

import lab
from balloontrace.analysis.guest_side import GuestEvents
from balloontrace.analysis.make_report import examine
from balloontrace.analysis.page_reports import blocks_by_order, reported
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Function

GUEST_MIB, USED_MIB, MOVED_MIB = 1536, 900, 61
DELAY_NS = 2 * 10**9  # PAGE_REPORTING_DELAY in mm/page_reporting.c
# The first one frees most memory while it sets up.
WAYS = {"bcc": ("--engine", "bcc"), "prebuilt": (), "kprobe": ("--attach", "kprobe")}
# Uses and frees memory over and over for so many nanoseconds; prints when it began to free it, each time.
FREEING = """
import mmap, sys, time
until_ns = time.monotonic_ns() + int(sys.argv[1])
while time.monotonic_ns() < until_ns:
    memory = mmap.mmap(-1, 96 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    print(time.monotonic_ns())
    memory.close()
    time.sleep(0.05)
"""

# ram_block_discard_range in QEMU's trace-events
_DISCARD = re.compile(r"ram_block_discard_range \S+@0x([0-9a-f]+) \+ (0x[0-9a-f]+): .* (-?\d+)$")


class Discards:
    """What QEMU says it discarded of the guest's memory, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_blocks(self) -> list[tuple[int, int]]:
        """Address in QEMU and size in bytes of each."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        found = [match for line in lines if (match := _DISCARD.search(line))]
        assert {match[3] for match in found} <= {"0"}
        return [(int(match[1], 16), int(match[2], 16)) for match in found]

    def read(self) -> list[int]:
        return [size_bytes for _, size_bytes in self.read_blocks()]

    def of_reports(self) -> list[int]:
        """The balloon's are single pages, and no block is that small."""
        return [size_bytes for size_bytes in self.read() if size_bytes > PAGE_BYTES]


@pytest.fixture(scope="module")
def reporting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[lab.Guest, Discards]]:
    log = tmp_path_factory.mktemp("qemu") / "trace.log"
    told = ("-trace", "ram_block_discard_range", "-D", str(log), "-object", "iothread,id=hints")
    # Hints are asked for in migrations alone (test_page_hinting); here every engine attaches their probes.
    balloon = {"free-page-reporting": "on", "free-page-hint": "on", "iothread": "hints"}
    with lab.solo(memory_mib=GUEST_MIB, cpus=1, balloons=[balloon], extra_args=told) as guest:
        yield guest, Discards(log)
        assert_no_trace(guest)


@dataclass(frozen=True)
class Course:
    """Memory freed twice, then once more while the balloon moves: recorded in three ways at once."""

    recordings: dict[str, Path]
    discards: Discards
    discarded: list[tuple[int, int]]  # of reports alone
    before: int  # so many of them were there when all recorders had come
    after: int
    first_ns: int
    second_ns: int
    third_ns: int


@pytest.fixture(scope="module")
def course(reporting: tuple[lab.Guest, Discards], tmp_path_factory: pytest.TempPathFactory) -> Course:
    """Two tests read it, since a recorder takes long to attach with bcc under emulation."""
    guest, discards = reporting
    folder = tmp_path_factory.mktemp("reports")
    # In use before anything is recorded: no report of the recording has named it.
    user = start_using(guest)
    ways = {f"/root/{name}.bt": ("--capture", "payload", *words) for name, words in WAYS.items()}
    recorders = record_at_rest(guest, discards, ways)
    wait_until_all_is_reported(guest, discards)
    before = len(discards.of_reports())
    first_ns = read_clock(guest)
    free_and_have_reported(guest, discards, user)
    user.kill()
    second_ns = read_clock(guest)
    user = start_using(guest)
    free_and_have_reported(guest, discards, user)
    user.kill()
    third_ns = read_clock(guest)
    user = start_using(guest)
    free_and_have_reported(guest, discards, user, moved_mib=MOVED_MIB)
    after = len(discards.of_reports())
    end_at_rest(guest, discards, recorders)
    blocks = [(address, size) for address, size in discards.read_blocks() if size > PAGE_BYTES]
    recordings = {recorder.path: recorder.pull(folder) for recorder in recorders}
    user.kill()
    return Course(recordings, discards, blocks, before, after, first_ns, second_ns, third_ns)


def test_reported_is_what_qemu_gave_back(course: Course) -> None:
    """900 MiB used and freed over and over, and the balloon moved meanwhile."""
    told = [size_bytes for _, size_bytes in course.discarded]
    for path in course.recordings.values():
        found = report(path)
        assert_whole(found)
        assert_sums(found)
        assert_is_told(found, path, told, course.before, course.after)
        hinting = found["page_hinting"]
        assert (hinting["operations"], hinting["unknown_calls"], hinting["calls"] > 0) == ([], 0, True)
        inflate = [each for each in found["operations"] if each["kind"] == "inflate"]
        assert [each["pages"] for each in inflate] == [MOVED_MIB * MIB_PAGES]
    single_pages = [size_bytes for size_bytes in course.discards.read() if size_bytes == PAGE_BYTES]
    assert len(single_pages) == MOVED_MIB * MIB_PAGES
    print(balloontrace("report", course.recordings["/root/prebuilt.bt"]).stdout)


def test_memory_that_is_reported_again(course: Course) -> None:
    """Memory freed for the first time, used and freed again: block by block what QEMU gave back."""
    told = course.discarded
    for path in course.recordings.values():
        found = report(path)
        said, guest_side = found["page_reporting"], examine(read_recording(path)).guest
        assert guest_side is not None
        reported_blocks = blocks_captured(guest_side)
        (first,) = [
            first
            for first in range(len(told) - len(reported_blocks) + 1)
            if relative(told[first : first + len(reported_blocks)]) == relative(reported_blocks)
        ]
        blocks = told[first : first + len(reported_blocks)]
        assert said["blocks"] == len(blocks)
        assert said["pages"] * PAGE_BYTES == sum(size for _, size in blocks)
        assert said["pages_again"] * PAGE_BYTES == bytes_again(blocks)
        assert said["again_ratio"] == said["pages_again"] / said["pages"]
        reports = guest_side.reports
        starts_ns = guest_side.spans.int64("start_ns")[reports.span]
        first_time = (starts_ns >= course.first_ns) & (starts_ns < course.second_ns)
        second_time = (starts_ns >= course.second_ns) & (starts_ns < course.third_ns)
        print(
            [
                (int(reports.pages_again[rows].sum()), int(reports.pages[rows].sum()))
                for rows in (first_time, second_time)
            ]
        )
        # A block that grows together with one reported before takes that along, as QEMU's count shows.
        assert reports.pages_again[first_time].sum() < reports.pages[first_time].sum() / 20
        # Of the guest's memory the second use cannot but take what the first one had.
        assert reports.pages_again[second_time].sum() > (2 * USED_MIB - GUEST_MIB) * MIB_PAGES
        assert 0 < said["cycles_again"] <= said["cycles"]


def test_cycles_are_one_delay_apart(reporting: tuple[lab.Guest, Discards], tmp_path: Path) -> None:
    """The first block that becomes free after a cycle is the reason for the next, one delay later."""
    guest, discards = reporting
    (recorder,) = record_at_rest(guest, discards, {"/root/cycles.bt": ()})
    before = len(discards.of_reports())
    ran = guest.run(["python3", "-c", FREEING, str(5 * DELAY_NS)], timeout_s=ATTACH_S, check=True)
    after = len(discards.of_reports())
    end_at_rest(guest, discards, [recorder])
    frees_ns = list(map(int, ran.stdout.split()))
    path = recorder.pull(tmp_path)
    guest_side = examine(read_recording(path)).guest
    assert guest_side is not None
    of_cycles = guest_side.spans.of(Function.PAGE_REPORTING_PROCESS)
    starts_ns = guest_side.spans.int64("start_ns")[of_cycles]
    took_ns = int(guest_side.spans.int64("duration_ns")[of_cycles].mean())
    meanwhile = (starts_ns >= frees_ns[0]) & (starts_ns <= frees_ns[-1])
    expected = count_cycles(frees_ns, took_ns)
    print(meanwhile.sum(), "cycles where", expected, "are expected")
    assert expected >= 2
    assert abs(int(meanwhile.sum()) - expected) <= 1
    # The course above keeps what was named, too; here nothing but counts is recorded.
    found = report(path)
    assert_whole(found)
    assert_is_told(found, path, discards.of_reports(), before, after)


def record_at_rest(guest: lab.Guest, discards: Discards, ways: Mapping[str, Sequence[str]]) -> list[Recorder]:
    """Recorders by path, with options; the first one sets up alone, the others at once behind it.

    They come and go while nothing is reported. Else a cycle under way is cut: some of its reports are
    recorded without it, and another recorder may miss its return (bpf_tramp_image_put).
    """
    recorders: list[Recorder] = []
    for some in (list(ways.items())[:1], list(ways.items())[1:]):
        wait_until_all_is_reported(guest, discards)
        coming = [start_recording(guest, path, *options) for path, options in some]
        recorders += [recorder.wait_attached() for recorder in coming]
    return recorders


def end_at_rest(guest: lab.Guest, discards: Discards, recorders: Sequence[Recorder]) -> None:
    """All at once: what one frees is reported after a delay."""
    wait_until_all_is_reported(guest, discards)
    for recorder in recorders:
        recorder.process.signal(signal.SIGINT)
    for recorder in recorders:
        done = recorder.wait()
        assert done.status == 0, done.describe()


def wait_until_all_is_reported(guest: lab.Guest, discards: Discards) -> None:
    """Until two delays of page reporting have passed without a report."""
    before = -1
    while before < (before := len(discards.of_reports())):
        guest.run(["sleep", str(2 * DELAY_NS // 10**9)], check=True)


def read_clock(guest: lab.Guest) -> int:
    """The clock of the guest's spans."""
    return int(guest.run(["python3", "-c", "import time; print(time.monotonic_ns())"], check=True).stdout)


def start_using(guest: lab.Guest) -> lab.GuestProcess:
    """A program that uses memory by now."""
    user = use_memory(guest, USED_MIB)
    user.wait_for(b"used", ATTACH_S, stream="stdout")
    return user


def free_and_have_reported(
    guest: lab.Guest, discards: Discards, user: lab.GuestProcess, moved_mib: int = 0
) -> None:
    """Has a program free its memory, and waits until most of that has been reported.

    So much of it goes into the balloon meanwhile.
    """
    before = len(discards.of_reports())
    user.signal(signal.SIGUSR1)
    user.wait_for(b"freed", ATTACH_S, stream="stdout")
    if moved_mib:
        move(guest, GUEST_MIB - moved_mib)
    freed_bytes = USED_MIB - moved_mib << 20
    guest.wait_until(
        lambda: sum(discards.of_reports()[before:]) > 0.9 * freed_bytes, 300, what="reports of what was freed"
    )


def blocks_captured(guest_side: GuestEvents) -> list[tuple[int, int]]:
    """Place and size in bytes of each block of the reports."""
    data = b"".join(payload.data for payload in guest_side.payloads.of_reports)
    return [(page * PAGE_BYTES, size) for page, size, _ in struct.iter_unpack("<QII", data)]


def relative(blocks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Places counted from the first one."""
    return [(place - blocks[0][0], size) for place, size in blocks]


def bytes_again(blocks: Sequence[tuple[int, int]]) -> int:
    """How much of these lies where one before lay; all have whole units of the smallest one."""
    unit = min(size for _, size in blocks)
    units = [place + offset for place, size in blocks for offset in range(0, size, unit)]
    return (len(units) - len(set(units))) * unit


def count_cycles(frees_ns: Sequence[int], took_ns: int) -> int:
    """So many cycles begin until the last of these, each a delay after the first since the one before."""
    cycles, next_ns = 0, frees_ns[0] + DELAY_NS
    for free_ns in frees_ns:
        if free_ns >= next_ns:
            cycles += 1
            next_ns = max(free_ns, next_ns + took_ns) + DELAY_NS
    return cycles


def assert_is_told(found: Json, path: Path, told: Sequence[int], before: int, after: int) -> None:
    """Its reports are so many of QEMU's discards, block by block, none missing while it was recorded."""
    assert found["page_reporting"] is not None, found["header"]["probes"]
    guest = examine(read_recording(path)).guest
    assert guest is not None
    counts = blocks_by_order(guest.spans, reported(guest.spans)).tolist()
    reports = [
        {PAGE_BYTES << order: blocks for order, blocks in enumerate(each) if blocks} for each in counts
    ]
    blocks = sum(sum(each.values()) for each in reports)
    firsts = [first for first in range(before + 1) if follow(reports, told[first:])]
    assert firsts, (reports[:3], Counter(told))
    first = firsts[-1]
    assert first + blocks >= after
    said = found["page_reporting"]
    assert (said["blocks"], said["failed"]) == (blocks, 0)
    assert said["pages"] * PAGE_BYTES == sum(told[first : first + blocks])
    assert said["from_order"] is not None
    assert said["transport_ns"] + said["worker_ns"] == said["cycles_ns"]
    starts_ns = guest.spans.int64("start_ns")[guest.spans.of(Function.PAGE_REPORTING_PROCESS)]
    assert said["cycles"] == len(starts_ns)
    cycles = said["each_cycle"]
    assert [cycle["started_ns"] for cycle in cycles] == starts_ns.tolist()
    for name in ("reports", "blocks", "pages", "worker_ns", "transport_ns"):
        assert sum(cycle[name] for cycle in cycles) == said[name], name
    assert all(cycle["worker_ns"] + cycle["transport_ns"] == cycle["wall_ns"] for cycle in cycles)
    assert said["cycles"] - 1 <= (starts_ns[-1] - starts_ns[0]) / DELAY_NS + 1


def follow(reports: Sequence[dict[int, int]], told: Sequence[int]) -> bool:
    """Whether QEMU discarded the blocks of each report, one report after the other."""
    place = 0
    for each in reports:
        count = sum(each.values())
        if Counter(told[place : place + count]) != each:
            return False
        place += count
    return True

# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page reporting in a guest, against what QEMU says it gave back for it."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from memory_use import use_memory
from tracing import (
    ATTACH_S,
    MIB_PAGES,
    PAGE_BYTES,
    Json,
    assert_no_trace,
    assert_sums,
    assert_whole,
    balloontrace,
    move,
    report,
    start_recording,
)

import lab
from balloontrace.analysis.make_report import examine
from balloontrace.analysis.page_reports import blocks_by_order, reported
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Function

GUEST_MIB, USED_MIB, MOVED_MIB = 1536, 900, 61
DELAY_NS = 2 * 10**9  # PAGE_REPORTING_DELAY in mm/page_reporting.c
WAYS = {"prebuilt": (), "bcc": ("--engine", "bcc"), "kprobe": ("--attach", "kprobe")}
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
_DISCARD = re.compile(r"ram_block_discard_range \S+@0x[0-9a-f]+ \+ (0x[0-9a-f]+): .* (-?\d+)$")


class Discards:
    """What QEMU says it discarded of the guest's memory, in order: block sizes in bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[int]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        found = [match for line in lines if (match := _DISCARD.search(line))]
        assert {match[2] for match in found} <= {"0"}
        return [int(match[1], 16) for match in found]

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


def test_reported_is_what_qemu_gave_back(reporting: tuple[lab.Guest, Discards], tmp_path: Path) -> None:
    """900 MiB used and freed, and the balloon moved meanwhile: recorded in three ways at once."""
    guest, discards = reporting
    recorders = [start_recording(guest, f"/root/{name}.bt", *words) for name, words in WAYS.items()]
    for recorder in recorders:
        recorder.wait_attached()
    before = discards.of_reports()
    user = use_memory(guest, USED_MIB)
    user.wait_for(b"used", ATTACH_S, stream="stdout")
    used = discards.of_reports()
    user.signal(signal.SIGUSR1)
    user.wait_for(b"freed", ATTACH_S, stream="stdout")
    move(guest, GUEST_MIB - MOVED_MIB)
    freed_bytes = (USED_MIB - MOVED_MIB) * MIB_PAGES * PAGE_BYTES
    guest.wait_until(
        lambda: sum(discards.of_reports()[len(used) :]) > 0.9 * freed_bytes,
        300,
        what="reports of what was freed",
    )
    after = discards.of_reports()
    for recorder in recorders:
        recorder.end()
    told = discards.of_reports()
    for recorder in recorders:
        path = recorder.pull(tmp_path)
        found = report(path)
        assert_whole(found)
        assert_sums(found)
        assert_is_told(found, path, told, len(before), len(after))
        hinting = found["page_hinting"]
        assert (hinting["operations"], hinting["unknown_calls"], hinting["calls"] > 0) == ([], 0, True)
        inflate = [each for each in found["operations"] if each["kind"] == "inflate"]
        assert [each["pages"] for each in inflate] == [MOVED_MIB * MIB_PAGES]
    single_pages = [size_bytes for size_bytes in discards.read() if size_bytes == PAGE_BYTES]
    assert len(single_pages) == MOVED_MIB * MIB_PAGES
    print(balloontrace("report", tmp_path / "prebuilt.bt").stdout)
    user.kill()


def test_cycles_are_one_delay_apart(reporting: tuple[lab.Guest, Discards], tmp_path: Path) -> None:
    """The first block that becomes free after a cycle is the reason for the next, one delay later."""
    guest, _ = reporting
    recorder = start_recording(guest, "/root/cycles.bt").wait_attached()
    ran = guest.run(["python3", "-c", FREEING, str(5 * DELAY_NS)], timeout_s=ATTACH_S, check=True)
    recorder.end()
    frees_ns = list(map(int, ran.stdout.split()))
    guest_side = examine(read_recording(recorder.pull(tmp_path))).guest
    assert guest_side is not None
    of_cycles = guest_side.spans.of(Function.PAGE_REPORTING_PROCESS)
    starts_ns = guest_side.spans.int64("start_ns")[of_cycles]
    took_ns = int(guest_side.spans.int64("duration_ns")[of_cycles].mean())
    meanwhile = (starts_ns >= frees_ns[0]) & (starts_ns <= frees_ns[-1])
    expected = count_cycles(frees_ns, took_ns)
    assert expected >= 2
    assert abs(int(meanwhile.sum()) - expected) <= 1


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

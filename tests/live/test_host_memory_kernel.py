# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel does of its own with memory that a balloon gives back: huge pages, merged pages, swap."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backings import BYTES, FREED, NOTHING, UNKNOWN, WARM_UP, Backings, Case, discards, expect, judge
from tracing import report, shell, start_recording

import lab
from balloontrace.system.process_memory import parse_regions

IN_SWAP, MERGED = "in swap", "merged with other pages"
CASES = (
    Case("swapped out", ("touch anon", "pageout anon"), "anon dontneed 1", NOTHING, IN_SWAP, 0),
    Case("not swapped out", ("touch anon",), "anon dontneed 1", FREED, None, 1),
    # A file takes as much, be it in memory or in swap.
    Case("memfd swapped out", ("touch memfd", "pageout memfd"), "memfd remove 1", UNKNOWN, IN_SWAP, 0),
    Case("memfd not swapped out", ("touch memfd",), "memfd remove 1", FREED, None, 1),
    # Merged pages are few: what they were before is free already.
    Case("merged", ("touch ksm", "merge"), "ksm dontneed 1", NOTHING, MERGED, 0),
)
# Without a group of its own a process may have had the last of the pages that are the same.
UNKNOWN_WITHOUT_GROUP = {"merged"}
# What was written to a disk stays in memory until somebody needs that; a group is charged for it.
WRITTEN = (
    Case("written to a disk", ("touch anon", "pageout anon"), "anon dontneed 1", FREED, None, 1),
    Case("memfd written", ("touch memfd", "pageout memfd"), "memfd remove 1", UNKNOWN, IN_SWAP, 1),
)
WRITTEN_WITHOUT_GROUP = (
    Case("written to a disk", ("touch anon", "pageout anon"), "anon dontneed 1", UNKNOWN, IN_SWAP, 1),
)
KSM, SWAP, ZRAM = "/sys/kernel/mm/ksm", "/root/swap", "zram0"
SWAP_ON = f"fallocate -l 200M {SWAP} && chmod 600 {SWAP} && mkswap -q {SWAP} && swapon {SWAP}"
# It compresses what it is given, at once: nothing of it stays in memory.
ZRAM_ON = (
    f"modprobe zram && echo 200M > /sys/block/{ZRAM}/disksize && mkswap -q /dev/{ZRAM} && swapon /dev/{ZRAM}"
)
KSM_ON = f"cd {KSM}; echo 10000 > pages_to_scan; echo 20 > sleep_millisecs; echo 1 > run"
# 2 takes apart what was merged.
KSM_OFF = f"cd {KSM}; echo 2 > run; echo 100 > pages_to_scan; echo 0 > run"

in_a_group_or_not = pytest.mark.parametrize(
    "backings", [True, False], indirect=True, ids=["own group", "no group"]
)


@contextmanager
def told(guest: lab.Guest, begin: str, end: str) -> Iterator[None]:
    guest.run(shell(begin), timeout_s=120, check=True)
    try:
        yield
    finally:
        guest.run(shell(end), timeout_s=120, check=True)


@in_a_group_or_not
def test_memory_that_was_swapped_out_or_merged(backings: Backings, tmp_path: Path) -> None:
    unknown = () if backings.in_group else UNKNOWN_WITHOUT_GROUP
    off = f"{KSM_OFF}; swapoff /dev/{ZRAM}; modprobe -r zram"
    with told(backings.guest, f"{ZRAM_ON} && {KSM_ON}", off):
        assert judge(backings, CASES, tmp_path) == expect(CASES, unknown)


@in_a_group_or_not
def test_memory_that_was_written_to_swap_and_is_there_still(backings: Backings, tmp_path: Path) -> None:
    cases = WRITTEN if backings.in_group else WRITTEN_WITHOUT_GROUP
    with told(backings.guest, SWAP_ON, f"swapoff {SWAP}; rm -f {SWAP}"):
        assert judge(backings, cases, tmp_path) == expect(cases)


def test_memory_that_others_bring_in_from_swap_meanwhile(backings: Backings, tmp_path: Path) -> None:
    """As a kernel thread does for KVM: no fault of the process, which holds as much as before."""
    guest = backings.guest
    with told(guest, ZRAM_ON, f"swapoff /dev/{ZRAM}; modprobe -r zram"):
        options = ("-f", "-p", str(backings.pid))
        recorder = start_recording(guest, "/root/brought.bt", *options).wait_attached()
        backings.obey(WARM_UP, "touch anon", "touch ksm", "pageout ksm")
        backings.wait_for_looks()
        recorder.process.signal(signal.SIGSTOP)
        smaps = guest.run(["cat", f"/proc/{backings.pid}/smaps"], check=True).stdout.splitlines()
        (swapped,) = [each for each in parse_regions(smaps) if (each.swap_bytes or 0) > BYTES // 2]
        read = f"dd if=/proc/{backings.pid}/mem of=/dev/null bs=2M iflag=skip_bytes"
        guest.run(shell(f"{read} skip={swapped.start} count={BYTES >> 21}"), timeout_s=120, check=True)
        backings.obey("serve anon dontneed 1")
        recorder.process.signal(signal.SIGCONT)
        backings.wait_for_looks()
        recorder.end()
    freed = discards(report(recorder.pull(tmp_path)))[-1]["freed"]
    print(freed)
    assert (freed["asked_bytes"], freed["verdict"], freed["reason"]) == (BYTES, UNKNOWN, IN_SWAP)
    assert freed["resident_bytes"] < BYTES // 8
    assert freed["swap_bytes"] < BYTES // 8
    assert freed["most_bytes"] > BYTES - BYTES // 8


KHUGEPAGED = "/sys/kernel/mm/transparent_hugepage/khugepaged"
# As found first. Without a rest it would leave the guest no processor.
AT_REST = ("scan_sleep_millisecs 10000", "pages_to_scan 4096")
AT_WORK = ("scan_sleep_millisecs 200", "pages_to_scan 1000000")


def tell_khugepaged(guest: lab.Guest, *settings: str) -> None:
    lines = (f"echo {value} > {KHUGEPAGED}/{name}" for name, value in map(str.split, settings))
    guest.run(shell("\n".join(["set -e", *lines])), check=True)


@contextmanager
def khugepaged_works(guest: lab.Guest, max_ptes_none: int) -> Iterator[None]:
    tell_khugepaged(guest, f"max_ptes_none {max_ptes_none}")
    try:
        yield
    finally:
        tell_khugepaged(guest, "max_ptes_none 0", *AT_REST)


def count(guest: lab.Guest, name: str) -> int:
    """What khugepaged has counted."""
    return int(guest.run(["cat", f"{KHUGEPAGED}/{name}"], check=True).stdout)


@pytest.mark.parametrize("backings", [False], indirect=True, ids=["no group"])
@pytest.mark.parametrize("missing", [511, 0])
def test_what_khugepaged_fills_again_is_not_said_to_be_untouched(
    backings: Backings, tmp_path: Path, missing: int
) -> None:
    """It fills huge pages of which each second page was given back, before the recorder looks again.

    It fills none of which no page may be missing, however often it looks.
    """
    guest, huge_pages = backings.guest, BYTES >> 21
    with khugepaged_works(guest, missing):
        options = ("-f", "-p", str(backings.pid))
        recorder = start_recording(guest, "/root/filled.bt", *options).wait_attached()
        backings.obey(WARM_UP, "touch thptoo")
        backings.wait_for_looks()
        recorder.process.signal(signal.SIGSTOP)
        made, scans = count(guest, "pages_collapsed"), count(guest, "full_scans")
        backings.obey("serve thptoo dontneed 1 2")
        tell_khugepaged(guest, *AT_WORK)
        if missing:
            guest.wait_until(lambda: count(guest, "pages_collapsed") >= made + huge_pages, 120, what="them")
        else:
            guest.wait_until(lambda: count(guest, "full_scans") > scans + 2, 120, what="three looks at all")
    recorder.process.signal(signal.SIGCONT)
    backings.wait_for_looks()
    recorder.end()
    freed = discards(report(recorder.pull(tmp_path)))[-1]["freed"]
    print(freed)
    assert (freed["asked_bytes"], freed["verdict"]) == (BYTES // 2, "unknown")
    is_filled = missing > 0
    assert (freed["reason"] == "huge pages made meanwhile") == is_filled
    assert ("khugepaged made" in freed["sentence"]) == is_filled
    assert (freed["huge_pages_collapsed"] >= huge_pages) == is_filled
    # Filled, the process holds what it held.
    assert (freed["resident_bytes"] < BYTES // 8) == is_filled

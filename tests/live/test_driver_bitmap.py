# SPDX-License-Identifier: GPL-2.0-or-later
"""The patched driver on the lab's own device, which understands it: driver, device and kernel agree."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracing import MIB_PAGES, PAGE_BYTES, migrate_pages, move, shell
from witness import QUEUES, Witness

import lab
from lab.aging import fragmented
from lab.patched_driver import load_patched, load_stock, unload

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "lab"))
from bitmap_reference import decode

FULL_MIB = 2048
GIB_PAGES = 1 << 18
PRIME_MIB = (509, 613, 307)
MOST_WORDS = 4048
SINGLE_PAGES = 211
MOST_PAGES = 64 * SINGLE_PAGES  # of single pages in any place one in 64 is lost
COMPLAINTS = ("BUG", "WARNING", "Oops", "general protection", "page_fault", "cannot queue", "list_")


@pytest.fixture(scope="module")
def booted() -> Iterator[lab.Guest]:
    with lab.solo(memory_mib=FULL_MIB, device="backend", page_bitmap=True, dump=True, sanitize=True) as guest:
        load_patched(guest)
        yield guest


@pytest.fixture
def bitmap(booted: lab.Guest) -> Iterator[lab.Guest]:
    """A guest with an empty balloon; afterwards it is empty again, and nobody has complained."""
    yield booted
    move(booted, FULL_MIB)
    status = booted.backend.status()
    assert (status["actual_pages"], status["ballooned_pages"]) == (0, 0)
    assert [status[queue][count] for queue in QUEUES for count in ("refused", "errors")] == [0] * 4
    lines = booted.run(["dmesg"], check=True).stdout.splitlines()
    assert [line for line in lines if any(word in line for word in COMPLAINTS)] == []


def test_a_gibibyte_is_one_send(bitmap: lab.Guest) -> None:
    moves = Witness(bitmap)
    move(bitmap, FULL_MIB - 1024)
    assert bitmap.backend.status()["ballooned_pages"] == GIB_PAGES
    move(bitmap, FULL_MIB)
    assert moves.vmstat() == [GIB_PAGES, GIB_PAGES]
    for queue in QUEUES:
        done = moves.totals()[queue]
        assert (done["buffers"], done["pages"], done["already"]) == (1, GIB_PAGES, 0)
    assert moves.totals()["inflate"]["discarded_bytes"] == GIB_PAGES * PAGE_BYTES


def test_what_is_sent_twice_is_what_the_device_has_already(bitmap: lab.Guest) -> None:
    moves = Witness(bitmap)
    whole_mib = PRIME_MIB[2] + PRIME_MIB[0]
    # Single holes everywhere are taken first, larger ones between them later.
    with fragmented(bitmap, mib=700, keep_percent=30):
        for mib in (PRIME_MIB[2], whole_mib):
            move(bitmap, FULL_MIB - mib)
    done = moves.totals()["inflate"]
    new = whole_mib * MIB_PAGES
    assert moves.vmstat() == [new, 0]
    assert done["pages"] == new + done["already"]
    print(done["already"], "sent twice")
    assert done["already"] > 0
    assert done["discarded_bytes"] == done["pages"] * PAGE_BYTES


def test_the_device_decodes_what_the_format_says(bitmap: lab.Guest) -> None:
    moves = Witness(bitmap)
    for mib in PRIME_MIB:
        move(bitmap, FULL_MIB - mib)
    for event, payload in moves.sent_words():
        pages = Counter(page for record in decode(payload) for page in record.pages())
        assert event["pages"] == len(pages)
        assert set(pages.values()) == {1}


@pytest.mark.parametrize("keep_percent", [10, 50])
def test_a_fragmented_guest_needs_several_sends(bitmap: lab.Guest, keep_percent: int) -> None:
    moves = Witness(bitmap)
    with fragmented(bitmap, mib=1500, keep_percent=keep_percent):
        move(bitmap, FULL_MIB - PRIME_MIB[0])
        move(bitmap, FULL_MIB - PRIME_MIB[1])
        move(bitmap, FULL_MIB - PRIME_MIB[2])
    inflated, deflated = PRIME_MIB[1] * MIB_PAGES, (PRIME_MIB[1] - PRIME_MIB[2]) * MIB_PAGES
    assert moves.vmstat() == [inflated, deflated]
    assert moves.totals()["inflate"]["pages"] - moves.totals()["inflate"]["already"] == inflated
    assert moves.totals()["deflate"]["pages"] == deflated
    words = [len(payload) for _, payload in moves.sent_words()]
    assert len(words) >= 6
    assert 4032 < max(words) <= MOST_WORDS


def test_compaction_while_the_balloon_moves(bitmap: lab.Guest) -> None:
    moves = Witness(bitmap)
    with fragmented(bitmap, mib=700, keep_percent=30):
        compacting = bitmap.start(shell("while :; do echo 1 > /proc/sys/vm/compact_memory; done"))
        for mib in PRIME_MIB * 3:
            move(bitmap, FULL_MIB - mib)
        compacting.kill()
        compacting.wait(60)
    migrate_pages(bitmap)
    assert moves.migrated() > 0
    # Pages that compaction had isolated while the list was walked are with the host no sooner than next time.
    status = bitmap.backend.status()
    assert status["actual_pages"] == PRIME_MIB[-1] * MIB_PAGES
    print(status["actual_pages"] - status["ballooned_pages"], "of", status["actual_pages"])
    assert 0 <= status["actual_pages"] - status["ballooned_pages"] < status["actual_pages"] // 10


def test_a_migrated_page_is_two_sends_of_one_record(bitmap: lab.Guest) -> None:
    with fragmented(bitmap, mib=300):
        move(bitmap, FULL_MIB - 1399)
    moves = Witness(bitmap)
    migrate_pages(bitmap)
    migrated = moves.migrated()
    assert migrated > 0
    assert {len(payload) for _, payload in moves.sent_words()} == {1}
    for queue in QUEUES:
        done = moves.totals()[queue]
        assert (done["buffers"], done["plain_runs"], done["pages"]) == (migrated, migrated, migrated)
    assert bitmap.backend.status()["ballooned_pages"] == 1399 * MIB_PAGES


def test_a_lone_page_on_a_multiple_of_64_is_lost(bitmap: lab.Guest) -> None:
    moves = Witness(bitmap)
    single, lost = 0, 0
    # Which pages a guest takes is its own affair: of some hundreds in any place there may be none of these.
    while single < SINGLE_PAGES or (not lost and single < MOST_PAGES):
        single += 1
        bitmap.set_balloon(target_bytes=(FULL_MIB << 20) - single * PAGE_BYTES)
        bitmap.wait_balloon()
        lost = single - moves.totals()["inflate"]["buffers"]
    assert moves.vmstat() == [single, 0]
    print(f"{lost} of {single}")
    assert 0 < lost < single // 8


def test_unload_and_reload(bitmap: lab.Guest) -> None:
    moves = Witness(bitmap)
    move(bitmap, FULL_MIB - PRIME_MIB[0])
    unload(bitmap)
    assert moves.vmstat() == [PRIME_MIB[0] * MIB_PAGES] * 2
    assert bitmap.backend.status()["ballooned_pages"] == 0
    load_patched(bitmap, btf=False)
    bitmap.wait_balloon()
    assert bitmap.backend.status()["ballooned_pages"] == PRIME_MIB[0] * MIB_PAGES
    load_patched(bitmap)
    bitmap.wait_balloon()


def test_without_bit_3_it_sends_what_the_stock_driver_sends() -> None:
    with lab.solo(memory_mib=512, device="backend") as guest:
        counts = []
        for load in (load_stock, load_patched):
            load(guest)
            moves = Witness(guest)
            move(guest, 512 - 211)
            move(guest, 512)
            counts.append([(moves.totals()[q]["buffers"], moves.totals()[q]["pages"]) for q in QUEUES])
            assert moves.vmstat() == [211 * MIB_PAGES] * 2
        assert counts == [[(211, 211 * MIB_PAGES)] * 2] * 2

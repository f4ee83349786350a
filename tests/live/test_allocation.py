# SPDX-License-Identifier: GPL-2.0-or-later
"""`record --split-allocation`: what allocating was, in guests that are short of memory in different ways.

Each cause has a guest without it beside it, in which no sentence names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from allocation_parts import PARTS, assert_idle, split_operations, told
from memory_use import use_memory
from pieces import in_pieces
from tracing import (
    MIB_PAGES,
    PAGE_BYTES,
    Json,
    Recorder,
    assert_no_trace,
    move,
    record,
    report,
    stage,
)

import lab
from balloontrace.analysis.allocation_words import MOST, NAMED_FROM
from lab.patched_driver import load_patched

GUEST_MIB, PIECES_MIB = 1024, 2048
NUDGES = 20
TURNS = 2
SLEEP_NS = 200_000_000
_COMPACT = "while :; do echo 1 > /proc/sys/vm/compact_memory; done"
_SWAP = """
dd if=/dev/zero of=/swap bs=1M count=768 2>/dev/null && chmod 600 /swap
mkswap /swap >/dev/null && swapon /swap
"""


@pytest.fixture(scope="module")
def short() -> Iterator[lab.Guest]:
    with lab.solo(memory_mib=GUEST_MIB, cpus=1, balloons=[{"deflate-on-oom": "on"}]) as running:
        yield running


def split(guest: lab.Guest, name: str, *options: str) -> Recorder:
    return record(guest, f"/root/{name}.bt", "--split-allocation", *options)


def operations_of(recorder: Recorder, folder: Path) -> list[Json]:
    """The operations, whose parts add up; nothing was lost."""
    assert_no_trace(recorder.guest)
    return split_operations(report(recorder.pull(folder)))


def inflates_of(recorder: Recorder, folder: Path) -> list[Json]:
    return [each for each in operations_of(recorder, folder) if each["kind"] == "inflate"]


def first_of(recorder: Recorder, folder: Path) -> Json:
    """The first operation, an inflate."""
    return inflates_of(recorder, folder)[0]


def test_an_idle_guest_has_no_cause_to_name(short: lab.Guest, tmp_path: Path) -> None:
    """By the engine bcc too, says test_engines."""
    recorder = split(short, "idle", "--operations", "2")
    move(short, 512)
    move(short, GUEST_MIB)
    assert recorder.wait().status == 0
    operations = operations_of(recorder, tmp_path)
    assert [(each["kind"], each["pages"]) for each in operations] == [
        ("inflate", 512 * MIB_PAGES),
        ("deflate", 512 * MIB_PAGES),
    ]
    assert_idle(operations)


def test_time_off_the_processor_is_named_where_others_want_it(short: lab.Guest, tmp_path: Path) -> None:
    recorder = split(short, "busy", "--operations", "2")
    busy = [short.start(["sh", "-c", "while :; do :; done"]) for _ in range(3)]
    for target_mib in (768, GUEST_MIB):
        move(short, target_mib, timeout_s=300)
    for each in busy:
        each.kill()
        each.wait(60)
    assert recorder.wait(120).status == 0
    inflate, deflate = operations_of(recorder, tmp_path)
    print([(stage(inflate, code)["share"], code) for code in ("a", "a.off_cpu")])
    (sentence,) = told(inflate)
    assert "of allocating was time off the processor" in sentence
    assert stage(inflate, "a.puff")["total_ns"] == 0
    # Releasing takes so little that others may have no turn inside it.
    assert [stage(deflate, code)["total_ns"] for code in PARTS[:3]] == [0, 0, 0]


def test_waiting_for_the_balloon_s_lock_is_counted(short: lab.Guest, tmp_path: Path) -> None:
    """Compaction that moves a page of the balloon holds `balloon_lock` while it tells the host, twice.

    The idle guest above, in which nobody compacts, has no such wait.
    """
    move(short, 640)
    recorder = split(short, "locks")
    compacting = short.start(["sh", "-c", _COMPACT])
    before = short.vmstat()["balloon_migrate"]
    for _ in range(TURNS):
        for target_mib in (320, 640):
            move(short, target_mib, timeout_s=300)
    migrated = short.vmstat()["balloon_migrate"] - before
    compacting.kill()
    compacting.wait(60)
    recorder.end()
    move(short, GUEST_MIB)
    operations = operations_of(recorder, tmp_path)
    assert {each["kind"] for each in operations} == {"inflate", "deflate"}
    waits = [stage(each, "a.lock") for each in operations]
    print(f"waits {[wait['count'] for wait in waits]}, {migrated} migrated")
    assert 0 < sum(wait["count"] for wait in waits) <= migrated
    released = [each for each in operations if each["kind"] == "deflate"]
    assert any(stage(each, code)["count"] for each in released for code in ("a.lock", "a.off_cpu"))
    assert all((wait["count"] > 0) == (wait["total_ns"] > 0) for wait in waits)


def test_sleeping_for_a_page_is_counted(short: lab.Guest, tmp_path: Path) -> None:
    """More is asked for than there is, for a while; what is in the way cannot go to swap."""
    recorder = split(short, "puff")
    hog = use_memory(short, 300)
    hog.wait_for(b"used", 120, stream="stdout")
    before = puffs(short)
    short.set_balloon(target_mib=300)
    short.wait_until(lambda: puffs(short) > before + 2, 120, what="a driver out of puff", every_s=0.5)
    hog.kill()
    hog.wait(60)
    short.wait_balloon(timeout_s=120)
    recorder.end()
    move(short, GUEST_MIB)
    operation = first_of(recorder, tmp_path)
    asleep = stage(operation, "a.puff")
    print([(stage(operation, code)["share"], code) for code in ("a", *PARTS)])
    assert asleep["count"] >= 1
    assert asleep["count"] <= operation["short_work_items"]
    assert 0.9 * SLEEP_NS * asleep["count"] <= asleep["total_ns"]
    (sentence,) = told(operation)
    assert "Out of puff" in sentence


def puffs(guest: lab.Guest) -> int:
    """How often the driver said so; the kernel keeps it from saying it each time."""
    return int(guest.run(["sh", "-c", "dmesg | grep -c 'Out of puff'"]).stdout)


def test_reclaim_is_named_where_the_guest_has_to_swap(short: lab.Guest, tmp_path: Path) -> None:
    short.run(["sh", "-c", _SWAP], check=True, timeout_s=300)
    recorder = split(short, "reclaim", "--operations", "1")
    hog = use_memory(short, 600)
    hog.wait_for(b"used", 300, stream="stdout")
    short.set_balloon(target_mib=400)
    short.wait_balloon(timeout_s=600)
    assert recorder.wait(120).status == 0
    hog.kill()
    hog.wait(60)
    move(short, GUEST_MIB)
    short.run(["swapoff", "/swap"], check=True, timeout_s=300)
    operation = first_of(recorder, tmp_path)
    print([(stage(operation, code)["share"], code) for code in ("a", *PARTS)])
    (sentence,) = told(operation)
    assert "direct reclaim" in sentence
    assert stage(operation, "a.reclaim")["count"] > 0


def nudge(guest: lab.Guest) -> None:
    """Eight pages into the balloon and out of it."""
    full_bytes = PIECES_MIB << 20
    for target_bytes in (full_bytes - 8 * PAGE_BYTES, full_bytes):
        guest.set_balloon(target_bytes=target_bytes)
        guest.wait_balloon(timeout_s=120)


def is_mostly_compaction(operation: Json) -> bool:
    whole, part = stage(operation, "a"), stage(operation, "a.compaction")
    return bool(whole["share"] >= NAMED_FROM and part["total_ns"] >= MOST * whole["total_ns"])


def test_compaction_is_named_where_memory_is_in_pieces(tmp_path: Path) -> None:
    """Only the page-bitmap driver asks for more than a page: eight for each bitmap but the first."""
    with lab.solo(memory_mib=PIECES_MIB, cpus=1, device="backend", page_bitmap=True) as guest:
        load_patched(guest)
        recorder = split(guest, "pieces")
        before = guest.vmstat()["compact_stall"]
        nudge(guest)
        assert guest.vmstat()["compact_stall"] == before
        with in_pieces(guest):
            for _ in range(NUDGES):
                nudge(guest)
            stalls = guest.vmstat()["compact_stall"] - before
        recorder.end()
        first, *others = inflates_of(recorder, tmp_path)
    assert len(others) == NUDGES
    # Where something else takes the only processor meanwhile, that is said of so short an inflate.
    assert not any("compaction" in sentence for sentence in told(first))
    assert stage(first, "a.compaction")["total_ns"] == 0
    print("stalls", stalls, [stage(each, "a.compaction")["count"] for each in others])
    held_up = [each for each in others if stage(each, "a.compaction")["count"]]
    assert 0 < len(held_up) <= stalls
    # On a busy machine something else may be most of it each time; what is named is right in any case.
    named = [each for each in others if any("compaction" in sentence for sentence in told(each))]
    assert named == [each for each in others if is_mostly_compaction(each)]

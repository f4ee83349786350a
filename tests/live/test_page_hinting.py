# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page hinting while a guest migrates, against what QEMU says it took from the queue of hints."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from migrating import (
    TRACE,
    HintQueue,
    cancel_migration,
    end_migration,
    record_apart,
    start_apart,
    start_migration,
    wait_attached_apart,
    without_folders,
)
from tracing import (
    MIB_PAGES,
    PAGE_BYTES,
    Json,
    assert_no_trace,
    assert_sums,
    assert_whole,
    balloontrace,
    report,
)

import lab

GUEST_MIB, USED_MIB = 1024, 300
SLOW_BYTES_PER_S = 4 << 20
BLOCK_PAGES = 1 << 10  # MAX_PAGE_ORDER on x86
WAYS = {"fentry": "", "kprobe": "--attach kprobe"}  # test_page_reporting has bcc attach these too
# Begins where it is told to, for nothing can be started while the guest migrates.
_USE = f"""
import mmap, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})
open("/root/waiting", "w").close()
signal.sigwait({{signal.SIGUSR1}})
memory = mmap.mmap(-1, {USED_MIB} << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, len(memory), 4096):
    memory[page] = 1
"""


@pytest.fixture(scope="module")
def hinting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[lab.Guest, HintQueue]]:
    log = tmp_path_factory.mktemp("qemu") / "trace.log"
    told = ("-object", "iothread,id=hints", "-trace", TRACE, "-D", str(log))
    balloon = {"free-page-hint": "on", "iothread": "hints"}
    with lab.solo(memory_mib=GUEST_MIB, cpus=1, balloons=[balloon], extra_args=told) as guest:
        yield guest, HintQueue(log)
        assert_no_trace(guest)


def test_hinted_is_what_qemu_took(hinting: tuple[lab.Guest, HintQueue], tmp_path: Path) -> None:
    """One migration in which memory gets short, and one that is cancelled, recorded in two ways at once."""
    guest, queue = hinting
    recorders = {name: record_apart(guest, name, options) for name, options in WAYS.items()}
    user = start_apart(guest, f"python3 -c {shlex.quote(_USE)}", "/root/use.err")
    for name in recorders:
        wait_attached_apart(guest, name)
    guest.wait_until(
        lambda: guest.run(["test", "-e", "/root/waiting"]).status == 0, 60, what="a program that waits"
    )
    with without_folders(guest):
        start_migration(guest, SLOW_BYTES_PER_S)
        guest.wait_until(lambda: queue.read()["ids"] >= 2, 60, what="hints: an id, blocks, the id to stop")
        user.signal(signal.SIGUSR1)
        assert user.wait(120).status == 0
        sent = end_migration(guest)
        first = settled(guest, queue)
        start_migration(guest, SLOW_BYTES_PER_S)
        guest.wait_until(lambda: queue.read()["ids"] >= first["ids"] + 2, 60, what="hints once more")
        cancel_migration(guest)
    found = {}
    for name, recorder in recorders.items():
        recorder.end()
        found[name] = report(recorder.pull(tmp_path))
        assert_whole(found[name])
        assert_sums(found[name])
        assert_is_taken(found[name], first["blocks"], queue.read()["blocks"])
    one, other = (each["page_hinting"]["operations"] for each in found.values())
    assert [each["pages"] for each in one] == [each["pages"] for each in other]
    # A page that was not hinted was sent once at least.
    print(sent, one)
    left_out = sent["total"] // PAGE_BYTES - sent["normal"] - sent["duplicate"]
    assert 0.5 * one[0]["pages"] < left_out + USED_MIB * MIB_PAGES
    assert left_out <= one[0]["pages"]
    print(balloontrace("report", tmp_path / "fentry.bt").stdout)


def settled(guest: lab.Guest, queue: HintQueue) -> dict[str, int]:
    """The queue once it rests: a migration's last round may end only as the guest goes on."""
    seen = [queue.read()]

    def rests() -> bool:
        seen.append(queue.read())
        return len(seen) > 10 and seen[-1] == seen[-10]

    guest.wait_until(rests, 60, what="hints at rest", every_s=0.2)
    return seen[-1]


def assert_is_taken(found: Json, first: int, blocks: int) -> None:
    """Two migrations, block by block; all of them came back, some for want of memory."""
    said = found["page_hinting"]
    assert (said["unknown_calls"], 1 << said["order"]) == (0, BLOCK_PAGES)
    operations = said["operations"]
    assert [each["blocks"] for each in operations] == [first, blocks - first]
    for each in operations:
        assert each["pages"] == each["blocks"] * BLOCK_PAGES
        assert each["pages"] == sum(one["pages"] for one in each["rounds"])
        assert each["pages"] == sum(back["pages"] for back in each["returns"])
        assert (each["held_pages"], each["wall_ns"] is None) == (0, False)
        assert each["rounds"][0]["ended_by"] == "no free block left"
        ids = [one["command_id"] for one in each["rounds"]]
        assert ids == sorted(set(ids))
    shrunk = [back["pages"] for back in operations[0]["returns"] if back["why"] == "shrinker"]
    assert sum(shrunk) > USED_MIB * MIB_PAGES / 2
    assert [back["calls"] for each in operations for back in each["returns"] if back["why"] == "done"] == [
        1,
        1,
    ]
    assert not found["operations"]
    assert not any("hinting" in sentence for sentence in found["not_measured"])

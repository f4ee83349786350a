# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested, in a host that counts instructions: both sides count the same there, and time is instructions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pairs import (
    COUNTERS,
    FULL_MIB,
    MOVE_S,
    MOVED_MIB,
    MOVED_PAGES,
    SPLIT,
    booted,
    host_calls,
    report_both,
    top_stages,
    top_sum_ns,
)
from tracing import Json, assert_sums, assert_whole, change, move, outcomes, stage, start_recording

import lab
from balloontrace.format.vocabulary import Call
from lab.boot_retries import retry_lost

SENDS = MOVED_PAGES // 256
# What tracing adds to a call: `make bench` finds some 550 instructions with fentry, 1 270 with kprobes.
ADDED_NS = (300, 1500)
# While the balloon moves the processor is rarely idle, and a nanosecond passes with each instruction.
BUSY = 0.9
# ADDR_NO_RANDOMIZE and ADDR_COMPAT_LAYOUT: include/uapi/linux/personality.h
SAME_ADDRESSES = 0x0240000


@dataclass(frozen=True)
class Course:
    """One inflate, recorded on both sides."""

    found: Json
    pages: list[int]
    actual_bytes: int
    instructions: int
    irq_works: int  # of the host, by which its guest leaves after an interrupt was injected


def count_instructions(host: lab.Guest) -> int:
    return int(host.qmp("query-replay")["icount"])


def count_irq_works(host: lab.Guest) -> int:
    (line,) = host.run(["grep", "IWI:", "/proc/interrupts"], check=True).stdout.splitlines()
    return int(line.split()[1])


def record(pair: lab.Nested, folder: Path) -> Course:
    host, guest = pair.host, pair.guest
    recorders = [
        start_recording(host, "/root/host.bt", "--side", "host", "-p", str(pair.vmm_pid)).wait_attached(),
        start_recording(guest, "/root/guest.bt").wait_attached(),
    ]
    irq_works = count_irq_works(host)
    before, instructions = guest.vmstat(), count_instructions(host)
    move(guest, FULL_MIB - MOVED_MIB, MOVE_S)
    instructions = count_instructions(host) - instructions
    irq_works = count_irq_works(host) - irq_works
    pages = change(before, guest.vmstat(), COUNTERS)
    actual_bytes = guest.qmp("query-balloon")["actual"]
    for recorder in recorders:
        recorder.end()
    of_host, of_guest = (recorder.pull(folder) for recorder in recorders)
    return Course(report_both(of_guest, of_host), pages, actual_bytes, instructions, irq_works)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[lab.Nested, Course]]:
    """A pair and what was recorded in it. QEMU may stand still meanwhile; then all is done again."""
    with ExitStack() as kept:

        def attempt() -> tuple[lab.Nested, Course]:
            with ExitStack() as undo:
                pair = undo.enter_context(booted(icount=True))
                course = record(pair, tmp_path_factory.mktemp("sides"))
                kept.enter_context(undo.pop_all())
            return pair, course

        yield retry_lost(attempt)


def test_all_sides_count_the_same(recorded: tuple[lab.Nested, Course]) -> None:
    _, course = recorded
    found = course.found
    assert_whole(found)
    assert outcomes(found) == [("inflate", "reached", MOVED_PAGES)]
    assert course.pages == [MOVED_PAGES, 0]
    assert course.actual_bytes == FULL_MIB - MOVED_MIB << 20
    others = [each for each in found["host"]["others"] if each["call"] == "madvise_dontneed"]
    of_others = sum(each["calls"] for each in others)
    assert host_calls(found, Call.MADVISE_DONTNEED)["calls"] == MOVED_PAGES + of_others
    pairing = found["host"]["pairing"]
    assert found["operations"][0]["sends"] == pairing["batches"] == pairing["pairs"] == SENDS


def test_stages_are_split_and_time_is_instructions(recorded: tuple[lab.Nested, Course]) -> None:
    _, course = recorded
    assert_sums(course.found)
    (operation,) = course.found["operations"]
    assert top_stages(operation) == SPLIT
    assert top_sum_ns(operation) == operation["wall_ns"]
    assert stage(operation, "d")["count"] == SENDS
    print(f"{course.instructions / operation['wall_ns']:.2f} instructions a nanosecond")
    assert course.instructions > BUSY * operation["wall_ns"]


def test_the_guest_leaves_after_each_interrupt(recorded: tuple[lab.Nested, Course]) -> None:
    """QEMU would deliver some of them twice otherwise, and the guest stand still."""
    _, course = recorded
    print(f"{course.irq_works} for {SENDS} sends")
    assert course.irq_works >= SENDS


def test_where_qemus_memory_lies_does_not_depend_on_the_boot(recorded: tuple[lab.Nested, Course]) -> None:
    """How long the kernel looks for a mapping depends on how many there are before it, as d then does."""
    pair, _ = recorded
    of_qemu = f"/proc/{pair.vmm_pid}"
    personality = pair.host.run(["cat", f"{of_qemu}/personality"], check=True).stdout
    assert int(personality, 16) & SAME_ADDRESSES == SAME_ADDRESSES
    names = pair.host.run(["sh", "-c", f"cat {of_qemu}/task/*/comm"], check=True).stdout.splitlines()
    assert names.count("worker") <= 1
    environment = pair.host.run(["cat", f"{of_qemu}/environ"], check=True).stdout.split("\0")
    assert "MALLOC_ARENA_MAX=1" in environment


def test_what_tracing_adds_is_measured_while_attaching(recorded: tuple[lab.Nested, Course]) -> None:
    _, course = recorded
    host = course.found["host"]
    least_ns, most_ns = (MOVED_PAGES * added_ns for added_ns in ADDED_NS)
    print(f"{(host['tracing_c_ns'] + host['tracing_d_ns']) / MOVED_PAGES:.0f} ns a call")
    assert least_ns < host["tracing_c_ns"] + host["tracing_d_ns"] < most_ns


def stop_at_work(host: lab.Guest) -> None:
    """Stops its processor between two instructions. One that is stopped at rest is taken for an idle one."""

    def is_stopped_at_work() -> bool:
        host.qmp("stop")
        if "HLT=0" in host.qmp("human-monitor-command", command_line="info registers"):
            return True
        host.qmp("cont")
        return False

    host.wait_until(is_stopped_at_work, 60, what=f"stopping {host.name} at work")


def test_a_host_that_stands_still_is_noticed(recorded: tuple[lab.Nested, Course]) -> None:
    pair, _ = recorded
    busy = pair.host.start(["sh", "-c", "while :; do :; done"])
    stop_at_work(pair.host)
    with pytest.raises(lab.VMFrozen, match=r"stood still at [0-9a-f]{16}: \d+ instructions in"):
        busy.wait(600)
    with pytest.raises(lab.VMFrozen, match=f"the processor of {pair.host.name} stood still"):
        pair.guest.run(["true"])

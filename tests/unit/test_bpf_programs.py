# SPDX-License-Identifier: GPL-2.0-or-later
"""The logic of BPF programs, compiled for a process of its own: courses that no lab brings about at will."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from c_layout import C_DEFINITIONS

from balloontrace.format.vocabulary import Function, Part, SpanFlag
from balloontrace.system.kernel import KNOWN_MEMBERS
from balloontrace.trace.engines.constants import SLOT_CONSTANTS
from balloontrace.trace.engines.shipped import bpf_folder
from balloontrace.trace.guest.probes import TABLE
from balloontrace.trace.host.probes import TABLE as HOST_TABLE

HERE = Path(__file__).parent / "bpf"
SERVER = 1000
SLOTS = 256
BUFFERS, CALLS = 100, 256

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def build(source: str, folder: Path, *definitions: str) -> Path:
    """A program around the functions of a BPF source, as for fentry."""
    program = folder / Path(source).stem
    names = [point.name for point in HOST_TABLE] + [point.function.symbol for point in TABLE]
    kinds = [f"-DKIND_{name}=fentry" for name in names]
    flags = ["-O0", "-w", "-include", str(HERE / "engine.h"), f"-I{bpf_folder()}", *kinds]
    flags += [f"-D{point.function.name}_ARGUMENTS=1" for point in TABLE]
    flags += [
        f"-D{name}=-1" for name in SLOT_CONSTANTS if not any(each.startswith(name) for each in definitions)
    ]
    flags += [*C_DEFINITIONS, *(f"-D{each}" for each in definitions)]
    subprocess.run(["cc", *flags, "-o", program, HERE / source], check=True)
    return program


def numbers(*words: str | Path) -> list[int]:
    done = subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True, timeout=60)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("vcpu", [SERVER + 1, SERVER + SLOTS], ids=["another slot", "the same slot"])
def test_a_vcpu_takes_no_slot_from_a_thread_that_serves(tmp_path: Path, vcpu: int) -> None:
    program = build("host_slots.c", tmp_path, "TGID=900", "COUNT_FREED=0")
    assert numbers(program, str(vcpu)) == [BUFFERS, BUFFERS, BUFFERS * CALLS]


def test_unmapping_is_not_freeing(tmp_path: Path) -> None:
    found = numbers(build("host_freed.c", tmp_path, "TGID=900"))
    nothing, pages = found[::2], found[1::2]
    assert nothing == [0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 7, 8, 8, 8, 9, 10, 11, 11, 12, 12, 13]
    assert pages == [1, 1, 1, 1, 1, 2, 2, 3, 4, 4, 5, 5, 5, 6, 7, 7, 7, 7, 8, 8, 520, 520]


def test_samples_tell_a_balloon_from_a_disk_and_calls_from_what_is_between(tmp_path: Path) -> None:
    unproven, of_balloon, periods_away = 256, 2 + 1000, 16
    found = numbers(build("host_sampled.c", tmp_path, "TGID=900", "COUNT_FREED=0", "SAMPLED=1"))
    assert found[:3] == [unproven, unproven + of_balloon, unproven + of_balloon]
    samples, inside, by_disk, back, away, put_off, early, off_grid_ns, is_ahead, first_after_ns = found[3:13]
    assert (samples, inside, by_disk) == (7, 3, 0)
    assert (back, away, put_off) == (1, periods_away, 1)
    assert (early, off_grid_ns, is_ahead, first_after_ns) == (0, 0, 1, 700)
    assert found[13:] == [3, 3 * 4096, 0]


def test_a_buffer_is_of_the_eventfd_that_kicked_it(tmp_path: Path) -> None:
    found = numbers(build("host_eventfds.c", tmp_path, "TGID=900", "COUNT_FREED=0"))
    assert found[:7] == [1, 2, 1, 2, 0, 0, 1]
    assert found[7:12] == [3, SERVER, 1100, 7500, 20300]
    assert found[12:] == [3, SERVER, 4300, 10700, 17000]


@pytest.mark.parametrize("node_idx", [0, 1])
def test_memory_slots_are_copied_for_whoever_asks(tmp_path: Path, node_idx: int) -> None:
    program = build("host_memory_slots.c", tmp_path, "TGID=900", "COUNT_FREED=0")
    by_another, by_another_ioctl, copied, asked_by, left_out, *slots = numbers(program, str(node_idx))
    assert (by_another, by_another_ioctl, copied, asked_by, left_out) == (0, 0, 4, 0, 0)
    rows = sorted(zip(slots[::3], slots[1::3], slots[2::3], strict=True))
    assert rows == [(100 + number, 10 + number, number) for number in range(4)]


def test_faults_are_of_the_process_each_once(tmp_path: Path) -> None:
    program = build("host_faults.c", tmp_path, "TGID=900", "COUNT_FREED=0")
    # Two more were tried again or failed; of the two that met, the first one's end came behind the other's.
    counted, timed_ns, huge, untimed = numbers(program)
    assert (counted, huge, untimed) == (7, 2, 1)
    assert timed_ns == 7 * 8 + 14


def build_guest(source: str, folder: Path, *definitions: str) -> Path:
    offsets = [
        f"{member.replace('.', '_').upper()}=offsetof(struct {member.replace('.', ', ')})"
        for member in KNOWN_MEMBERS
    ]
    given = {"UNIT_PAGES": "1", "HINT_BLOCK_PAGES": "0"}
    given |= dict(definition.split("=") for definition in definitions)
    return build(source, folder, *offsets, *(f"{name}={value}" for name, value in given.items()))


def test_a_send_without_arguments_takes_the_queue_of_the_call_around_it(tmp_path: Path) -> None:
    """gcc 16 makes send_resp_data.constprop.0."""
    program = build_guest("guest_queue.c", tmp_path, "SEND_RESP_DATA_ARGUMENTS=0")
    assert numbers(program) == [0, 0, 1000, 0, -1, -1]


def test_a_storm_of_migrations_is_summed_up_and_nothing_lost(tmp_path: Path) -> None:
    found = numbers(build_guest("guest_storm.c", tmp_path, "SPAN_RING_PAGES=1"))
    spans, summed, sums, (lost, given_up) = found[:3], found[3:6], found[6:9], found[9:]
    of_migrations, of_sends, of_items = (one + other for one, other in zip(spans, summed, strict=True))
    assert (of_migrations, of_sends, of_items) == (80, 70 * 2 + 1, 1)
    assert (lost, given_up) == (0, 10)
    assert (spans[2], summed[2]) == (1, 0)
    # Of the summed ones one in seven found the lock taken, moved nothing and sent nothing.
    assert sums[0] > 0
    assert sums[1:] == [summed[1], 100 * summed[1]]


def test_rest_is_no_waiting_and_each_balloon_keeps_its_own_standing(tmp_path: Path) -> None:
    program = build_guest("guest_rest.c", tmp_path)
    requeue_ns, first_pages, second_pages, *more = numbers(program)
    of_other_queue, outcomes = more[:3], more[3:]
    assert requeue_ns < 10_000
    assert (first_pages, second_pages) == (768, 0)
    assert of_other_queue == [0, 0, 1]
    oom_pages, is_stalled, superseded, is_stalled_after, superseded_after = outcomes
    assert (oom_pages, is_stalled, superseded) == (256, 1, 0)
    assert (is_stalled_after, superseded_after) == (0, 1)


def test_reports_tell_their_blocks_by_order(tmp_path: Path) -> None:
    found = numbers(build_guest("guest_report.c", tmp_path, "SPAN_RING_PAGES=1"))
    reports = [found[i : i + 8] for i in range(0, 32, 8)]
    (calls, pages, first_ns), (function, flags) = found[32:35], found[35:]
    assert reports[0] == [3 * 512 + 29 * 1024, 32, 0, 1, 3, 0, 3, 29]
    assert reports[1] == [1, 1, 0, 1, 3, 1, 0, 0]
    assert reports[2] == [1, 1, -5, 1, 3, 1, 0, 0]
    assert reports[3] == [0, 33, 0, 0, 3, 0, 0, 0]
    assert (calls, pages, first_ns) == (4, 3 * 512 + 29 * 1024 + 1 + 1, 500)
    # The cycle is of the device whose reports are in it.
    assert (Function(function), SpanFlag(flags)) == (Function.PAGE_REPORTING_PROCESS, SpanFlag.DEVICE)


def test_a_captured_report_has_the_place_of_each_block(tmp_path: Path) -> None:
    """What 700 lies behind 3 by, in pages: whatever the addresses are. A list not read is not captured."""
    program = build_guest("guest_blocks.c", tmp_path, "SPAN_RING_PAGES=1", "PAYLOAD_RING_PAGES=1")
    first = [32, 32, 1, 0, 4096 << 9, 299, 4096]
    second = [16, 16, 1, 3 - 700, 4096 << 4]
    assert numbers(program) == [*first, *second, 2, 0]


@pytest.mark.parametrize("unit_pages", [1, 4])
def test_hints_are_told_from_what_came_back(tmp_path: Path, unit_pages: int) -> None:
    block = 1024 * unit_pages
    program = build_guest(
        "guest_hint.c", tmp_path, f"UNIT_PAGES={unit_pages}", f"HINT_BLOCK_PAGES={block}", "SPAN_RING_PAGES=1"
    )
    *found, summed = numbers(program)
    spans = [tuple(found[i : i + 8]) for i in range(0, len(found), 8)]
    first, second, stop, done = 1 << 31, (1 << 31) + 1, 0, 1
    work, shrinker = Function.REPORT_FREE_PAGE_FUNC, Function.VIRTIO_BALLOON_SHRINKER_SCAN
    of_shrinker = [span for span in spans if span[0] == shrinker]
    assert [(span[1], *span[6:]) for span in of_shrinker] == [(2 * block, 3, 1), (block, 3, 1)]
    assert [span for span in spans if span[0] == work] == [
        (work, 7 * block, first, first, 0, 5, 3, 1),
        (work, 0, 0, stop, 0, 5, 3, 1),
        (work, 3 * block, second, stop, 0, 8, 3, 1),
        (work, 0, 0, done, 7 * block, 0, 3, 1),
    ]
    assert summed == 10 * block


def test_what_the_driver_does_besides_work_items_says_how_large_the_balloon_is_then(tmp_path: Path) -> None:
    found = numbers(build_guest("guest_other.c", tmp_path, "SPAN_RING_PAGES=1"))
    spans = [found[place : place + 5] for place in range(0, len(found), 5)]
    inner = (Function.TELL_HOST, Function.LEAK_BALLOON)
    outer = [(Function(number).symbol, *rest) for number, *rest in spans if number not in inner]
    device, untold = SpanFlag.DEVICE, 9999
    told = device | SpanFlag.ACTUAL
    assert outer == [
        ("virtio_balloon_oom_notify", 3, told | SpanFlag.RESULT, 256, 1),
        ("virtio_balloon_oom_notify", 3, told | SpanFlag.RESULT, 0, 1),
        ("virtio_balloon_oom_notify", 3, device | SpanFlag.RESULT, untold, 1),
        ("virtballoon_freeze", 3, told | SpanFlag.RESULT, 0, 0),
        ("virtballoon_restore", 3, device | SpanFlag.RESULT, untold, 0),
        ("stats_request", 3, device, untold, 0),
        ("update_balloon_stats_func", 3, device, untold, 0),
        ("virtballoon_remove", 3, told, 0, 0),
    ]
    sizes = [size for number, _, _, size, _ in spans if number == Function.TELL_HOST]
    assert sizes == [256, 0, 44, 0, 0]


def test_a_send_knows_the_last_interrupt_of_its_own_queue_inside_it(tmp_path: Path) -> None:
    found = numbers(build_guest("guest_ack.c", tmp_path, "SPAN_RING_PAGES=1"))
    assert found == [100, -1, -1, 200, -1, 100, 100, 9]


def test_a_work_item_knows_how_long_its_thread_waited_for_a_processor(tmp_path: Path) -> None:
    known = int(SpanFlag.RUN_DELAY)
    assert numbers(build_guest("guest_delay.c", tmp_path, "SPAN_RING_PAGES=1")) == [known, 700, known, 0]
    unknown = build_guest("guest_delay.c", tmp_path, "SPAN_RING_PAGES=1", "TASK_STRUCT_SCHED_INFO=-1")
    assert numbers(unknown) == [0, 0, 0, 0]


def test_allocating_is_told_in_parts_of_which_the_outermost_counts(tmp_path: Path) -> None:
    program = build_guest(
        "guest_allocation.c", tmp_path, "SPAN_RING_PAGES=1", "SPLIT_ALLOCATION=1", "FILL_BALLOON_TRACED=0"
    )
    *found, of_others = numbers(program)
    # Part, how long and how often, in the first four work items; the fifth was held up by nothing.
    assert [tuple(found[at : at + 3]) for at in range(0, len(found), 3)] == [
        (Part.RECLAIM, 2 * 500_000_000 + 3000 + 2 * 7, 2),
        (Part.PUFF, 200_000_000, 1),
        (Part.OFF_CPU, 200_000_000, 1),
        (Part.COMPACTION, 340, 1),
        (Part.LOCK, 110, 1),
        (Part.OFF_CPU, 50, 2),
        (Part.LOCK, 110, 1),
        (Part.OFF_CPU, 60, 1),
        (Part.RECLAIM, 30, 1),
        (Part.OFF_CPU, 8, 1),
    ]
    assert of_others == 0

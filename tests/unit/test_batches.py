# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host's program hands over: its layout, sums by thread, and batches as columns."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

import pytest
from c_layout import assert_is_c
from synthetic_host import CallSums, batch, record, slot

from balloontrace.analysis.columns import decode_batches
from balloontrace.format import guest_layout, host_layout
from balloontrace.format.host_counters import parse_host_counters, unfinished_batches, used_slots
from balloontrace.format.vocabulary import BatchFlag, Call, Queue

TABLES = {
    "bt_batch": tuple(
        (re.sub(r"^calls_(\d+)$", r"calls[\1]", name), kind, offset)
        for name, kind, offset in host_layout.BATCH.fields
    ),
    "bt_sampled_batch": tuple(
        (re.sub(r"^samples_(\d+)$", r"samples_in[\1]", name), kind, offset)
        for name, kind, offset in host_layout.SAMPLED_BATCH.fields
    ),
    "bt_thread": host_layout.THREAD.fields,
    "bt_call_sums": host_layout.CALL_SUMS.fields,
    "bt_memory_slot": host_layout.MEMORY_SLOT.fields,
    "bt_memory_slots": host_layout.MEMORY_SLOTS.fields,
    "bt_eventfd": host_layout.EVENTFD.fields,
    "bt_fault_slot": host_layout.FAULT_SLOT.fields,
    "bt_live_batches": host_layout.LIVE_BATCHES.fields,
}  # fmt: skip
TODAY = host_layout.parse_batch_layout(None)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_layout_is_what_a_c_compiler_makes_of_the_header(tmp_path: Path) -> None:
    numbers = {
        "sizeof(struct bt_batch)": host_layout.BATCH.size_bytes,
        "sizeof(struct bt_sampled_batch)": host_layout.BATCH.size_bytes,
        "sizeof(struct bt_thread)": host_layout.THREAD.size_bytes,
        "sizeof(struct bt_threads)": host_layout.THREADS_BYTES,
        "sizeof(struct bt_call_sums)": host_layout.CALL_SUMS.size_bytes,
        "offsetof(struct bt_thread, batch)": host_layout.THREAD.offsets["batch"],
        "offsetof(struct bt_thread, sums)": host_layout.THREAD.offsets["sums"],
        "offsetof(struct bt_call_sums, buckets)": host_layout.CALL_SUMS.offsets["buckets"],
        "BT_BUCKETS": guest_layout.BUCKETS,
        "sizeof(struct bt_memory_slots)": host_layout.MEMORY_SLOTS.size_bytes,
        "offsetof(struct bt_memory_slots, at)": host_layout.MEMORY_SLOTS.offsets["at"],
        "BT_MEMORY_SLOTS": host_layout.MOST_MEMORY_SLOTS,
        "sizeof(struct bt_eventfd)": host_layout.EVENTFD.size_bytes,
        "sizeof(struct bt_eventfds)": host_layout.EVENTFDS_BYTES,
        "offsetof(struct bt_eventfd, kick_ns)": host_layout.EVENTFD.offsets["kick_ns"],
        "BT_KICK_TIMES": host_layout.KICK_TIMES,
        "BT_PROVEN": host_layout.PROVEN,
        "sizeof(struct bt_faults)": host_layout.FAULTS_BYTES,
        "sizeof(struct bt_live_batches)": host_layout.LIVE_BATCHES.size_bytes,
        "sizeof(struct bt_live_slots)": host_layout.LIVE_SLOTS_BYTES,
        "BT_CALLS": len(Call),
    }
    assert_is_c(tmp_path, "balloon_batches.h", TABLES, numbers)


def test_sums_of_threads_add_up() -> None:
    raw = (
        slot(0)
        + slot(7, CallSums(Call.MADVISE_DONTNEED, 3, 12288, 3 * 1024))
        + bytes(host_layout.THREAD.size_bytes)
    )
    raw += slot(
        8,
        CallSums(Call.MADVISE_DONTNEED, 2, 8192, 2 * 1024),
        CallSums(Call.FALLOCATE_PUNCH_HOLE, 1, 4096, 1024),
    )
    used = used_slots(raw)
    assert len(used) == 2 * host_layout.THREAD.size_bytes
    found = parse_host_counters(used)
    assert (found.batches, found.all_calls) == (2, 6)
    dontneed = found.calls[Call.MADVISE_DONTNEED]
    assert (dontneed.calls, dontneed.bytes, dontneed.duration_ns) == (5, 20480, 5 * 1024)
    assert dontneed.buckets[10] == 5
    assert found.calls[Call.FALLOCATE_PUNCH_HOLE].calls == 1


def test_a_slot_cut_short_is_left_out() -> None:
    raw = slot(7, CallSums(Call.MADVISE_FREE, 3, 0, 3 * 1024))
    assert parse_host_counters(raw + raw[:100]).all_calls == 3
    assert parse_host_counters(b"").all_calls == 0


def test_a_batch_under_way_is_kept_as_unfinished() -> None:
    raw = slot(7, under_way=batch(kick_ns=5, first_call_ns=6, tid=7, flags=int(BatchFlag.KICK_SEEN)))
    raw += slot(8, under_way=batch(kick_ns=5))
    batches = decode_batches([unfinished_batches(raw)], TODAY)
    assert batches.int64("tid").tolist() == [7]
    assert batches.int64("flags").tolist() == [BatchFlag.KICK_SEEN | BatchFlag.UNFINISHED]


def test_batches_come_in_order_and_know_their_queue() -> None:
    raw = [
        record(first_call_ns=30, last_return_ns=31, calls_3=256, flags=1),
        record(
            first_call_ns=10,
            last_return_ns=12,
            done_ns=12,
            calls_0=256,
            calls_5=256,
            madvise_bytes=1 << 20,
            flags=5,
        ),
        record(first_call_ns=20, last_return_ns=21, calls_0=1, calls_3=1),
        record(first_call_ns=40, last_return_ns=40, calls_4=1),
    ]
    batches = decode_batches([b"".join(raw[:1]), b"".join(raw[1:])], TODAY)
    assert batches.int64("first_call_ns").tolist() == [10, 20, 30, 40]
    assert batches.queue.tolist() == [Queue.INFLATE, -1, Queue.DEFLATE, -1]
    assert batches.has(BatchFlag.DONE_SEEN).tolist() == [True, False, False, False]
    assert batches.calls(Call.MADVISE_DONTNEED, Call.FALLOCATE_PUNCH_HOLE).tolist() == [512, 1, 0, 0]
    assert batches.damaged == 0


FILE, DONE = 6, int(BatchFlag.DONE_SEEN)
HOLE = {"calls_5": 1, "fallocate_bytes": 1 << 20, "file": FILE}
ADVICE = {"calls_3": 256, "madvise_bytes": 1 << 20}


def test_what_came_before_a_buffer_that_was_found_by_looking_is_no_part_of_it() -> None:
    raw = [
        record(first_call_ns=100, last_return_ns=150, calls_ns=50, **HOLE),
        record(first_call_ns=200, last_return_ns=270, calls_ns=70, **HOLE),
        record(
            first_call_ns=1000, last_return_ns=5000, done_ns=5100, calls_ns=2060, flags=DONE, **HOLE, **ADVICE
        ),
        record(
            kick_ns=6000, first_call_ns=6010, last_return_ns=7000, done_ns=7001, calls_ns=900,
            flags=DONE | int(BatchFlag.KICK_SEEN), **ADVICE,
        ),
    ]  # fmt: skip
    batches = decode_batches([b"".join(raw)], TODAY)
    assert batches.int64("first_call_ns").tolist() == [100, 200, 1000, 3000, 6010]
    assert batches.int64("last_return_ns").tolist() == [150, 270, 1060, 5000, 7000]
    assert batches.int64("calls_ns").tolist() == [50, 70, 60, 2000, 900]
    assert batches.int64("madvise_bytes").tolist() == [0, 0, 0, 1 << 20, 1 << 20]
    assert batches.int64("fallocate_bytes").tolist() == [1 << 20, 1 << 20, 1 << 20, 0, 0]
    assert batches.int64("file").tolist() == [FILE, FILE, FILE, 0, 0]
    assert batches.int64("done_ns").tolist() == [0, 0, 0, 5100, 7001]
    assert batches.queue.tolist()[3:] == [Queue.DEFLATE, Queue.DEFLATE]
    assert batches.damaged == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"file": FILE + 1},  # never discarded alone
        {"flags": DONE | int(BatchFlag.KICK_SEEN), "kick_ns": 900},
        {"calls_5": 256},  # as many as of the other sort
        {"flags": 0, "done_ns": 0},
    ],
)
def test_other_batches_with_calls_of_two_sorts_stay_as_they_are(changed: dict[str, int]) -> None:
    mixed = {
        "first_call_ns": 1000, "last_return_ns": 5000, "done_ns": 5100, "calls_ns": 2060, "flags": DONE,
        **HOLE, **ADVICE, **changed,
    }  # fmt: skip
    alone = record(first_call_ns=100, last_return_ns=150, calls_ns=50, **HOLE)
    batches = decode_batches([alone + record(**mixed)], TODAY)
    assert batches.int64("calls_3").tolist() == [0, 256]
    assert batches.int64("calls_ns").tolist() == [50, 2060]


def test_many_such_batches_and_impossible_counts_are_parted_at_once() -> None:
    raw = []
    for place in range(20_000):
        at_ns, file = place * 10_000, FILE + place
        raw.append(
            record(first_call_ns=at_ns + 1, last_return_ns=at_ns + 60, calls_ns=50, **{**HOLE, "file": file})
        )
        raw.append(
            record(
                first_call_ns=at_ns + 1000, last_return_ns=at_ns + 5000, done_ns=at_ns + 5100, calls_ns=2050,
                flags=DONE, **{**HOLE, **ADVICE, "file": file, "calls_5": 0xFFFFFFFF if place % 2 else 1},
            )
        )  # fmt: skip
    batches = decode_batches([b"".join(raw)], TODAY)
    assert len(batches) == 3 * 20_000
    assert batches.parted == 20_000
    took_ns = batches.int64("calls_ns")
    assert (took_ns >= 0).all()
    assert took_ns.sum() == 20_000 * (50 + 2050)
    assert (batches.int64("first_call_ns") <= batches.int64("last_return_ns")).all()


def test_damaged_batches_are_counted() -> None:
    odd = struct.pack("<II", 96, 0) + batch(first_call_ns=5)
    impossible = record(first_call_ns=1 << 63)
    batches = decode_batches([record(first_call_ns=1, last_return_ns=1) + odd + impossible + b"torn"], TODAY)
    assert (len(batches), batches.damaged) == (1, 3)
    assert len(decode_batches([], TODAY)) == 0

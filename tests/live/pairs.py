# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of the nested lab share: a host and a guest, and what the host's kernel counts of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contradictions import assert_no_contradiction
from tracing import MIB_PAGES, Json, balloontrace, shell

import lab
from balloontrace.analysis.columns import Batches, decode_batches
from balloontrace.format.host_layout import parse_batch_layout
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Call
from lab.bpftrace import bpftraced
from lab.cache import run_folder
from lab.folders import read_state
from lab.steady import fill_no_huge_pages

FULL_MIB = 1024
TOUCHED_MIB = 400
MOVED_MIB = 251
MOVED_PAGES = MOVED_MIB * MIB_PAGES
# What the guest does of its own meanwhile: a few programs started, their files read.
SLACK_MIB = 16
COUNTERS = ("balloon_inflate", "balloon_deflate")
MOVE_S = 300
# In the host: madvise calls by process and advice, counted by the kernel; the tool has no part in it. Only
# those of a process's first thread: the others of QEMU give their stacks back when they end.
# The intervals are attached before and after: when both have passed, so is what is between them.
COUNT_MADVISE = """
interval:ms:100 { @before = 1; }
tracepoint:syscalls:sys_enter_madvise /tid == pid/ { @calls[pid, args.behavior] = count(); }
interval:ms:150 /@before/ { printf("counting\\n"); }
"""
DONTNEED, REMOVE = 4, 9


@contextmanager
def booted(memory_mib: int = FULL_MIB, **options: Any) -> Iterator[lab.Nested]:
    """A pair; afterwards neither VM has a process or a folder."""
    with lab.nested(memory_mib=memory_mib, **options) as pair:
        fill_no_huge_pages(pair.host)
        vm_folders = [run_folder() / vm.name for vm in (pair.guest, pair.host)]
        states = [read_state(folder) for folder in vm_folders]
        yield pair
    assert not any(folder.exists() for folder in vm_folders)
    assert not any(state is None or state.qemu.is_alive() for state in states)


def touch_memory(guest: lab.Guest) -> None:
    """Has the guest use so much, once: what it never touched is not there to be freed."""
    guest.run(
        shell(f"head -c {TOUCHED_MIB}M /dev/zero > /dev/shm/x; rm /dev/shm/x"), timeout_s=300, check=True
    )


@contextmanager
def counted_madvise(host: lab.Guest) -> Iterator[dict[tuple[int, int], int]]:
    """The calls in the host meanwhile, by process id and advice; there when the block has ended."""
    calls: dict[tuple[int, int], int] = {}
    with bpftraced(host, COUNT_MADVISE) as maps:
        yield calls
    for key, count in maps.get("@calls", {}).items():
        process, advice = map(int, key.split(","))
        calls[process, advice] = count


def assert_rss_followed(before_bytes: int, after_bytes: int) -> None:
    assert abs((before_bytes - after_bytes >> 20) - MOVED_MIB) <= SLACK_MIB


# ---- reports of both sides ----

SPLIT = ["a", "b", "c", "d", "other"]
UNSPLIT = ["a", "b+c+d", "other"]


def report_both(guest: Path, host: Path) -> Json:
    """The report of two recordings that belong together; the guest's alone says nothing against it."""
    found, alone = (_read_report(*recordings) for recordings in ((guest, host), (guest,)))
    assert_no_contradiction(alone, found)
    return found


def _read_report(*recordings: Path) -> Json:
    done = balloontrace("report", "--format", "json", *recordings)
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


def assert_refused(guest: Path, host: Path) -> str:
    """Two recordings that do not belong together make no report; the one sentence that says so."""
    done = balloontrace("report", "--format", "json", guest, host)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("balloontrace: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def top_stages(operation: Json) -> list[str]:
    return [row["stage"] for row in operation["stages"] if row["part_of"] is None]


def top_sum_ns(operation: Json) -> int:
    """The sum of the stages, each of which must have been measured."""
    return sum(row["total_ns"] for row in operation["stages"] if row["part_of"] is None)


def host_calls(found: Json, call: Call) -> Json:
    """The sums of one kind of call, none of which failed or was zero-length."""
    (row,) = [row for row in found["host"]["calls"] if row["call"] == call.name.lower()]
    assert (row["errors"], row["no_bytes"]) == (0, 0)
    assert sum(row["buckets"]) == row["calls"]
    return dict(row)


def read_batches(recording: Path) -> Batches:
    """The batches of a host's recording."""
    read = read_recording(recording)
    return decode_batches(read.batches, parse_batch_layout(read.metadata["batch_layout"]))

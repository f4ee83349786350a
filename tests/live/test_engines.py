# SPDX-License-Identifier: GPL-2.0-or-later
"""Engines beside each other in one guest: the same operations make the same spans and the same batches."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from allocation_parts import assert_idle, split_operations
from hostserve import WARM_UP, Server
from tracing import (
    ATTACH_S,
    FULL_MIB,
    MIB_PAGES,
    Json,
    Recorder,
    assert_summed_up,
    assert_whole,
    migrate_pages,
    move,
    outcomes,
    report,
    start_recording,
)

import lab
from balloontrace.analysis.columns import decode_batches, decode_spans
from balloontrace.format.guest_layout import parse_span_layout
from balloontrace.format.host_counters import parse_host_counters
from balloontrace.format.host_layout import parse_batch_layout
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Function

ENGINES = ("prebuilt", "bcc")
ORDERS = ("dontneed 257", "remove 11", "punch 5 3", "both 7", "fail 3", "empty 2")
MOVED_MIB = 61
# Spans of three moves take 45 KB. While nobody reads, half of it gets full: then migrations are summed up.
BUFFER, MIGRATED = "256K", 3000
SETUP_BYTES = 45_000_000
LOCKED_MIB = 1024
MOUNT = "[ -e /sys/kernel/security/lockdown ] || mount -t securityfs none /sys/kernel/security"
LOCK_DOWN = f"""
{MOUNT}
echo confidentiality > /sys/kernel/security/lockdown
umount /sys/kernel/security
"""
HIDE_BCC = """
mkdir -p /tmp/hidden/bcc
echo 'raise ImportError("hidden")' > /tmp/hidden/bcc/__init__.py
"""


def start_engines(guest: lab.Guest, name: str, *options: str) -> list[Recorder]:
    """A recorder with each engine, all attached."""
    started = [
        start_recording(guest, f"/root/{name}-{engine}.bt", "--engine", engine, *options)
        for engine in ENGINES
    ]
    return [recorder.wait_attached() for recorder in started]


def kinds_of_spans(path: Path) -> Counter[tuple[int, ...]]:
    """How many spans there are of each function before any migration, with what they say beside times."""
    recording = read_recording(path)
    spans = decode_spans(recording.spans, parse_span_layout(recording.metadata["span_layout"]))
    names = ("function", "flags", "device", "queue", "pages", "result", "config_calls", "target_pages")
    starts_ns = spans.int64("start_ns")
    before = starts_ns < starts_ns[spans.of(Function.VIRTBALLOON_MIGRATEPAGE)].min()
    columns = [spans.int64(name)[before].tolist() for name in (*names, "actual_pages")]
    return Counter(zip(*columns, strict=True))


def calls_of_batches(path: Path) -> Json:
    """What a recording of the host's side says beside times."""
    recording = read_recording(path)
    assert recording.counters is not None
    counters = parse_host_counters(recording.counters)
    assert (counters.lost, counters.unmatched_returns, counters.overwritten) == (0, 0, 0)
    batches = decode_batches(recording.batches, parse_batch_layout(recording.metadata["batch_layout"]))
    names = ("madvise_bytes", "fallocate_bytes", "errors", "last_errno", "flags", "tid")
    return {
        "calls": {str(kind): sums.calls for kind, sums in counters.calls.items()},
        **{name: batches.int64(name).tolist() for name in names},
    }


def test_either_engine_sees_the_same_spans(guest: lab.Guest, tmp_path: Path) -> None:
    """With all that a recording of the guest may have: recorders take long to attach with bcc."""
    recorders = start_engines(guest, "guest", "--split-allocation", "--buffer", BUFFER)
    for target_mib in (FULL_MIB - MOVED_MIB, FULL_MIB, FULL_MIB - MOVED_MIB):
        move(guest, target_mib)
    with stopped(recorders):
        migrate_pages(guest, at_least=MIGRATED)
    move(guest, FULL_MIB)
    for recorder in recorders:
        recorder.end()
    paths = [recorder.pull(tmp_path) for recorder in recorders]
    assert kinds_of_spans(paths[0]) == kinds_of_spans(paths[1])
    for engine, path in zip(ENGINES, paths, strict=True):
        found = report(path)
        (warning,) = found["warnings"]
        assert "known as sums alone" in warning
        assert_whole({**found, "warnings": []})
        pages = MOVED_MIB * MIB_PAGES
        assert outcomes(found) == [(kind, "reached", pages) for kind in ("inflate", "deflate")] * 2
        assert read_recording(path).metadata["engine"] == engine
        assert_summed_up(found)
        assert_idle(split_operations(found)[:2])
    assert report(paths[0])["own_cost"]["setup_peak_memory_bytes"] < SETUP_BYTES


@contextmanager
def stopped(recorders: Sequence[Recorder]) -> Iterator[None]:
    """They read nothing meanwhile, so that what is traced fills their buffers."""
    for recorder in recorders:
        recorder.process.signal(signal.SIGSTOP)
    yield
    for recorder in recorders:
        recorder.process.signal(signal.SIGCONT)


def test_either_engine_sees_the_same_batches(guest: lab.Guest, server: Server, tmp_path: Path) -> None:
    recorders = start_engines(guest, "host", "-p", str(server.pid))
    server.serve(WARM_UP, *ORDERS)
    for recorder in recorders:
        recorder.end()
    seen = [calls_of_batches(recorder.pull(tmp_path)) for recorder in recorders]
    assert len(seen[0]["flags"]) == len(ORDERS)
    assert seen[0] == seen[1]


def test_lockdown_leaves_fentry(tmp_path: Path) -> None:
    """The kernel then copies no memory for programs, and takes no kprobes; securityfs need not say so."""
    with lab.solo(memory_mib=LOCKED_MIB) as guest:
        guest.run(["sh", "-c", LOCK_DOWN], check=True)
        recorder = start_recording(guest, "/root/locked.bt").wait_attached()
        move(guest, LOCKED_MIB - 300)
        move(guest, LOCKED_MIB)
        recorder.end()
        found = report(recorder.pull(tmp_path))
        assert_whole(found)
        # Where two functions are called vp_get, type information may have neither: then no target is known.
        moved = [(operation["kind"], operation["pages"]) for operation in found["operations"]]
        assert moved == [("inflate", 300 * MIB_PAGES), ("deflate", 300 * MIB_PAGES)]
        attached = [probe for probe in found["header"]["probes"] if probe["status"] == "attached"]
        assert not any("kprobe" in (probe["mechanism"] or "") for probe in attached)
        guest.run(["sh", "-c", MOUNT], check=True)
        refused = guest.run(
            ["balloontrace", "record", "-o", "/root/no.bt", "--capture", "payload"], timeout_s=ATTACH_S
        )
        assert (refused.status, "leave it out" in refused.stderr) == (2, True)


def test_without_bcc_and_headers(guest: lab.Guest, tmp_path: Path) -> None:
    guest.run(["sh", "-c", HIDE_BCC], check=True)
    recorder = start_recording(
        guest, "/root/alone.bt", "--engine", "prebuilt", "--operations", "1",
        env={"PYTHONPATH": "/tmp/hidden"},
    ).wait_attached()  # fmt: skip
    move(guest, FULL_MIB - 53)
    assert recorder.wait().status == 0
    found = report(recorder.pull(tmp_path))
    assert_whole(found)
    assert outcomes(found) == [("inflate", "reached", 53 * MIB_PAGES)]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Discards of a process's own memory: told by KVM's memory slots or its mappings, and never sends."""

from __future__ import annotations

from typing import Any

import pytest
from other_buffers import MIB, discard
from synthetic_both import flow_of, guest_recording
from synthetic_host import Batch, batches, host_recording, pack_batch

from balloontrace.analysis.make_report import analyse
from balloontrace.render import blocks_text
from balloontrace.render.report.sections import describe_report
from balloontrace.results.report import Report

GUEST, GUEST_BYTES = 0x7F00_0000_0000, 1 << 30
HEAP = 0x5555_0000_0000
SLOTS = [
    {"address": GUEST, "bytes": MIB, "guest_address": 0},
    {"address": GUEST + MIB, "bytes": GUEST_BYTES - MIB, "guest_address": MIB},
]
REGION = {"start": GUEST, "end": GUEST + GUEST_BYTES, "shared": False, "name": "", "file": None}
OWN = "discard of the process's own memory"


def sent(found: list[Batch]) -> bytes:
    return b"".join(pack_batch(each, address=GUEST + 4096 * number) for number, each in enumerate(found))


def trims(found: list[Batch], *, like_buffers: bool = False) -> bytes:
    """Of the heap, each of fewer pages than a send."""
    return b"".join(
        discard(each.done_ns + 3_000, calls=3, size=4096, address=HEAP + number, kicked=like_buffers)
        for number, each in enumerate(found[3::7])
    )


def both(raw: bytes, found: list[Batch], flow: Any, **known: Any) -> Report:
    host = host_recording(found, raw=raw, changes=known, end=known)
    return analyse(guest_recording(flow), host)


def told(report: Report) -> dict[tuple[str, str], int]:
    assert report.host is not None
    return {(each.what, each.told_by): each.buffers for each in report.host.others}


@pytest.mark.parametrize("like_buffers", [False, True])
@pytest.mark.parametrize(
    ("known", "told_by"),
    [({"memory_slots": SLOTS}, "memory slots"), ({"regions": [REGION]}, "mappings")],
    ids=["slots", "mappings"],
)
def test_what_the_process_trims_is_told_apart(known: Any, told_by: str, *, like_buffers: bool) -> None:
    flow = flow_of()
    found = batches(flow)
    trimmed = trims(found, like_buffers=like_buffers)
    report = both(sent(found) + trimmed, found, flow, **known)
    assert report.host is not None
    assert report.host.pairing is not None
    assert (report.host.pairing.pairs, report.host.pairing.batches) == (len(found), len(found))
    assert told(report) == {(OWN, told_by): len(found[3::7])}
    assert all(operation.served is not None for operation in report.operations)
    assert report.host.guest_memory_bytes == (GUEST_BYTES if told_by == "memory slots" else None)
    shown = " ".join(blocks_text.text_of(describe_report(report)).split())
    assert f"{len(found[3::7])} discards of the process's own memory by" in shown
    assert ("memory of the guest, by KVM's memory slots: 1.00 GiB" in shown) == (told_by == "memory slots")


def test_slots_keep_discards_out_of_matching_that_would_make_it_impossible() -> None:
    """As many as there are sends, at the same times, by another thread that no kick is seen of."""
    flow = flow_of()
    found = batches(flow)
    twins = b"".join(
        discard(each.kick_ns + 1000, calls=256, size=4096, address=HEAP, kicked=False, tid=77)
        for each in found
    )
    report = both(sent(found) + twins, found, flow, memory_slots=SLOTS)
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.batches == len(found)
    assert told(report) == {(OWN, "memory slots"): len(found)}


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"memory_slots": None},
        {"memory_slots": []},
        {"memory_slots": "all"},
        {"memory_slots": [{"address": HEAP, "bytes": GUEST_BYTES}]},
        {"memory_slots": [{"address": -1, "bytes": 2**63}, 7, {"address": HEAP, "bytes": 2**62}]},
        {"regions": [{**REGION, "start": HEAP, "end": HEAP + GUEST_BYTES}]},
        {"regions": [{**REGION, "start": start << 20, "end": (start + 1) << 20} for start in range(64)]},
    ],
    ids=["nothing", "no VM", "empty", "a text", "all is guest's", "odd", "a large one", "more than kept"],
)
def test_without_proof_nothing_is_called_the_processs_own(known: Any) -> None:
    flow = flow_of()
    found = batches(flow)
    raw = b"".join(map(pack_batch, found)) + trims(found)
    report = both(raw, found, flow, **known)
    assert told(report) == {("advice outside of buffers", "calls"): len(found[3::7])}


def test_a_host_alone_tells_it_too() -> None:
    found = batches(flow_of())
    host = host_recording(found, raw=sent(found) + trims(found), changes={"memory_slots": SLOTS})
    assert told(analyse(host)) == {(OWN, "memory slots"): len(found[3::7])}

# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of what sends carry, of 7 of 8 GiB by both drivers: recorder, kernel and device agree."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from told import CAPTURE, Told, assert_device_agrees, named, tell
from tracing import (
    MIB_PAGES,
    PAGE_BYTES,
    Recorder,
    assert_no_trace,
    assert_sums,
    assert_whole,
    balloontrace,
    loss,
    move,
    outcomes,
    report,
    start_recording,
)
from witness import Witness

import lab
from balloontrace.format.guest_layout import PAYLOAD, RING_HEADER_BYTES
from balloontrace.trace.guest.collector import PAYLOAD_RING_BYTES
from lab.patched_driver import load_patched

WHOLE_MIB = 7168
WHOLE_PAGES = WHOLE_MIB * MIB_PAGES


@dataclass(frozen=True)
class Overflown:
    """A recorder that was stopped while it should have drained, and what it said at the end."""

    path: Path
    stderr: str


def seven_of_eight(guest: lab.Guest, recorder: Recorder, folder: Path) -> Told:
    witness = Witness(guest)
    move(guest, 8192 - WHOLE_MIB, timeout_s=300)
    move(guest, 8192, timeout_s=300)
    recorder.end()
    return tell(recorder.pull(folder), witness)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, Overflown]:
    """7 GiB in and out with the stock driver; of two recorders one sleeps through it."""
    folder = tmp_path_factory.mktemp("stock")
    with lab.solo(memory_mib=8192, device="backend", dump=True) as guest:
        awake = start_recording(guest, "/root/stock.bt", *CAPTURE)
        stopped = start_recording(guest, "/root/overflown.bt", *CAPTURE, "--buffer", "8M")
        awake.wait_attached()
        stopped.wait_attached().process.signal(signal.SIGSTOP)
        told = seven_of_eight(guest, awake, folder)
        stopped.process.signal(signal.SIGCONT)
        overflown = Overflown(path=folder / "overflown.bt", stderr=stopped.end().stderr)
        stopped.pull(folder)
        assert_no_trace(guest)
    return told, overflown


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Told:
    with lab.solo(memory_mib=8192, device="backend", page_bitmap=True, dump=True) as guest:
        load_patched(guest)
        recorder = start_recording(guest, "/root/patched.bt", *CAPTURE).wait_attached()
        told = seven_of_eight(guest, recorder, tmp_path_factory.mktemp("patched"))
        assert_no_trace(guest)
    return told


def assert_seven_gibibytes(told: Told, sends: int) -> None:
    """Every page once, by every count there is."""
    found = told.found
    assert_whole(found)
    assert_sums(found)
    assert_device_agrees(told)
    assert outcomes(found) == [("inflate", "reached", WHOLE_PAGES), ("deflate", "reached", WHOLE_PAGES)]
    assert told.vmstat == [WHOLE_PAGES] * 2
    assert [(row["spans"], row["independent"], row["agrees"]) for row in named(found)] == [
        (WHOLE_PAGES, WHOLE_PAGES, True)
    ] * 2
    for operation in found["operations"]:
        payload, device = operation["payload"], told.totals[operation["kind"]]
        assert (payload["pages_named"], payload["distinct"]["pages"]) == (WHOLE_PAGES, WHOLE_PAGES)
        assert (device["pages"], device["already"]) == (WHOLE_PAGES, 0)
        assert operation["sends"] == device["buffers"] == sends
        assert payload["bytes_sent"] + payload["header_bytes"] == device["bytes"]
    assert told.totals["inflate"]["discarded_bytes"] == WHOLE_PAGES * PAGE_BYTES


def test_the_stock_driver_names_each_page_by_number(stock: tuple[Told, Overflown]) -> None:
    told, _ = stock
    assert_seven_gibibytes(told, sends=WHOLE_MIB)
    for operation in told.found["operations"]:
        assert operation["bitmap"] is None
        assert operation["payload"]["bytes_sent"] == 4 * WHOLE_PAGES
        assert operation["payload"]["bytes_per_page"] == 4
    assert told.totals["inflate"]["discards"] == WHOLE_PAGES


def test_the_patched_driver_names_them_in_one_send(patched: Told) -> None:
    assert_seven_gibibytes(patched, sends=1)
    for operation, calls in zip(patched.found["operations"], ("discards", "willneeds"), strict=True):
        bitmap, payload = operation["bitmap"], operation["payload"]
        assert (bitmap["windows"], bitmap["passes"], bitmap["mid_window_sends"]) == (1, 1, 0)
        assert bitmap["bytes_sent"] == payload["bytes_sent"]
        assert payload["runs_named"] == patched.totals[operation["kind"]][calls]
        # Runs that touch are more than one call: the device merges none.
        assert payload["distinct"]["runs"] <= payload["runs_named"] < WHOLE_MIB
        assert payload["bytes_per_page"] < 0.01


def test_pieces_without_room_are_counted_and_nothing_is_made_up(stock: tuple[Told, Overflown]) -> None:
    told, overflown = stock
    found = report(overflown.path)
    # One send is one piece, and the ring takes so many; it is drained for the first time at the end.
    kept = PAYLOAD_RING_BYTES // (RING_HEADER_BYTES + PAYLOAD.size_bytes)
    sends = 2 * WHOLE_MIB
    row = loss(found, "payload")
    assert (row["entries"], row["lost"]) == (sends, sends - kept)
    assert WHOLE_MIB < kept < sends
    shown = f"{sends - kept:,}".replace(",", " ")
    assert f"{shown} pieces of payloads were lost: what they named is not known" in found["warnings"]
    # Spans have a ring of their own: every time and count is there.
    assert (found["complete"], found["events_lost"], found["spans_missing"]) == (True, 0, 0)
    assert found["spans"] == told.found["spans"]
    assert outcomes(found) == outcomes(told.found)
    assert_sums(found)
    inflate, deflate = (operation["payload"] for operation in found["operations"])
    assert inflate == told.found["operations"][0]["payload"]
    assert (deflate["sends"], deflate["payloads_whole"]) == (WHOLE_MIB, kept - WHOLE_MIB)
    assert (deflate["payloads_missing"], deflate["payloads_cut"], deflate["payloads_invalid"]) == (
        sends - kept, 0, 0,
    )  # fmt: skip
    # How long they were is known from the spans, what they named is not.
    assert (deflate["bytes_sent"], deflate["bytes_per_page"]) == (4 * WHOLE_PAGES, None)
    assert deflate["pages_named"] == (kept - WHOLE_MIB) * MIB_PAGES
    states = found["operations"][1]["payload_sends"]["state"]
    assert states == ["whole"] * (kept - WHOLE_MIB) + ["missing"] * (sends - kept)
    assert [each["agrees"] for each in named(found)] == [True, None]
    assert [each["agrees"] for each in found["checks"]].count(False) == 0
    text = balloontrace("report", overflown.path)
    assert "INCOMPLETE" in text.stdout
    assert f"{shown} missing" in text.stdout
    assert "pieces of payloads were lost" in text.stderr
    assert overflown.stderr.endswith(f"/root/overflown.bt, 0 lost, and {sends - kept} pieces of payloads\n")

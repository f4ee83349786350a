# SPDX-License-Identifier: GPL-2.0-or-later
"""Why an inflate was slow: each cause brought about in a real guest is named, and without it is not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracing import (
    Json,
    Recorder,
    assert_no_trace,
    assert_sums,
    assert_whole,
    move,
    pull,
    put_back,
    record,
    report,
    shell,
    stage,
)

import lab

FULL_MIB = 1024
PRIME_MIB = 211
HOGS = 4
LEFT_MIB = 256
HELD_MIB = 500


@pytest.fixture(scope="module")
def small() -> Iterator[lab.Guest]:
    """A guest with one CPU, in which what runs keeps others from running."""
    with lab.solo(memory_mib=FULL_MIB, cpus=1) as booted:
        yield booted


@pytest.fixture(autouse=True)
def _left_as_found(small: lab.Guest) -> Iterator[None]:
    yield
    small.check_alive()
    assert_no_trace(small)
    put_back(small, FULL_MIB)


# Holds memory from the start, none of it zeros, and takes as much again at a signal.
_HOG = """
import ctypes, mmap, signal, sys
def take(*_):
    bytes_ = int(sys.argv[1]) << 20
    locked = 0x2000 if sys.argv[2] == "locked" else 0  # MAP_LOCKED
    held.append(mmap.mmap(-1, bytes_, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | locked))
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(held[-1])), 7, bytes_)
held = []
take()
signal.signal(signal.SIGUSR1, take)
print("held", flush=True)
while True:
    signal.pause()
"""
_SWAP_ON = "fallocate -l 700M /root/swap && chmod 600 /root/swap && mkswap -q /root/swap && swapon /root/swap"
_SWAP_OFF = "swapoff /root/swap; rm -f /root/swap"


def ended(recorder: Recorder, folder: Path) -> Json:
    """The report of what it recorded."""
    recorder.end()
    return report(pull(recorder.guest, recorder.path, folder))


def sentences(found: Json) -> str:
    return "\n".join(sentence for operation in found["operations"] for sentence in operation["verdict"])


# ---- short of processor ----


@pytest.mark.parametrize("hogs", [0, HOGS])
def test_a_guest_short_of_processor_is_not_a_slow_host(small: lab.Guest, tmp_path: Path, hogs: int) -> None:
    recorder = record(small, f"/run/{tmp_path.name}.bt")
    loops = " ".join(["while :; do :; done &"] * hogs)
    busy = small.start(shell(f"trap 'kill 0' TERM; {loops} wait")) if hogs else None
    move(small, FULL_MIB - PRIME_MIB, 600)
    move(small, FULL_MIB, 600)
    if busy is not None:
        busy.signal(signal.SIGTERM)
        busy.wait(60)
    found = ended(recorder, tmp_path)
    assert_whole(found)
    assert_sums(found)
    for operation in found["operations"]:
        whole, until, running = (
            stage(operation, name) for name in ("b+c+d", "b+c+d.interrupt", "b+c+d.running")
        )
        unseen = [row["count"] for row in operation["stages"] if row["stage"] == "b+c+d.found"]
        assert running["count"] + sum(unseen) == PRIME_MIB == whole["count"]
        assert until["count"] == running["count"]
        assert 0 <= operation["run_delay_ns"] <= operation["wall_ns"]
    print([f"{each['run_delay_ns'] / each['wall_ns']:.3f}" for each in found["operations"]])
    assert ("short of processor" in sentences(found)) is bool(hogs)
    assert "host slow" not in sentences(found)


# ---- short of memory ----


@pytest.mark.parametrize("grows", [False, True])
def test_whom_the_out_of_memory_killer_ended_is_said(small: lab.Guest, tmp_path: Path, grows: bool) -> None:
    """The hog leaves the balloon too little; when it takes more, it is killed, and the balloon goes on."""
    recorder = record(small, f"/run/{tmp_path.name}.bt")
    hog = small.start(["python3", "-c", _HOG, str(HELD_MIB if grows else 1), "locked"])
    hog.wait_for(b"held", 120, stream="stdout")
    small.set_balloon(target_mib=LEFT_MIB)
    if grows:
        some_bytes = (FULL_MIB - 100) << 20
        small.wait_until(
            lambda: small.balloon_actual_bytes() < some_bytes, 120, what="100 MiB in the balloon"
        )
        hog.signal(signal.SIGUSR1)
    small.wait_balloon(timeout_s=300)
    move(small, FULL_MIB, 300)
    if not grows:
        hog.signal(signal.SIGKILL)
    assert hog.wait(60).status == -signal.SIGKILL
    found = ended(recorder, tmp_path)
    named = f"the out-of-memory killer ended python3 (pid {hog.pid}) meanwhile"
    assert (named in sentences(found)) is grows
    assert ("killer" in sentences(found)) is grows
    inflate = found["operations"][0]
    assert inflate["guest_cost"]["oom_kills"] == int(grows)


@pytest.mark.parametrize("squeezed", [False, True])
def test_swapping_is_said_with_how_much(small: lab.Guest, tmp_path: Path, squeezed: bool) -> None:
    small.run(shell(_SWAP_ON), check=True, timeout_s=300)
    try:
        before = small.vmstat()
        recorder = record(small, f"/run/{tmp_path.name}.bt")
        hog = small.start(["python3", "-c", _HOG, str(HELD_MIB if squeezed else 1), "loose"])
        hog.wait_for(b"held", 300, stream="stdout")
        move(small, LEFT_MIB, 900)
        move(small, FULL_MIB, 900)
        hog.signal(signal.SIGKILL)
        hog.wait(60)
        found = ended(recorder, tmp_path)
        after = small.vmstat()
    finally:
        small.run(shell(_SWAP_OFF), timeout_s=300)
    inflate = found["operations"][0]
    swapped = inflate["guest_cost"]["swapped_out_pages"]
    assert ("the guest swapped" in sentences(found)) is squeezed
    outside = sum(after.get(name, 0) - before.get(name, 0) for name in ("pswpout", "swpout_zero"))
    assert 0 <= swapped <= outside
    assert (swapped > (HELD_MIB << 8) // 10) is squeezed

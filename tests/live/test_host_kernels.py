# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side on an old kernel and on the newest: what traces calls is taken, and what samples them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracing import Json

import lab
from lab.kernels import IMAGES
from lab.matrix import read_report, start_recording
from lab.process import GuestProcess

BUFFERS, PAGES = 150, 200
SERVED_S = 300
ORDERS = "/run/orders"


@pytest.fixture(scope="module", params=["bookworm-bare-6.1", "trixie-bare-7"])
def host(request: pytest.FixtureRequest) -> Iterator[lab.Guest]:
    with lab.solo(memory_mib=1024, spec=IMAGES[request.param], balloons=0) as host:
        yield host


@pytest.fixture(scope="module")
def server(host: lab.Guest) -> GuestProcess:
    """A process that serves BUFFERS with each line of ORDERS."""
    program = host.push(Path(__file__).with_name("discarding.py"))
    host.run(["mkfifo", ORDERS], check=True)
    process = host.start(["sh", "-c", f"exec python3 {program} {BUFFERS} {PAGES} <> {ORDERS}"])
    process.wait_for(b"ready", stream="stdout")
    return process


def record(host: lab.Guest, server: GuestProcess, *options: str) -> Json:
    """What the report says of the host, of all buffers once."""
    before = len(server.read("stdout"))
    recorder = start_recording(host, "-f", "--side", "host", "-p", str(server.pid), *options)
    host.run(["sh", "-c", f"echo > {ORDERS}"], check=True)
    server.wait_for(b"served", SERVED_S, stream="stdout", after=before)
    recorder.signal(signal.SIGINT)
    recorder.wait(check=True)
    report = read_report(host)
    assert report["events_lost"] == 0
    found: Json = report["host"]
    assert found["delimited"] == BUFFERS
    return found


def test_calls_are_traced(host: lab.Guest, server: GuestProcess) -> None:
    calls = {row["call"]: row["calls"] for row in record(host, server)["calls"]}
    assert calls["madvise_dontneed"] == BUFFERS * PAGES


def test_calls_are_sampled(host: lab.Guest, server: GuestProcess) -> None:
    """KVM takes nothing from this process, which is no VM."""
    host.run(["modprobe", "kvm"], check=True)
    found = record(host, server, "--sample", "--count-discards")
    status = {probe["function"]: probe["status"] for probe in found["header"]["probes"]}
    assert status["kvm_unmap_hva_range"] == "attached"
    assert (found["discards"], found["discarded_bytes"]) == (0, 0)
    assert found["samples"] > found["samples_inside"] > 0
    # Where the machine is busy with other things, the VM's clock goes on and its timers are late.
    assert found["samples"] > found["served_ns"] / found["sample_period_ns"] / 10

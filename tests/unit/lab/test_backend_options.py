# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's options, its control socket, and its end."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from backend_device import PFN, counts, started
from frontend import (
    BIT_3,
    DEFLATE,
    GET_QUEUE_NUM,
    HIGH_PFN,
    INFLATE,
    PAGE,
    VERSION_1,
    Device,
    Frontend,
    Json,
    Queue,
    pfns,
    plain,
    response,
    running,
    u64,
)

from lab.errors import LabError
from lab.vhost import ExtraTime, backend_key, parse_log


def spent(event: Json) -> tuple[int, int]:
    """Extra time outside calls and inside, which must both be part of what the buffer took."""
    assert event["extra_ns"] + event["held_ns"] <= event["ns"]
    return event["extra_ns"], event["held_ns"]


def test_extra_time_is_spent_and_told(build: Path, tmp_path: Path) -> None:
    extra = ExtraTime(per_buffer_ns=3_000_000, per_discard_ns=1_000_000, in_discard_ns=2_000_000)
    with started(build, tmp_path, *extra.words()) as (device, frontend):
        frontend.fill(PFN, 2)
        frontend.queues[INFLATE].send(pfns(PFN, PFN + 1))
        outside_ns, inside_ns = spent(device.last_buffer())
        assert outside_ns >= 5_000_000
        assert inside_ns >= 4_000_000
        assert frontend.page(PFN) == frontend.page(PFN + 1) == bytes(PAGE)
        assert counts(device.last_buffer(), "discards", "discarded_bytes", "errors") == [2, 2 * PAGE, 0]
        frontend.queues[DEFLATE].send(pfns(PFN, PFN + 1))
        outside_ns, inside_ns = spent(device.last_buffer())
        assert outside_ns >= 5_000_000
        assert inside_ns == 0  # MADV_WILLNEED removes nothing, so nothing holds it
        status = device.client.status()
        for queue, event in zip(("inflate", "deflate"), device.client.buffers(), strict=True):
            assert counts(status[queue], "extra_ns", "held_ns") == counts(event, "extra_ns", "held_ns")


def test_calls_are_timed_when_wanted(build: Path, tmp_path: Path) -> None:
    extra = ExtraTime(per_discard_ns=1_000_000, in_discard_ns=2_000_000)
    with started(build, tmp_path, "--time-calls", *extra.words()) as (device, frontend):
        frontend.queues[INFLATE].send(pfns(PFN, PFN + 1))
        frontend.queues[DEFLATE].send(pfns(PFN))
        inflate, deflate = device.client.buffers()
        assert 4_000_000 <= inflate["held_ns"] <= inflate["calls_ns"] <= inflate["ns"] - inflate["extra_ns"]
        assert 0 < deflate["calls_ns"] <= deflate["ns"] - deflate["extra_ns"]
        status = device.client.status()
        assert [status[each["queue"]]["calls_ns"] for each in (inflate, deflate)] == [
            inflate["calls_ns"],
            deflate["calls_ns"],
        ]


def test_calls_that_are_not_timed_have_no_time(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    frontend.queues[INFLATE].send(pfns(PFN))
    assert "calls_ns" not in device.last_buffer()
    assert "calls_ns" not in device.client.status()["inflate"]


def test_extra_time_is_set_and_taken_back_while_it_runs(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    queue = frontend.queues[INFLATE]
    moments = (
        ExtraTime(),
        ExtraTime(per_buffer_ns=2_000_000),
        ExtraTime(in_discard_ns=2_000_000),
        ExtraTime(),
        ExtraTime(per_discard_ns=1_000_000, in_discard_ns=1_000_000),
        ExtraTime(),
    )
    for moment in moments:
        device.client.set_extra_time(moment)
        queue.send(pfns(PFN, PFN + 1, HIGH_PFN))
        outside_ns, inside_ns = spent(device.last_buffer())
        wanted_ns = moment.per_buffer_ns + 3 * moment.per_discard_ns, 3 * moment.in_discard_ns
        assert (outside_ns >= wanted_ns[0], inside_ns >= wanted_ns[1]) == (True, True)
        assert (outside_ns > 0, inside_ns > 0) == (wanted_ns[0] > 0, wanted_ns[1] > 0)
    told = [
        tuple(counts(e, "per_buffer_ns", "per_discard_ns", "in_discard_ns")) for e in device.events("extra")
    ]
    assert told == [(each.per_buffer_ns, each.per_discard_ns, each.in_discard_ns) for each in moments]


def test_a_disk_is_discarded_in_the_thread_that_serves(build: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * 5 * PAGE)
    with started(build, tmp_path, "--disk", str(disk)) as (device, frontend):
        frontend.queues[INFLATE].send(pfns(PFN))
        device.client.discard_disk(3, PAGE)
        assert device.client.status()["disk"] == {"discards": 3, "discarded_bytes": 3 * PAGE}
        assert [counts(event, "calls", "bytes") for event in device.events("disk")] == [[3, PAGE]]
    assert disk.read_bytes() == bytes(3 * PAGE) + b"x" * 2 * PAGE


def test_new_memory_is_held_too(build: Path, tmp_path: Path) -> None:
    with started(build, tmp_path, *ExtraTime(in_discard_ns=1_000_000).words()) as (device, frontend):
        for _ in range(3):
            frontend.share_memory()
            frontend.queues[INFLATE].send(pfns(HIGH_PFN))
            assert spent(device.last_buffer())[1] >= 1_000_000
        assert device.events("not-held") == []


def test_bit_3_means_what_the_drivers_queues_say(build: Path, tmp_path: Path) -> None:
    """One device, drivers of both kinds one after the other, as when modules are unloaded and loaded."""
    options = ("--page-bitmap", "--free-page-hint")
    with started(build, tmp_path, *options, features=VERSION_1 | BIT_3) as (device, frontend):
        assert u64(frontend.ask(GET_QUEUE_NUM)) == 3
        hints = Queue(frontend, 2)
        hints.set_call()
        for with_hints in (False, True, False, True):
            if with_hints:
                hints.start()
                frontend.queues[INFLATE].send(pfns(PFN, PFN + 1))
                assert hints.stop() == 0
            else:
                frontend.queues[INFLATE].send(*response(plain(PFN, 1)))
            mode = "pfn" if with_hints else "bitmap"
            assert (device.last_buffer()["mode"], device.last_buffer()["pages"]) == (mode, 2)
        assert device.events("refused") == []
        hints.close()


def test_nothing_is_discarded_when_told_so(build: Path, tmp_path: Path) -> None:
    with started(build, tmp_path, "--no-discard") as (device, frontend):
        frontend.fill(PFN)
        frontend.queues[INFLATE].send(pfns(PFN))
        frontend.queues[DEFLATE].send(pfns(PFN))
        assert frontend.page(PFN) == b"\xa5" * PAGE
        assert [counts(e, "pages", "discards", "willneeds") for e in device.client.buffers()] == [
            [1, 0, 0]
        ] * 2


@pytest.mark.parametrize(
    "line",
    [
        *("target", "target x", "target -1", "target 4294967296", "hello", "", "target 1 2", "x" * 300),
        *("extra", "extra ", "extra 1", "extra 1 2", "extra 1 2 3 4", "extra 1 2 -3", "extra 1 2 3x"),
        *("discard", "discard 1", "discard 1 4096", "discard 1 -1"),
    ],
)
def test_commands_that_are_none(build: Path, tmp_path: Path, line: str) -> None:
    with running(build, tmp_path) as device:
        with pytest.raises(LabError, match=r"refused"):
            device.client.command(line)
        device.client.close()
        assert device.client.status()["target_pages"] == 0


def test_totals_go_to_the_log(pfn_mode: tuple[Device, Frontend]) -> None:
    device, frontend = pfn_mode
    assert device.client.pid() == device.process.pid
    frontend.queues[INFLATE].send(pfns(PFN))
    answer = device.client.command("totals")
    (event,) = device.events("totals")
    assert {key: event[key] for key in answer} == answer


def test_too_many_clients_are_turned_away(build: Path, tmp_path: Path) -> None:
    with running(build, tmp_path) as device:
        clients = [type(device.client)(tmp_path, device.client._connect) for _ in range(9)]
        results = []
        for client in clients:
            try:
                client.status()
                results.append(True)
            except LabError:
                results.append(False)
        assert results == [True] * 7 + [False] * 2
        for client in clients:
            client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(build: Path, tmp_path: Path, number: int) -> None:
    with pytest.raises(LabError), running(build, tmp_path) as device:  # noqa: PT012
        device.client.set_target_pages(5)
        device.process.send_signal(number)
        assert device.process.wait(10) == 0
        device.client.status()
    events = parse_log((tmp_path / "backend.log").read_text())
    assert [event["event"] for event in events] == ["target", "totals"]
    assert not (tmp_path / "vhost").exists()
    assert not (tmp_path / "control").exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--socket", "a", "--fd", "0"],
        ["--fd", "0"],
        ["--socket", "a", "more"],
        ["--socket", "a", "--extra-ns-per-buffer", "-1"],
        ["--socket", "a", "--extra-ns-in-discard", "1ms"],
        ["--nonsense"],
    ],
)
def test_usage(build: Path, tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run(
        [build / "balloon-backend", *words], cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert b"balloon-backend: " in done.stderr


def test_a_build_is_named_by_its_sources(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text("int one;\n")
    (tmp_path / "Makefile").write_text("all:\n")
    first = backend_key(tmp_path)
    assert backend_key(tmp_path) == first
    assert backend_key(tmp_path, sanitize=True) != first
    (tmp_path / "one.c").write_text("int two;\n")
    assert backend_key(tmp_path) != first

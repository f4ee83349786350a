# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace record --side host --all`: many processes at once, each with what is its own, nobody else."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostserve import WARM_UP, Server
from tracing import ATTACH_S, PieceRecorder, balloontrace, shell, start_recording

import lab
from balloontrace.analysis.columns import decode_batches
from balloontrace.analysis.make_report import examine
from balloontrace.analysis.processes import split_processes, vm_name
from balloontrace.format.host_counters import parse_host_counters
from balloontrace.format.host_layout import parse_batch_layout
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import BatchFlag, Call

# What each is told, and what that makes: calls of two kinds. Prime numbers, so that none is another's.
ORDERS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "web1": (("dontneed 257", 257, 0), ("punch 5 3", 0, 5), ("both 7", 7, 7)),
    "web2": (("dontneed 101", 101, 0), ("dontneed 13", 13, 0)),
    "late": (("dontneed 61", 61, 0), ("punch 3", 0, 3)),
}
WHOLE = BatchFlag.KICK_SEEN | BatchFlag.DONE_SEEN


@pytest.fixture
def kvm(guest: lab.Guest) -> Iterator[None]:
    """A guest without KVM has no such file; whoever has it open looks like a VMM."""
    guest.run(shell("[ -e /dev/kvm ] || { : > /dev/kvm; : > /tmp/made-kvm; }"), check=True)
    yield
    guest.run(shell("[ ! -e /tmp/made-kvm ] || rm /dev/kvm /tmp/made-kvm"), check=True)


@pytest.mark.usefixtures("server", "kvm")
def test_each_vm_has_its_own(guest: lab.Guest, server: Server, tmp_path: Path) -> None:
    servers = {name: Server(guest, name, vm=name) for name in ("web1", "web2")}
    recorder = start_recording(guest, "/root/all.bt", "--side", "host", "--all", "-v").wait_attached()
    for each in (*servers.values(), server):
        each.serve(WARM_UP)
    server.serve("dontneed 31")  # which is no VMM
    servers["late"] = Server(guest, "late", vm="late")
    recorder.process.wait_for(f"tracing {servers['late'].pid} (".encode(), 60)
    servers["late"].serve(WARM_UP)
    for turn in range(3):
        for name, orders in ORDERS.items():
            if turn < len(orders):
                servers[name].serve(orders[turn][0])
    servers["web2"].end()
    done = recorder.end()
    assert " 0 lost" in done.stderr, done.describe()
    for name in ("web1", "late"):
        servers[name].end()
    path = recorder.pull(tmp_path)
    recording = read_recording(path)
    assert recording.complete
    parts = {vm_name(part): part for part in split_processes(recording)}
    assert list(parts) == ["web1", "web2", "late"]
    for name, part in parts.items():
        check_part(part, name)
    shown = balloontrace("report", path)
    assert shown.returncode == 0, shown.stderr
    assert all(f"VM {name})" in shown.stdout for name in ORDERS)
    assert "VM web2)" not in balloontrace("report", path, "--vm", "[wl]*[1e]").stdout


@pytest.mark.usefixtures("kvm", "_hostserve")
def test_pieces_have_each_call_once(guest: lab.Guest, tmp_path: Path) -> None:
    """Of all VMs, and of one."""
    servers = {name: Server(guest, name, vm=name) for name in ("web1", "web2")}
    of_one = ("--side", "host", "-p", str(servers["web1"].pid))
    recorders = [
        PieceRecorder(guest, f"/root/{name}", *options)
        for name, options in (("of-all", ("--side", "host", "--all")), ("of-one", of_one))
    ]
    for recorder in recorders:
        recorder.wait_attached()
    for server in servers.values():
        server.serve(WARM_UP)
    for turn in range(3):
        for name, server in servers.items():
            if turn < len(ORDERS[name]):
                server.serve(ORDERS[name][turn][0])
        for recorder in recorders:
            recorder.wait_for_next()
    of_all, of_one_alone = (
        [part for path in recorder.pull_all(tmp_path) for part in parts_of(path)] for recorder in recorders
    )
    for each in servers.values():
        each.end()
    assert len(of_one_alone) > 3
    check_pieces(of_one_alone, "web1")
    for name in servers:
        check_pieces([part for part in of_all if vm_name(part) == name], name)


@pytest.mark.usefixtures("kvm", "_hostserve")
def test_top_shows_each_vm(guest: lab.Guest) -> None:
    servers = [Server(guest, name, vm=name) for name in ("top1", "top2")]
    top = guest.start(["balloontrace", "top", "--side", "host", "--plain", "-i", "500ms"])
    top.wait_for(b"probes attached", ATTACH_S)
    for each, calls in zip(servers, (131, 53), strict=True):
        each.serve(WARM_UP, f"dontneed {calls}")
    top.signal(signal.SIGINT)
    done = top.wait(60)
    for each in servers:
        each.end()
    assert " 0 lost" in done.stderr, done.describe()
    header, *lines = (line.split() for line in done.stdout.splitlines())
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    seen = {(row["vm"], int(row["pid"])): 0 for row in rows}
    for row in rows:
        seen[row["vm"], int(row["pid"])] += int(row["calls"])
    assert seen == {("top1", servers[0].pid): 131, ("top2", servers[1].pid): 53}


def parts_of(path: Path) -> tuple[Recording, ...]:
    recording = read_recording(path)
    assert recording.complete
    return split_processes(recording)


def check_pieces(parts: list[Recording], name: str) -> None:
    """All batches and all sums, each in one of them."""
    dontneed = sum(calls for _, calls, _ in ORDERS[name])
    punched = sum(calls for _, _, calls in ORDERS[name])
    sums = [parse_host_counters(part.counters or b"") for part in parts]
    assert sum(each.calls[Call.MADVISE_DONTNEED].calls for each in sums) == dontneed
    assert sum(each.all_calls for each in sums) == dontneed + punched
    assert sum(each.batches for each in sums) == len(ORDERS[name])
    assert sum(each.lost + each.no_state + each.unmatched_returns for each in sums) == 0
    hosts = [examine(part).report.host for part in parts]
    assert sum(host.delimited for host in hosts if host) == len(ORDERS[name])
    assert sum(host.batches for host in hosts if host) == len(ORDERS[name])


def check_part(part: Recording, name: str) -> None:
    batches = decode_batches(part.batches, parse_batch_layout(part.metadata["batch_layout"]))
    calls = {kind: [int(count) for count in batches.calls(kind)] for kind in Call}
    dontneed, punched = ([order[1] for order in ORDERS[name]], [order[2] for order in ORDERS[name]])
    assert calls[Call.MADVISE_DONTNEED] == dontneed
    assert calls[Call.FALLOCATE_PUNCH_HOLE] == punched
    assert set(batches.int64("flags").tolist()) == {WHOLE}
    assert len(set(batches.int64("kicked_by").tolist())) == 1
    assert part.counters is not None
    counters = parse_host_counters(part.counters)
    assert counters.calls[Call.MADVISE_DONTNEED].calls == sum(dontneed)
    assert counters.all_calls == sum(dontneed) + sum(punched)
    assert (counters.lost, counters.no_state, counters.unmatched_returns) == (0, 0, 0)
    host = examine(part).report.host
    assert host is not None
    assert (host.delimited, host.events_lost) == (len(ORDERS[name]), 0)
    assert host.ended == ("process exited" if name == "web2" else "interrupted")

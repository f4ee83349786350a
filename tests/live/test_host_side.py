# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace record --side host`: every buffer a process serves, every call it makes, nobody else's."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostserve import WARM_UP, Server
from tracing import ATTACH_S, Recorder, report, run_in_turn, shell, start_recording

import lab
from balloontrace.analysis.columns import Batches, decode_batches
from balloontrace.analysis.metadata import mapping
from balloontrace.analysis.metadata import number as number_of
from balloontrace.format.host_counters import HostCounters, parse_host_counters
from balloontrace.format.host_layout import parse_batch_layout
from balloontrace.format.recording import Recording, read_recording
from balloontrace.format.vocabulary import BatchFlag, Call

PAGE_BYTES = 4096
SPUN, SPUN_CALLS = 61, 127  # buffers sampled, and calls in each
WAYS = 500  # calls that do nothing, in each of 20 rounds
NEAR = 0.01  # of all time: what a look at the clock takes is not the same each time
TIMED_RUNS = 2048  # calls made while attaching
MECHANISMS = {
    "auto": "fentry+fexit",
    "kprobe": "kprobe+kretprobe",
    "tracepoint": "sys_enter+sys_exit tracepoints",
}
# Orders to the process, and what each makes of one buffer: calls by kind, bytes by system call, errors.
# Prime numbers, so that counts that come out right are not right by accident.
ORDERS: tuple[tuple[str, dict[Call, int], int, int, int], ...] = (
    ("dontneed 257", {Call.MADVISE_DONTNEED: 257}, 257, 0, 0),
    ("remove 11", {Call.MADVISE_REMOVE: 11}, 11, 0, 0),
    ("punch 5 3", {Call.FALLOCATE_PUNCH_HOLE: 5}, 0, 15, 0),
    ("both 7", {Call.MADVISE_DONTNEED: 7, Call.FALLOCATE_PUNCH_HOLE: 7}, 7, 7, 0),
    ("fail 3", {Call.MADVISE_DONTNEED: 3}, 0, 0, 3),
    ("empty 2", {Call.MADVISE_DONTNEED: 2}, 0, 0, 0),
    ("free 13", {Call.MADVISE_FREE: 13}, 13, 0, 0),
    ("willneed 17", {Call.MADVISE_WILLNEED: 17}, 17, 0, 0),
    ("normal 1", {Call.MADVISE_OTHER: 1}, 1, 0, 0),
    ("dontneed 2 1024", {Call.MADVISE_DONTNEED: 2}, 2048, 0, 0),
)


@dataclass
class Found:
    """What is in a recording of the host's side."""

    recording: Recording
    batches: Batches
    counters: HostCounters

    @property
    def end(self) -> dict[str, object]:
        assert self.recording.end is not None
        return self.recording.end


def read(recorder: Recorder, folder: Path) -> Found:
    recording = read_recording(recorder.pull(folder))
    assert recording.metadata["side"] == "host"
    assert recording.counters is not None
    layout = parse_batch_layout(recording.metadata["batch_layout"])
    return Found(
        recording, decode_batches(recording.batches, layout), parse_host_counters(recording.counters)
    )


@pytest.mark.parametrize("attach", MECHANISMS)
def test_every_call_of_every_buffer(guest: lab.Guest, server: Server, tmp_path: Path, attach: str) -> None:
    other = Server(guest, "other")
    recorder = start_recording(
        guest, f"/root/host-{attach}.bt", "-p", str(server.pid), "--attach", attach
    ).wait_attached()
    server.serve(WARM_UP)
    other.serve(WARM_UP, "dontneed 101", "punch 3")
    server.serve(*(order for order, *_ in ORDERS))
    recorder.end()
    other.end()
    found = read(recorder, tmp_path)
    assert found.recording.complete
    assert found.end["reason"] == "interrupted"
    batches, counters = found.batches, found.counters
    assert len(batches) == len(ORDERS)
    for number, (order, calls, advised, punched, errors) in enumerate(ORDERS):
        seen = {kind: int(batches.calls(kind)[number]) for kind in Call}
        assert seen == {**dict.fromkeys(Call, 0), **calls}, order
        assert batches.int64("madvise_bytes")[number] == advised * PAGE_BYTES, order
        assert batches.int64("fallocate_bytes")[number] == punched * PAGE_BYTES, order
        assert batches.int64("errors")[number] == errors, order
        assert batches.int64("last_errno")[number] == (22 if errors else 0), order
    assert set(batches.int64("flags").tolist()) == {BatchFlag.KICK_SEEN | BatchFlag.DONE_SEEN}
    assert len(set(batches.int64("tid").tolist())) == 1
    columns = ("kick_ns", "first_call_ns", "last_return_ns", "done_ns")
    kick, first, last, done = (batches.int64(name) for name in columns)
    assert (kick < first).all()
    assert (first < last).all()
    assert (last < done).all()
    assert (batches.int64("calls_ns") <= last - first).all()
    assert (done[:-1] < kick[1:]).all()
    total = {kind: sum(calls.get(kind, 0) for _, calls, *_ in ORDERS) for kind in Call}
    assert {kind: sums.calls for kind, sums in counters.calls.items()} == total
    assert counters.calls[Call.MADVISE_DONTNEED].errors == 3
    assert counters.calls[Call.MADVISE_DONTNEED].no_bytes == 2
    assert sum(sums.duration_ns for sums in counters.calls.values()) == int(batches.int64("calls_ns").sum())
    assert (counters.batches, counters.lost, counters.unmatched_returns) == (len(ORDERS), 0, 0)
    assert (counters.overwritten, counters.no_state) == (0, 0)
    probes = {row["function"]: row for row in found.recording.metadata["probes"]}  # type: ignore[attr-defined]
    assert probes["madvise"]["mechanism"] == MECHANISMS[attach]
    assert probes["madvise"]["status"] == "attached"
    # Beside other work it may seem to take no time, which is not told; test_nested_counting has its cost.
    cost = mapping(found.recording.metadata, "call_cost")
    assert not cost or 0 < (number_of(cost, "inside_ns") or 0) <= (number_of(cost, "added_ns") or 0)
    # The kernel timed the programs then, and not while the balloon moved.
    costs = found.recording.end["own_cost"]["bpf"]  # type: ignore[index]
    timed = {row["program"]: row["timed_runs"] for row in costs}
    assert all(timed[program] >= TIMED_RUNS for program in timed if program.partition("_")[2] == "madvise")


def test_samples_find_the_time_inside_calls(guest: lab.Guest, server: Server, tmp_path: Path) -> None:
    """No call is traced; what the process itself says that it spent inside calls is what samples say.

    It cannot but count the way into a call and back too, which is no part of the function. Calls that do
    nothing tell how long that is.
    """
    before = server.process.read("stderr", 0)
    server.serve(*[f"way {WAYS}"] * 20)  # the quickest had no other process in between
    way_ns = min(map(int, server.process.read("stderr", len(before)).split()[1::3])) / WAYS
    recorder = start_recording(
        guest, "/root/host-sampled.bt", "-p", str(server.pid), "--sample"
    ).wait_attached()
    before = server.process.read("stderr", 0)
    server.serve(WARM_UP, *[f"spin {SPUN_CALLS} 16"] * SPUN)
    said = server.process.read("stderr", len(before)).decode().split()
    recorder.end()
    recording = read_recording(recorder.pull(tmp_path))
    assert not recording.batches
    inside_ns, between_ns = (sum(map(int, said[at::3])) for at in (1, 2))
    host = report(recorder.pull(tmp_path))["host"]
    assert (host["delimited"], host["calls"], host["calls_in_batches"]) == (SPUN, [], None)
    assert host["samples"] > host["samples_inside"] > 0
    # Where the machine is busy with other things, the guest's clock goes on and its timers are late.
    assert host["samples"] > host["served_ns"] / host["sample_period_ns"] / 10
    share = (inside_ns - SPUN * SPUN_CALLS * way_ns) / (inside_ns + between_ns)
    found, error = (host[name] / host["served_ns"] for name in ("calls_ns", "calls_error_ns"))
    print(f"inside calls {share:.4f}, by {host['samples']} samples {found:.4f} within {error:.4f}")
    # One run in 20 lies outside of the interval that is shown, one in 10 000 outside of twice that.
    assert abs(found - share) <= 2 * error + NEAR
    probes = {row["function"]: row["status"] for row in recording.metadata["probes"]}  # type: ignore[attr-defined]
    assert {"eventfd_read": "attached", "hrtimer_interrupt": "attached", "madvise": "not needed"}.items() <= (
        probes.items()
    )


# Orders, and of their calls: by how many no page became free, and how many pages did by the others.
DONTNEED_ORDERS = (
    ("twice-dontneed 101", 101, 101),
    ("twice-dontneed 2 512", 2, 1024),
    ("empty 3", 3, 0),
    ("fail 11", 0, 0),
    ("shared 5119", 5119, 0),  # the file keeps them
    ("shared 2 512", 2, 0),
    ("file 41", 41, 0),
    ("copied 43", 0, 43),
    ("zero 17", 17, 0),
    ("forked 29", 29, 0),
    ("held 13", 13, 0),
    ("huge 512", 511, 512),  # a huge page is free once nothing of it is used
)


@pytest.mark.parametrize("attach", ["auto", "kprobe"])
def test_what_became_free_is_counted_on_request(
    guest: lab.Guest, server: Server, tmp_path: Path, attach: str
) -> None:
    options = ["-p", str(server.pid), "--attach", attach, "--count-freed"]
    recorder = start_recording(guest, f"/root/host-freed-{attach}.bt", *options).wait_attached()
    server.serve(WARM_UP, "twice-remove 37", "twice-remove 1 512", "twice-punch 13", "twice-free 5")
    server.serve(*(order for order, *_ in DONTNEED_ORDERS))
    recorder.end()
    result = report(recorder.pull(tmp_path))
    calls = {row["call"]: row for row in result["host"]["calls"]}
    found = {name: (row["freed_nothing"], row["freed_bytes"]) for name, row in calls.items()}
    assert found == {
        "madvise_dontneed": (
            sum(nothing for _, nothing, _ in DONTNEED_ORDERS),
            sum(pages for *_, pages in DONTNEED_ORDERS) * PAGE_BYTES,
        ),
        "madvise_remove": (37 + 1, (37 + 512) * PAGE_BYTES),
        "fallocate_punch_hole": (13, 13 * PAGE_BYTES),
        "madvise_free": (None, None),
    }
    assert not any("freed" in sentence for sentence in result["not_measured"])


@pytest.mark.parametrize("options", [(), ("--sample",)], ids=["traced", "sampled"])
def test_splits_of_huge_pages_are_counted(
    guest: lab.Guest, server: Server, tmp_path: Path, options: tuple[str, ...]
) -> None:
    recorder = start_recording(
        guest, "/root/host-huge.bt", "-f", "-p", str(server.pid), *options
    ).wait_attached()
    # A long buffer first: a sample in its calls proves that what its eventfd kicks is a balloon's.
    server.serve(WARM_UP, "spin 127 16", "huge 1 1021", "huge 509")
    recorder.end()
    found = read(recorder, tmp_path)
    start = found.recording.metadata["vmstat"]["thp_split_pmd"]  # type: ignore[index]
    end = found.end["vmstat"]["thp_split_pmd"]  # type: ignore[index]
    splits = report(recorder.pull(tmp_path))["host"]["thp_splits"]
    assert 0 < splits == found.counters.thp_splits <= end - start


def test_memory_before_and_after(guest: lab.Guest, server: Server, tmp_path: Path) -> None:
    recorder = start_recording(guest, "/root/host-memory.bt", "-p", str(server.pid)).wait_attached()
    server.serve(WARM_UP, "normal 1 509")
    recorder.end()
    found = read(recorder, tmp_path)
    (before,) = found.recording.metadata["memory"]["shared_files"]  # type: ignore[index]
    (after,) = found.end["memory"]["shared_files"]  # type: ignore[index]
    assert before["name"].startswith("/memfd:guest")
    assert after["allocated_bytes"] - before["allocated_bytes"] == 509 * PAGE_BYTES


def test_a_process_killed_in_the_middle_ends_the_recording(
    guest: lab.Guest, server: Server, tmp_path: Path
) -> None:
    recorder = start_recording(guest, "/root/host-killed.bt", "-p", str(server.pid)).wait_attached()
    server.serve(WARM_UP, "dontneed 37")
    guest.run(shell(f"echo stall 53 > {server.orders}"), check=True)
    server.process.wait_for(b"stalled", 60, stream="stdout")
    server.process.signal(signal.SIGKILL)
    done = recorder.wait()
    assert done.status == 0, done.describe()
    assert "balloontrace: process exited: 1 batch," in done.stderr
    found = read(recorder, tmp_path)
    assert found.recording.complete
    assert (found.end["clean"], found.end["reason"], found.end["memory"]) == (True, "process exited", None)
    assert found.batches.calls(Call.MADVISE_DONTNEED).tolist() == [37, 53]
    assert found.batches.has(BatchFlag.UNFINISHED).tolist() == [False, True]


def test_a_full_ring_is_counted_as_lost(guest: lab.Guest, server: Server, tmp_path: Path) -> None:
    recorder = start_recording(
        guest, "/root/host-full.bt", "-p", str(server.pid), "--buffer", "4K"
    ).wait_attached()
    server.process.signal(signal.SIGSTOP)
    recorder.process.signal(signal.SIGSTOP)
    server.process.signal(signal.SIGCONT)
    server.serve(WARM_UP, *["dontneed 1"] * 101)
    recorder.process.signal(signal.SIGCONT)
    recorder.end()
    found = read(recorder, tmp_path)
    assert found.counters.batches == 101
    assert found.counters.lost > 0
    assert len(found.batches) + found.counters.lost == 101
    assert found.counters.calls[Call.MADVISE_DONTNEED].calls == 101
    assert found.end["losses"]["batches"]["lost"] == found.counters.lost  # type: ignore[index]


def test_what_cannot_be_traced_is_said_in_one_sentence(guest: lab.Guest, server: Server) -> None:
    threads = guest.run(["ls", f"/proc/{server.pid}/task"], check=True).stdout.split()
    thread = next(name for name in threads if name != str(server.pid))
    wanted = (
        (["--side", "host"], 3, "no process here has /dev/kvm open"),
        (["-p", "4000000"], 2, "-p 4000000: there is no such process"),
        (["-p", thread], 2, f"-p {thread}: that is a thread of process {server.pid}"),
        (["-p", "2"], 2, "-p 2: that is a thread of the kernel"),
        (["-p", "1", "--side", "guest"], 2, "-p names a process of the host"),
        (["-p", "1", "--operations", "1"], 2, "--operations is for the guest's side"),
        (["--attach", "tracepoint"], 2, "--attach tracepoint is for the host's side"),
    )
    commands = [["record", "-o", "/root/host-never.bt", *options] for options, _, _ in wanted]
    for done, (_, status, said) in zip(run_in_turn(guest, *commands), wanted, strict=True):
        assert done.status == status, done.describe()
        assert said in done.stderr
        assert done.stderr.count("\n") == 1, done.describe()


def test_doctor_shows_the_hosts_side(guest: lab.Guest) -> None:
    done = guest.run(["balloontrace", "doctor", "--side", "host"], timeout_s=ATTACH_S)
    assert done.status == 0, done.describe()
    assert "no process has /dev/kvm open" in done.stdout
    assert "fentry+fexit" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())

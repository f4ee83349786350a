# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings that something ends or damages: what was written is whole, and says what is not."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tracing import (
    ATTACH_S,
    ATTACHED,
    FULL_MIB,
    GONE,
    MIB_PAGES,
    Json,
    assert_no_trace,
    assert_sums,
    assert_whole,
    balloontrace,
    bind_driver,
    change,
    loss,
    move,
    outcomes,
    pull,
    record,
    report,
    shell,
    start_recording,
    wait_below,
)

import lab

FIRST_MIB = 1009  # prime
MOVED_MIB = 211  # prime
SMALL_PRIME_MIB = 59
BACK = b"is back, and traced again"
SECOND_CPU = "/sys/devices/system/cpu/cpu1/online"
# An inflate of 7 GiB fills more than 900 kB: whatever is cut to less is cut in the middle of it.
CUT_BYTES = 600_000
FULL_DISK_BYTES = 640 << 10
# Of a balloon whose driver went away after the first and came back.
MOVED_LOST_MOVED_AGAIN = [
    ("inflate", "reached", MOVED_MIB * MIB_PAGES),
    ("inflate", "reached", SMALL_PRIME_MIB * MIB_PAGES),
    ("deflate", "reached", SMALL_PRIME_MIB * MIB_PAGES),
]


def only_sentence(done: lab.Completed) -> str:
    """The sentence a failed recorder ends with; its other lines are the usual ones."""
    assert done.status == 1, done.describe()
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def balloon_device(guest: lab.Guest) -> str:
    folder = "/sys/bus/virtio/drivers/virtio_balloon"
    return guest.run(shell(f"cd {folder} && echo virtio*"), check=True).stdout.strip()


# ---- the driver goes away ----


def test_driver_unloaded_and_loaded_again_under_kprobes(guest: lab.Guest, tmp_path: Path) -> None:
    recorder = record(guest, "/root/unloaded.bt", "--attach", "kprobe")
    move(guest, FULL_MIB - MOVED_MIB)
    guest.run(["modprobe", "-r", "virtio_balloon"], timeout_s=60, check=True)
    gone = recorder.process.wait_for(GONE, 60)
    assert recorder.process.poll() is None
    # Nothing to do for a driver that comes back, until its probes are attached again.
    guest.set_balloon(target_mib=FULL_MIB)
    bind_driver(guest)
    recorder.process.wait_for(BACK, 60, after=gone)
    move(guest, FULL_MIB - SMALL_PRIME_MIB)
    move(guest, FULL_MIB)
    recorder.end()
    assert_no_trace(guest)
    found = report(recorder.pull(tmp_path))
    assert (found["complete"], found["ended"]) == (True, "interrupted")
    assert outcomes(found) == MOVED_LOST_MOVED_AGAIN
    assert [each["actual_before_pages"] for each in found["operations"][:2]] == [0, 0]
    (gap,) = found["driver_gaps"]
    assert gap["reattached"] is True
    first, second, _ = found["operations"]
    assert first["started_ns"] + first["wall_ns"] < gap["gone_ns"] < gap["back_ns"] < second["started_ns"]
    (said,) = found["warnings"]
    assert "had no driver" in said
    assert "probes were attached again then" in said
    assert (found["events_lost"], found["pages_unseen"]) == (0, 0)
    removal = [each for each in found["outside"] if "removed" in each["what"]]
    assert [each["pages"] for each in removal] == [MOVED_MIB * MIB_PAGES]


def test_driver_held_by_fentry_then_unbound_and_bound_again(guest: lab.Guest, tmp_path: Path) -> None:
    recorder = record(guest, "/root/unbound.bt")
    refused = guest.run(["modprobe", "-r", "virtio_balloon"], timeout_s=60)
    assert refused.status != 0
    assert "in use" in refused.stderr
    move(guest, FULL_MIB - MOVED_MIB)
    device = balloon_device(guest)
    unbind = shell(f"echo {device} > /sys/bus/virtio/drivers/virtio_balloon/unbind")
    guest.run(unbind, timeout_s=60, check=True)
    gone = recorder.process.wait_for(GONE, 60)
    # It finds its target where it was, and takes the pages once more: that is traced from the first one on.
    bind_driver(guest)
    back = recorder.process.wait_for(BACK, 60, after=gone)
    guest.wait_balloon(timeout_s=60)
    guest.run(unbind, timeout_s=60, check=True)
    recorder.process.wait_for(GONE, 60, after=back)
    recorder.process.signal(signal.SIGINT)
    done = recorder.wait(30)
    assert_no_trace(guest)
    bind_driver(guest)
    assert "the recording is incomplete: driver unloaded or unbound" in only_sentence(done)
    found = report(recorder.pull(tmp_path))
    assert (found["complete"], found["ended"]) == (False, "driver unloaded or unbound")
    assert outcomes(found) == [("inflate", "reached", MOVED_MIB * MIB_PAGES)] * 2
    assert [each["actual_before_pages"] for each in found["operations"]] == [0, 0]
    first, last = found["driver_gaps"]
    assert (first["devices"], first["reattached"], last["back_ns"]) == ([device], False, None)
    assert any("it did not come back" in warning for warning in found["warnings"])
    # Emptying the balloon on the way out is no operation, but it is seen.
    removal = [each for each in found["outside"] if "removed" in each["what"]]
    assert [each["pages"] for each in removal] == [2 * MOVED_MIB * MIB_PAGES]
    assert found["pages_unseen"] == 0


def test_unplugged_and_plugged_again(guest: lab.Guest, tmp_path: Path) -> None:
    recorder = record(guest, "/root/plugged.bt", "--operations", "3")
    move(guest, FULL_MIB - MOVED_MIB)
    guest.qmp("device_del", id="balloon0")
    gone = recorder.process.wait_for(GONE, 60)
    guest.wait_until(lambda: unplugged(guest), 60, what="QEMU to let go of the balloon")
    guest.qmp("device_add", driver="virtio-balloon-pci", id="balloon0")
    recorder.process.wait_for(BACK, 60, after=gone)
    move(guest, FULL_MIB - SMALL_PRIME_MIB)
    move(guest, FULL_MIB)
    done = recorder.wait(60)
    assert done.status == 0, done.describe()
    found = report(recorder.pull(tmp_path))
    assert (found["complete"], found["ended"]) == (True, "operations completed")
    assert outcomes(found) == MOVED_LOST_MOVED_AGAIN
    (gap,) = found["driver_gaps"]
    assert gap["back_ns"] < found["operations"][1]["started_ns"]
    assert (found["events_lost"], found["pages_unseen"]) == (0, 0)


def unplugged(guest: lab.Guest) -> bool:
    guest.qmp("query-status")  # events are heard with an answer
    return any(
        event["event"] == "DEVICE_DELETED" and event.get("data", {}).get("device") == "balloon0"
        for event in guest.qmp_events()
    )


# ---- probes that do not fire ----


def test_pages_that_disarmed_probes_did_not_see(guest: lab.Guest, tmp_path: Path) -> None:
    recorder = record(guest, "/root/disarmed.bt")
    move(guest, FULL_MIB - MOVED_MIB)
    try:
        guest.run(shell("echo 0 > /proc/sys/kernel/ftrace_enabled"), check=True)
        move(guest, FULL_MIB - MOVED_MIB - SMALL_PRIME_MIB)
    finally:
        guest.run(shell("echo 1 > /proc/sys/kernel/ftrace_enabled"), check=True)
    recorder.process.signal(signal.SIGINT)
    done = recorder.wait(60)
    assert done.status == 1, done.describe()
    unseen, moved = SMALL_PRIME_MIB * MIB_PAGES, (MOVED_MIB + SMALL_PRIME_MIB) * MIB_PAGES
    number = f"{unseen:,} of {moved:,} pages that moved by /proc/vmstat".replace(",", " ")
    *_, first, second, last = done.stderr.splitlines()
    assert number in first
    assert "the probes did not see them" in first
    assert second.startswith("balloontrace: interrupted: ")
    assert "the recording is incomplete: pages moved that no probe saw" in last
    path = recorder.pull(tmp_path)
    found = report(path)
    assert (found["pages_moved"], found["pages_unseen"]) == (moved, unseen)
    assert number in found["warnings"][0]
    assert balloontrace("report", "--max-lost", "0", path).returncode == 5


# ---- four recorders of one inflate, each with a fault of its own ----


@dataclass
class Faulty:
    """One recorder of the inflate: how it ended and its recording on this machine."""

    done: lab.Completed
    path: Path


@pytest.fixture(scope="module")
def faulty(guest: lab.Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Faulty]]:
    """7 GiB are taken; one recorder is killed, one's disk fills, one's reader goes, one's ring overflows."""
    folder = tmp_path_factory.mktemp("faulty")
    guest.run(
        shell(f"mkdir -p /tmp/small && mount -t tmpfs -o size={FULL_DISK_BYTES} none /tmp/small"), check=True
    )
    killed = start_recording(guest, "/root/killed.bt")
    full = start_recording(guest, "/tmp/small/full.bt")
    overflown = start_recording(guest, "/root/overflown.bt", "--buffer", "4K")
    reader = f"head -c {CUT_BYTES} > /root/cut.bt"
    cut = guest.start(shell(f"{{ balloontrace record -o -; exec echo status $? >&2; }} | {reader}"))
    for recorder in (killed, full, overflown):
        recorder.wait_attached()
    cut.wait_for(ATTACHED, ATTACH_S)
    # Probes are detached while the driver runs through them. Emulation cannot run code that another CPU
    # changes (the kernel then meets a breakpoint it has just removed), so there is only one CPU.
    guest.run(shell(f"echo 0 > {SECOND_CPU}"), check=True)
    move(guest, FULL_MIB - FIRST_MIB)
    # What a kill can take is bounded: once the balloon rests, what was traced is written.
    guest.wait_until(
        lambda: [each[1] for each in outcomes(report(pull(guest, killed.path, folder)))] == ["reached"],
        60,
        what="the first inflate in the recording that is to be killed",
        every_s=0.5,
    )
    guest.set_balloon(target_mib=FULL_MIB - 7168)
    wait_below(guest, FULL_MIB - FIRST_MIB - 1000)
    killed.process.signal(signal.SIGKILL)
    guest.wait_balloon(timeout_s=120)
    move(guest, FULL_MIB)
    processes = {
        "killed": killed.process.wait(30),
        "full": full.wait(30),
        "cut": cut.wait(30),
        "overflown": overflown.end(),
    }
    guest.run(shell(f"echo 1 > {SECOND_CPU}"), check=True)
    folders = {"full": "/tmp/small"}
    yield {
        name: Faulty(done, pull(guest, f"{folders.get(name, '/root')}/{name}.bt", folder))
        for name, done in processes.items()
    }
    guest.run(["umount", "/tmp/small"], check=True)


def part_of_the_inflate(path: Path) -> Json:
    """The report of a recording that was cut off in the middle of the inflate."""
    found = report(path)
    assert found["complete"] is False
    assert any("no end record" in warning for warning in found["warnings"])
    first, *rest = found["operations"]
    assert (first["kind"], first["outcome"]) == ("inflate", "reached")
    assert first["pages"] == FIRST_MIB * MIB_PAGES
    assert [(each["kind"], each["outcome"]) for each in rest] in ([], [("inflate", "in progress")])
    assert_sums(found)
    return found


def test_killed(faulty: dict[str, Faulty], guest: lab.Guest) -> None:
    assert faulty["killed"].done.status == -signal.SIGKILL
    found = part_of_the_inflate(faulty["killed"].path)
    assert found["own_cost"] is None
    assert_no_trace(guest)
    text = balloontrace("report", faulty["killed"].path)
    assert text.returncode == 0
    assert "INCOMPLETE" in text.stdout
    assert "cut off" in text.stderr


def test_disk_full(faulty: dict[str, Faulty]) -> None:
    said = only_sentence(faulty["full"].done)
    # What it could not keep is reported by number.
    assert re.search(
        r"\d of [\d ]+ pages that moved by /proc/vmstat .*: No space left", faulty["full"].done.stderr
    )
    assert said.startswith("balloontrace: the recording is incomplete: No space left on device after ")
    assert said.endswith("; what was written can be reported")
    path = faulty["full"].path
    found = part_of_the_inflate(path)
    assert found["spans"] > 1000
    # The disk is full to its last byte, and of that no more than a piece is of no use.
    assert path.stat().st_size == FULL_DISK_BYTES
    torn = [int(size) for text in found["warnings"] for size in re.findall(r"\((\d+) bytes\) skipped", text)]
    assert len(torn) <= 1
    assert sum(torn) < 4 << 10


def test_reader_gone(faulty: dict[str, Faulty]) -> None:
    *usual, said, status = faulty["cut"].done.stderr.splitlines()
    assert said.startswith("balloontrace: the recording is incomplete: Broken pipe after ")
    assert status == "status 1"
    assert "Traceback" not in "".join(usual)
    assert faulty["cut"].path.stat().st_size == CUT_BYTES
    part_of_the_inflate(faulty["cut"].path)


def test_overflow(faulty: dict[str, Faulty]) -> None:
    done, path = faulty["overflown"].done, faulty["overflown"].path
    found = report(path)
    lost = found["events_lost"]
    print(f"{lost} of {found['events_seen']} lost")
    assert lost > 1000
    assert f" {lost} lost" in done.stderr
    send = loss(found, "tell_host")
    # What was lost is known to the event: probes ran for every call, only the room for spans was short.
    assert (send["entries"], send["unmatched_returns"]) == (2 * 7168, 0)
    # The kernel drops a return when another recorder's program leaves the function in the middle of the call
    # (bpf_tramp_image_put); three recorders did, with an entry's and a return's each. That is counted too.
    assert send["returns"] + send["overwritten"] == send["entries"]
    assert send["overwritten"] <= 2 * 3
    assert found["spans"] + lost == found["events_seen"]
    assert any("events were lost" in warning for warning in found["warnings"])
    held = balloontrace("report", "--max-lost", "0", path)
    assert held.returncode == 5
    assert "events were lost" in held.stderr
    assert "more than --max-lost allows" in held.stderr
    assert balloontrace("report", "--max-lost", "100%", path).returncode == 0


def test_reader_gone_before_anything_happens(guest: lab.Guest, tmp_path: Path) -> None:
    reader = "head -c 1000 > /root/early.bt"
    done = guest.run(
        shell(f"{{ balloontrace record -o -; exec echo status $? >&2; }} | {reader}"), timeout_s=ATTACH_S
    )
    *_, said, status = done.stderr.splitlines()
    assert (said.startswith("balloontrace: "), status) == (True, "status 1"), done.describe()
    assert "Broken pipe" in said
    assert "Traceback" not in done.stderr
    text = balloontrace("report", pull(guest, "/root/early.bt", tmp_path))
    assert "Traceback" not in text.stderr
    assert text.returncode in (0, 1)


# ---- a guest that runs out of memory ----

SMALL_MIB = 1024
LEFT_MIB = 64


def wait_standstill(guest: lab.Guest) -> None:
    """Waits until the balloon has hardly moved for two seconds: it gets no more."""
    seen: list[int] = []

    def stands_still() -> bool:
        seen.append(guest.balloon_actual_bytes())
        return len(seen) > 10 and max(seen[-10:]) - min(seen[-10:]) < 32 << 20

    guest.wait_until(stands_still, 60, what="a balloon that stalls", every_s=0.2)


def test_out_of_memory(tmp_path: Path) -> None:
    """A target below what the guest needs: whatever runs there then makes the balloon give pages back."""
    with lab.solo(memory_mib=SMALL_MIB, balloons=[{"deflate-on-oom": "on"}]) as small:
        recorder = record(small, "/root/squeezed.bt")
        before = small.vmstat()
        small.set_balloon(target_mib=LEFT_MIB)
        wait_standstill(small)
        assert small.balloon_actual_bytes() > LEFT_MIB << 20
        small.wait_until(
            lambda: small.vmstat()["balloon_deflate"] > before["balloon_deflate"],
            60,
            what="pages given back to a guest out of memory",
        )
        assert recorder.process.poll() is None
        assert small.pull(f"/proc/{recorder.process.pid}/oom_score_adj") == b"-1000\n"
        small.set_balloon(target_mib=SMALL_MIB)
        small.wait_balloon(timeout_s=60)
        recorder.end()
        moved = change(before, small.vmstat(), ("balloon_inflate", "balloon_deflate"))
        assert_no_trace(small)
        found = report(recorder.pull(tmp_path))
    assert_whole(found)
    assert_sums(found)
    assert "DEFLATE_ON_OOM" in found["header"]["devices"][0]["features"]
    assert moved[0] == moved[1]
    squeezed, returned = found["operations"]
    assert (squeezed["kind"], squeezed["outcome"]) == ("inflate", "superseded")
    assert (returned["kind"], returned["outcome"]) == ("deflate", "reached")
    assert returned["actual_after_pages"] == 0
    assert squeezed["short_work_items"] > 0
    assert squeezed["oom_notifications"] > 0
    for said in ("waiting on allocation: ", "guest out of memory: ", "given up for the opposite direction"):
        assert any(sentence.startswith(said) for sentence in squeezed["verdict"])
    (notified,) = [each for each in found["outside"] if each["what"] == "virtio_balloon_oom_notify"]
    # The guest may still be short of memory when the target is raised: while pages come back, or just before.
    within = squeezed["oom_notifications"] + returned["oom_notifications"]
    print(f"{within} of {notified['calls']} notifications are within an operation")
    assert min(0.9 * notified["calls"], notified["calls"] - 3) <= within <= notified["calls"]

# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab itself: commands reach its guest exactly, and what happens to it is noticed at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lab
from lab.cache import run_folder
from lab.folders import read_state

REPO = Path(__file__).resolve().parents[2]
ALL_BYTES = bytes(range(256)) * 1009
MIB_PAGES = 256
# Prime, so that a count that comes out right is not right by accident.
PRIME_MIB = 997


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def qemu_is_alive(folder: Path) -> bool:
    state = read_state(folder)
    return state is not None and state.qemu.is_alive()


def wait_gone(folder: Path, timeout_s: float = 10) -> None:
    deadline_s = time.monotonic() + timeout_s
    while qemu_is_alive(folder):
        assert time.monotonic() < deadline_s, f"QEMU of {folder.name} still runs"
        time.sleep(0.02)


# ---- commands ----


def test_status_and_both_outputs(guest: lab.Guest) -> None:
    done = guest.run(shell("echo out; echo err >&2; exit 3"))
    assert (done.status, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_check_raises_with_both_outputs(guest: lab.Guest) -> None:
    with pytest.raises(lab.CommandFailed) as failed:
        guest.run(shell("echo seen on stdout; echo seen on stderr >&2; exit 4"), check=True)
    assert failed.value.completed.status == 4
    for expected in ("status 4", "seen on stdout", "seen on stderr"):
        assert expected in str(failed.value)


def test_outputs_are_exact_to_the_byte(guest: lab.Guest) -> None:
    done = guest.run(shell("tee /dev/stderr"), stdin=ALL_BYTES)
    assert done.stdout_bytes == ALL_BYTES
    assert done.stderr_bytes == ALL_BYTES


def test_words_arrive_as_they_are(guest: lab.Guest) -> None:
    words = ["", " ", "a b", "'", '"', "$HOME", "new\nline", "back\\slash", "*", "-n", "é—🎈", "\udcff"]
    done = guest.run(["printf", "%s\\0", *words])
    assert done.stdout_bytes == b"".join(os.fsencode(word) + b"\0" for word in words)


def test_environment_and_folder(guest: lab.Guest) -> None:
    done = guest.run(shell('pwd; echo "$COLOUR"'), cwd="/usr/share", env={"COLOUR": "red = #f00"}, check=True)
    assert done.stdout == "/usr/share\nred = #f00\n"


def test_what_cannot_be_run_says_so(guest: lab.Guest) -> None:
    done = guest.run(["no-such-program"])
    assert done.status == 127
    assert "cannot run no-such-program" in done.stderr


def test_two_commands_at_once(guest: lab.Guest) -> None:
    guest.run(["mkfifo", "/tmp/meeting"], check=True)
    reader = guest.start(["cat", "/tmp/meeting"])
    writer = guest.start(shell("echo met > /tmp/meeting"))
    assert writer.wait(30).status == 0
    assert reader.wait(30).stdout == "met\n"


def test_signal_to_the_process_itself_spares_its_children(guest: lab.Guest) -> None:
    process = guest.start(shell('trap "echo trapped; exit 5" INT; sleep 1000 & echo $! ; echo up >&2; wait'))
    process.wait_for(b"up\n")
    child = process.read("stdout").decode().strip()
    process.signal(signal.SIGINT)
    done = process.wait(30)
    assert done.status == 5
    assert "trapped" in done.stdout
    assert guest.run(["kill", child]).status == 0, "the child was to live on"


def test_signal_to_the_group_ends_the_children(guest: lab.Guest) -> None:
    process = guest.start(shell("sleep 1000 & echo $! ; echo up >&2; wait"))
    process.wait_for(b"up\n")
    child = process.read("stdout").decode().strip()
    process.kill()
    assert process.wait(30).status == -signal.SIGKILL
    guest.wait_until(lambda: guest.run(["kill", "-0", child]).status != 0, 10, what="the child's end")


def test_a_signal_right_after_the_start_is_not_lost(guest: lab.Guest) -> None:
    for _ in range(20):
        process = guest.start(["sleep", "1000"])
        process.kill()
        assert process.wait(30).status == -signal.SIGKILL


def test_wait_for_finds_text_in_either_stream(guest: lab.Guest) -> None:
    process = guest.start(
        shell("echo one; echo two >&2; read -r line < /dev/null; echo two again >&2; sleep 1000")
    )
    process.wait_for(b"one", stream="stdout")
    first = process.wait_for(b"two")
    second = process.wait_for(b"two", after=first)
    assert (first, second) == (3, 7)
    process.kill()
    assert process.wait(30).status == -signal.SIGKILL


def test_wait_for_fails_at_once_when_the_command_ended(guest: lab.Guest) -> None:
    process = guest.start(shell("echo something else >&2"))
    with pytest.raises(lab.CommandFailed, match="without having written b'awaited'"):
        process.wait_for(b"awaited", timeout_s=600)


def test_wait_for_times_out_and_shows_what_there_is(guest: lab.Guest) -> None:
    process = guest.start(shell("echo only this >&2; exec sleep 1000"))
    process.wait_for(b"this")
    with pytest.raises(lab.LabTimeout, match="only this"):
        process.wait_for(b"never", timeout_s=0.2)
    process.signal(signal.SIGTERM)
    assert process.wait(30).status == -signal.SIGTERM


def test_a_command_that_takes_too_long_is_killed(guest: lab.Guest) -> None:
    with pytest.raises(lab.LabTimeout, match=r"still runs after 0\.3 s and was killed"):
        guest.run(["sleep", "1009"], timeout_s=0.3)
    assert guest.run(["pgrep", "-f", "^sleep 1009"]).status == 1


def test_files_in_and_out(guest: lab.Guest, tmp_path: Path) -> None:
    (tmp_path / "sent.bin").write_bytes(ALL_BYTES)
    inside = guest.push(tmp_path / "sent.bin")
    guest.run(["cp", inside, "/root/kept.bin"], check=True)
    assert guest.pull("/root/kept.bin") == ALL_BYTES
    assert guest.pull(inside) == ALL_BYTES
    with pytest.raises(lab.CommandFailed):
        guest.pull("/root/none.bin")


def test_what_the_guest_writes_is_seen_while_it_writes(guest: lab.Guest) -> None:
    process = guest.start(shell("echo early > /io/growing; exec sleep 1000"))
    growing = guest.io / "growing"
    guest.wait_until(lambda: growing.exists() and growing.read_text() == "early\n", 10, what="the file")
    process.kill()
    process.wait(30)


def test_repository_is_there_and_safe_from_the_guest(guest: lab.Guest) -> None:
    assert guest.pull("/repo/pyproject.toml") == (REPO / "pyproject.toml").read_bytes()
    guest.run(["touch", "/repo/written-by-guest"], check=True)
    assert not (REPO / "written-by-guest").exists()


# ---- the balloon ----


def test_balloon_moves_exactly_the_pages_asked_for(guest: lab.Guest) -> None:
    before = guest.vmstat()
    guest.set_balloon(target_mib=8192 - PRIME_MIB)
    guest.wait_balloon(timeout_s=120)
    inflated = guest.vmstat()
    guest.set_balloon(target_mib=8192)
    guest.wait_balloon(timeout_s=120)
    after = guest.vmstat()
    assert inflated["balloon_inflate"] - before["balloon_inflate"] == PRIME_MIB * MIB_PAGES
    assert after["balloon_deflate"] - before["balloon_deflate"] == PRIME_MIB * MIB_PAGES


def test_balloon_that_does_not_arrive_is_called_stuck(guest: lab.Guest) -> None:
    with pytest.raises(lab.LabTimeout, match=r"not reached 7G within 1\.2 s: stuck at 8G"):
        guest.wait_balloon(actual_bytes=7 << 30, timeout_s=1.2)


def test_stopwatch_sees_the_balloon_from_inside(guest: lab.Guest) -> None:
    wanted_bytes = PRIME_MIB << 20
    watch = guest.start(["stopwatch", "--bytes", str(wanted_bytes), "--timeout-s", "60"])
    watch.wait_for(b"ready\n", stream="stdout")
    guest.set_balloon(target_mib=8192 - PRIME_MIB)
    times = json.loads(watch.wait(120, check=True).stdout.splitlines()[1])
    guest.wait_balloon()
    guest.set_balloon(target_mib=8192)
    guest.wait_balloon(timeout_s=120)
    moments = ("start", "last_unchanged", "first_changed", "last_below", "reached")
    moved = [times["start"]["total_bytes"] - times[moment]["total_bytes"] for moment in moments]
    assert [times[moment]["time_ns"] for moment in moments] == sorted(times[m]["time_ns"] for m in moments)
    assert moved[:2] == [0, 0]
    assert 0 < moved[2] <= moved[3] < wanted_bytes <= moved[4]


def test_stopwatch_gives_up(guest: lab.Guest) -> None:
    done = guest.run(["stopwatch", "--bytes", "4096", "--timeout-s", "1"])
    assert done.status == 124
    assert json.loads(done.stdout.splitlines()[1])["done"] is False


# ---- VMs that end ----


def test_second_vm_squeezed_then_killed(guest: lab.Guest) -> None:
    with lab.solo(memory_mib=512, cpus=1, balloons=[{"deflate-on-oom": "on"}]) as other:
        folder = run_folder() / other.name
        assert other.run(["nproc"]).stdout == "1\n"
        assert guest.run(["nproc"]).stdout == "2\n"
        # Less than the guest can do without: the driver takes all there is, and the agent must still answer.
        other.set_balloon(target_mib=32)
        other.wait_until(lambda: other.balloon_actual_bytes() < 200 << 20, 60, what="less than 200 MiB")
        with pytest.raises(lab.LabTimeout, match="has not reached 32M"):
            other.wait_balloon(timeout_s=3)
        assert other.balloon_actual_bytes() < 200 << 20
        assert other.run(["true"], timeout_s=30).status == 0
        process = other.start(["sleep", "1000"])
        other.kill()
        with pytest.raises(lab.VMLost, match="ended by signal 9"):
            process.wait(600)
        with pytest.raises(lab.VMLost):
            other.set_balloon(target_mib=512)
    assert not folder.exists()
    assert guest.run(["true"]).status == 0


def test_panic_is_noticed_while_a_command_is_awaited() -> None:
    with lab.solo(memory_mib=512, cpus=1, balloons=0) as other:
        assert other.run(["ls", "/sys/bus/virtio/drivers/virtio_balloon"]).stdout.count("virtio") == 0
        with pytest.raises(lab.VMLost) as lost:
            other.run(shell("echo c > /proc/sysrq-trigger"), timeout_s=600)
    assert "kernel panicked" in str(lost.value)
    assert "sysrq triggered crash" in str(lost.value)


HOLDS_A_VM = """
import sys, time, lab
with lab.solo(memory_mib=512, cpus=1) as guest:
    print(guest.name, flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_ended_leaves_no_vm(number: signal.Signals) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDS_A_VM], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    folder = run_folder() / holder.stdout.readline().strip()
    assert qemu_is_alive(folder)
    holder.send_signal(number)
    holder.wait(30)
    wait_gone(folder)
    if number == signal.SIGKILL:
        # No process was left to remove it; the next use of the lab does.
        lab_command("down", "--all")
    assert not folder.exists()


# ---- the command line ----


def lab_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lab", *words], cwd=REPO, capture_output=True, text=True, timeout=300
    )


def test_command_line_round_trip() -> None:
    name = f"test-{os.getpid()}"
    up = lab_command("up", "--name", name, "--memory", "1G", "--cpus", "1")
    try:
        assert up.returncode == 0, up.stderr
        done = lab_command("run", "--name", name, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
        assert lab_command("balloon", "--name", name).stdout == "1G\n"
        assert lab_command("balloon", "--name", name, "701M").stdout == "701M\n"
        assert lab_command("up", "--name", name).returncode == 1
        state = read_state(run_folder() / name)
        assert state is not None
        assert [name, "up", "1G", "1"] in [row.split()[:4] for row in lab_command("list").stdout.splitlines()]
        os.kill(state.qemu.pid, signal.SIGKILL)
        wait_gone(run_folder() / name)
        assert lab_command("run", "--name", name, "--", "true").returncode == 3
    finally:
        down = lab_command("down", "--name", name)
    assert down.returncode == 0, down.stderr
    assert not (run_folder() / name).exists()
    assert lab_command("run", "--name", name, "--", "true").returncode == 1

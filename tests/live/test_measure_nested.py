# SPDX-License-Identifier: GPL-2.0-or-later
"""`measure` where it is meant to run: on a host, both sides recorded; by QMP, and two drivers in turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from measuring import assert_nothing_left
from pairs import SPLIT, booted, report_both, top_stages
from tracing import ATTACH_S, MIB_PAGES, assert_whole, balloontrace, outcomes, report, shell

import lab
from lab import ssh
from lab.compare_drivers import EITHER_DRIVER
from lab.patched_driver import ensure_driver
from lab.vhost import CONTROL_SOCKET

GUEST_MIB, TAKEN_MIB, ROUNDS = 640, 67, 2
OF_EACH = 4  # so that neighbours are paired; a round takes half a minute of emulation
TURNS_S = 1800
PORT, QMP, KEY = 2222, "/run/measure.qmp", "/root/key"
WAY = ssh.Way(Path(KEY), PORT)
# A line for the lab's own device; prints the size of its balloon in MiB.
_CONTROL = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as control:
    control.connect(sys.argv[1])
    control.sendall(sys.argv[2].encode() + b"\\n")
    print(json.loads(control.makefile().readline()).get("actual_pages", 0) // 256)
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Nested]:
    """A guest with QEMU's balloon, and the lab's own, which both drivers can use; its host has ssh to it."""
    key = ssh.make_key(tmp_path_factory.mktemp("ssh"))
    options = (*ssh.network_arguments(PORT), "-qmp", f"unix:{QMP},server=on,wait=off", "-name", "guest1")
    with booted(
        GUEST_MIB, device="backend", balloons=1, page_bitmap=True, backend_args=EITHER_DRIVER,
        extra_args=options,
    ) as both:  # fmt: skip
        ssh.start_sshd(both.guest, key.with_suffix(".pub").read_bytes())
        both.host.run(shell(f"umask 077; cat > {KEY}; ip link set lo up"), stdin=key.read_bytes(), check=True)
        # The clocks need not agree: both sides of a round have a word that says that they belong together.
        both.guest.run(shell("date -s @$(($(date +%s) - 3600))"), check=True)
        yield both


@pytest.fixture(scope="module")
def control(pair: lab.Nested) -> str:
    """The command in the host that speaks with the lab's own device."""
    pair.host.run(shell("cat > /root/control.py"), stdin=_CONTROL.encode(), check=True)
    (socket,) = pair.host.run(shell(f"ls /run/*/{CONTROL_SOCKET}"), check=True).stdout.split()
    return f"python3 /root/control.py {socket}"


def measure(pair: lab.Nested, *words: str, timeout_s: float = ATTACH_S) -> lab.Completed:
    """Run it in the host, over ssh to the guest."""
    reached = ("--guest", ssh.DESTINATION, "--ssh", WAY.command)
    argv = ["balloontrace", "measure", *reached, "--take", f"{TAKEN_MIB}M", "--settle", "100ms", "--no-first"]
    return pair.host.run([*argv, *words], timeout_s=timeout_s, check=True)


def test_both_sides_by_qmp(pair: lab.Nested) -> None:
    """The process is found by its socket; each round's recordings belong together."""
    done = measure(pair, "--qmp", QMP, "--rounds", str(ROUNDS), "-o", "/io/qmp", "--format", "json")
    shown = json.loads(done.stdout)
    assert (shown["vm"], shown["rounds"]) == ("guest1", ROUNDS)
    for move in shown["moves"]:
        assert move["pages"] == TAKEN_MIB * MIB_PAGES
        assert [row["name"] for row in move["times"]] == ["wall", *SPLIT]
        assert all(row["n"] == ROUNDS for row in move["times"])
    out = pair.host.io / "qmp"
    for number in range(1, ROUNDS + 1):
        found = report_both(*(out / f"round-{number:03}-{side}.bt" for side in ("guest", "host")))
        assert_whole(found)
        assert outcomes(found) == [
            (kind, "reached", TAKEN_MIB * MIB_PAGES) for kind in ("inflate", "deflate")
        ]
        assert all(top_stages(operation) == SPLIT for operation in found["operations"])
        assert found["header"]["label"] == f"guest1 round {number} of {ROUNDS}"
        assert found["host"]["process"].startswith(f"{pair.qemu_pid} ")
    assert_nothing_left(pair.guest)


def test_the_host_alone(pair: lab.Nested) -> None:
    """Without a way into the guest: its calls are recorded, and how long moves took is as QEMU tells."""
    words = ["--host-only", "--qmp", QMP, "--take", f"{TAKEN_MIB}M", "--rounds", "1", "--no-first"]
    done = pair.host.run(
        ["balloontrace", "measure", *words, "-o", "/io/alone", "--format", "json"],
        timeout_s=ATTACH_S, check=True,
    )  # fmt: skip
    inflate, deflate = json.loads(done.stdout)["moves"]
    assert [each["times"] for each in (inflate, deflate)] == [[], []]
    assert all(each["driven"]["n"] == 1 for each in (inflate, deflate))
    (recording,) = (pair.host.io / "alone").glob("*.bt")
    calls = {row["call"]: row["bytes"] for row in report(recording)["host"]["calls"]}
    assert calls["madvise_dontneed"] >= TAKEN_MIB << 20


def test_both_sides_around_a_command(pair: lab.Nested, control: str) -> None:
    """`record --side both`: one command moves the balloon, two recordings belong together."""
    moves = f"""
    for pages in {TAKEN_MIB * MIB_PAGES} 0; do
        {control} "target $pages"
        until [ $(({MIB_PAGES} * $({control} status))) = $pages ]; do sleep 0.2; done
    done
    """
    pair.host.run(
        ["balloontrace", "record", "--side", "both", "--guest", ssh.DESTINATION, "--ssh", WAY.command,
         "-p", str(pair.vmm_pid), "-o", "/io/both.bt", "--", "sh", "-c", moves],
        timeout_s=ATTACH_S, check=True,
    )  # fmt: skip
    found = report_both(*(pair.host.io / f"both-{side}.bt" for side in ("guest", "host")))
    assert_whole(found)
    assert outcomes(found) == [(kind, "reached", TAKEN_MIB * MIB_PAGES) for kind in ("inflate", "deflate")]
    assert_nothing_left(pair.guest)


def test_two_drivers_in_turn(pair: lab.Nested, control: str) -> None:
    """Each state has a folder, and `compare` takes the two, in pairs: far fewer sends, and less time.

    A verdict takes 5 of each. examples/before and after have 10, and test_docs compares them.
    """
    module = pair.guest.push(ensure_driver().module())
    load = f"{WAY.command} {ssh.DESTINATION} 'rmmod virtio_balloon; %s'"
    done = measure(
        pair, "--pid", str(pair.vmm_pid), "--memory", f"{GUEST_MIB}M",
        "--set-target", f'{control} "target $(({{balloon_mib}} * {MIB_PAGES}))"',
        "--read-balloon", f"{control} status",
        "--alternate", load % "modprobe virtio_balloon", load % f"insmod {module}",
        "--rounds", str(OF_EACH), "-o", "/io/drivers", timeout_s=TURNS_S,
    )  # fmt: skip
    told = [line.split(": ")[2] for line in done.stderr.splitlines() if ", state " in line]
    states = "abba" * OF_EACH
    assert told == [
        f"round {place // 2 + 1} of {OF_EACH}, state {states[place]}" for place in range(2 * OF_EACH)
    ]
    folders = [pair.host.io / "drivers" / state for state in "ab"]
    compared = balloontrace("compare", *folders, "--format", "json")
    assert compared.returncode == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert [found[side]["driver_kinds"] for side in ("before", "after")] == [["stock"], ["patched"]]
    for group in found["groups"]:
        assert group["pages"] == TAKEN_MIB * MIB_PAGES
        assert len(group["before"]) == len(group["after"]) == OF_EACH
        assert group["design"] == "paired"
        (sends,) = [row for row in group["counts"] if row["name"] == "sends"]
        assert sends["before"]["median"] == TAKEN_MIB
        assert sends["after"]["median"] < TAKEN_MIB / 2
        (wall,) = [row for row in group["times"] if row["name"] == "wall"]
        print(wall)
        assert wall["ratio"] < 1
    assert_nothing_left(pair.guest)

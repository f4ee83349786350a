# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace doctor` in a real guest that can be traced, and with something taken away."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tracing import ROOT, bind_driver, run_in_turn, shell

import lab
from balloontrace.system.kernel import parse_offsets
from lab.patched_driver import load_patched

DOCTOR_S = 120


def last_words(done: lab.Completed) -> str:
    """The one sentence of a doctor that says no."""
    assert done.status == 3, done.describe()
    (line,) = done.stderr.splitlines()
    assert line.startswith("balloontrace: cannot trace here: ")
    assert "NO  " in done.stdout
    return line


def test_a_guest_that_can_be_traced(guest: lab.Guest) -> None:
    done = guest.run(["balloontrace", "doctor", "--format", "json"], timeout_s=DOCTOR_S)
    assert (done.status, done.stderr) == (0, ""), done.describe()
    found = json.loads(done.stdout)
    release = guest.run(["uname", "-r"], check=True).stdout.strip()
    states = {finding["name"]: finding["state"] for finding in found["findings"]}
    texts = {finding["name"]: finding["text"] for finding in found["findings"]}
    assert found["can_trace"] is True
    assert set(states.values()) == {"ok"}
    assert texts["firing"] == "tried, and ran: fentry, kprobe"
    assert release in texts["kernel"]
    assert release in texts["headers"]
    assert found["driver"] == {"kind": "stock", "module": "virtio_balloon"}
    (device,) = found["devices"]
    assert device["driver"] == "virtio_balloon"
    assert {"STATS_VQ", "VERSION_1"} <= set(device["features"])
    assert len(device["features"]) == len(device["feature_bits"])
    assert found["boundaries"] == {
        "fill": "update_balloon_size_func",
        "leak": "leak_balloon",
        "send": "tell_host",
    }
    probes = {probe["function"]: probe for probe in found["probes"]}
    assert (probes["fill_balloon"]["status"], probes["fill_balloon"]["mechanism"]) == ("inlined", None)
    assert "update_balloon_size_func stands in" in probes["fill_balloon"]["note"]
    assert probes["update_balloon_size_func"]["stands_in_for"] == "fill_balloon"
    assert probes["tell_host"]["mechanism"] == "fentry+fexit"
    assert probes["tell_host"]["module"] == "virtio_balloon"
    assert "kretprobe" in probes["config_get"]["mechanism"]
    assert {probe["status"] for probe in probes.values()} == {"attach", "inlined", "not needed"}
    # The driver's private structure; where a member is may change with the kernel; it must be known.
    assert found["layout"]["source"] == "btf"
    assert {"virtio_balloon.num_pfns", "virtio_balloon.num_pages", "virtqueue.index"} <= set(
        found["layout"]["offsets_bytes"]
    )
    example = re.search(r"--layout ([\w.=,]+)`", (ROOT / "docs/overhead.md").read_text())
    assert example is not None
    assert parse_offsets(example[1]).items() <= found["layout"]["offsets_bytes"].items()


def test_the_same_as_text(guest: lab.Guest) -> None:
    done = guest.run(["balloontrace", "doctor"], timeout_s=DOCTOR_S)
    assert (done.status, done.stderr) == (0, ""), done.describe()
    assert "stock driver, module virtio_balloon" in done.stdout
    assert "STATS_VQ" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["a", "allocate", "fill_balloon", "inlined"] in rows
    assert "fill_balloon: update_balloon_size_func stands in" in done.stdout.splitlines()
    assert ["b+c+d", "tell_host", "fentry+fexit"] in rows


def test_without_the_driver(guest: lab.Guest) -> None:
    guest.run(["modprobe", "-r", "virtio_balloon"], check=True)
    try:
        done = guest.run(["balloontrace", "doctor"], timeout_s=DOCTOR_S)
    finally:
        bind_driver(guest)
    assert "the balloon driver is not loaded: modprobe virtio_balloon" in last_words(done)
    assert "(no driver)" in done.stdout


def test_as_an_ordinary_user(guest: lab.Guest) -> None:
    ordinary = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    done, refused = run_in_turn(
        guest, ["doctor"], ["record", "-o", "/tmp/never.bt"], within=ordinary, timeout_s=DOCTOR_S
    )
    assert "this user may not load BPF programs: run it with sudo" in last_words(done)
    # What such a user can see is still said.
    assert "stock driver" in done.stdout
    assert refused.status == 3
    assert "run it with sudo" in refused.stderr
    assert guest.run(["ls", "/tmp/never.bt"]).status != 0


def test_without_headers(guest: lab.Guest) -> None:
    """In a mount namespace of its own: nobody else misses them."""
    hide = 'mount --bind "$(mktemp -d)" "$(readlink -f /lib/modules/$(uname -r)/build)"'
    done = guest.run(
        ["unshare", "--mount", *shell(f"{hide} && exec balloontrace doctor --engine bcc")], timeout_s=DOCTOR_S
    )
    release = guest.run(["uname", "-r"], check=True).stdout.strip()
    assert f"install linux-headers-{release}" in last_words(done)


# ---- probes that would be attached and not run ----

FTRACE, KPROBES = "/proc/sys/kernel/ftrace_enabled", "/sys/kernel/debug/kprobes/enabled"


def with_off(guest: lab.Guest, switch: str, *commands: Sequence[str]) -> list[lab.Completed]:
    """What `balloontrace` says while one of the kernel's switches is off."""
    script = f'echo 0 > {switch}; "$@"; status=$?; echo 1 > {switch}; exit $status'
    return run_in_turn(guest, *commands, within=[*shell(script), "sh"], timeout_s=DOCTOR_S)


def test_ftrace_is_off(guest: lab.Guest) -> None:
    refusal = (
        "kernel.ftrace_enabled is 0, so required probes would not run: update_balloon_size_func, tell_host"
    )
    asked, done = with_off(guest, FTRACE, ["doctor"], ["record", "-o", "/tmp/never.bt"])
    assert refusal in last_words(asked)
    assert (done.status, done.stderr) == (
        3, f"balloontrace: cannot trace here: {refusal}: sysctl kernel.ftrace_enabled=1\n"
    )  # fmt: skip
    assert guest.run(["ls", "/tmp/never.bt"]).status != 0


def test_kprobes_are_disarmed(guest: lab.Guest) -> None:
    """The driver's own functions have fentry, which runs all the same; reading the target has not."""
    words = ["record", "--attach", "kprobe", "-o", "/tmp/never.bt"]
    asked, done = with_off(guest, KPROBES, ["doctor", "--format", "json"], words)
    found = json.loads(asked.stdout)
    (firing,) = [each for each in found["findings"] if each["name"] == "firing"]
    assert (found["can_trace"], firing["state"]) == (True, "warning")
    assert firing["text"].endswith("is 0), so not all probes would run: config_get")
    assert done.status == 3, done.describe()
    assert "required probes would not run: update_balloon_size_func, tell_host" in done.stderr


def test_host_side_in_a_pid_namespace(guest: lab.Guest) -> None:
    """Doctor and record refuse alike: programs see other numbers of processes."""
    commands = [["doctor", "--side", "host"], ["record", "--side", "host", "-p", "1", "-o", "/tmp/never.bt"]]
    namespace = ["unshare", "--pid", "--fork", "--mount-proc"]
    asked, done = run_in_turn(guest, *commands, within=namespace, timeout_s=DOCTOR_S)
    assert (asked.status, done.status) == (3, 3), done.describe()
    assert asked.stderr == done.stderr
    assert "this is a container with process numbers of its own" in done.stderr
    assert done.stderr.count("\n") == 1


# ---- two balloons, one of which means free page hints by bit 3 ----


@pytest.fixture(scope="module")
def two_balloons() -> Iterator[lab.Guest]:
    """QEMU's balloon, and the lab's own with free page hints.

    Nothing may be inflated by the patched driver: the device would discard wrong pages.
    """
    with lab.solo(memory_mib=512, device="backend", backend_args=["--free-page-hint"], balloons=1) as guest:
        yield guest


def doctors(guest: lab.Guest) -> tuple[dict[str, Any], list[str]]:
    """What doctor says as JSON, and as text with one finding a line and one blank between words."""
    forms = run_in_turn(
        guest, *(["doctor", "--format", form] for form in ("json", "text")), timeout_s=DOCTOR_S
    )
    as_json, as_text = (done.stdout for done in forms)
    lines = as_text.replace("\n" + " " * 17, " ").splitlines()
    return json.loads(as_json), [" ".join(line.split()) for line in lines]


@pytest.mark.parametrize("kind", ["stock", "patched", "patched without BTF"])
def test_drivers_and_devices_are_told_apart(two_balloons: lab.Guest, kind: str) -> None:
    if kind != "stock":
        load_patched(two_balloons, btf=kind == "patched")
    found, text = doctors(two_balloons)
    driver = kind.split()[0]
    assert found["can_trace"] is True
    assert found["driver"] == {"kind": driver, "module": "virtio_balloon"}
    assert f"ok driver {driver} driver, module virtio_balloon" in text
    states = {finding["name"]: finding["state"] for finding in found["findings"]}
    assert states["btf"] == ("warning" if kind == "patched without BTF" else "ok")
    assert ("virtio_balloon.resp_data" in found["layout"]["offsets_bytes"]) is (kind == "patched")
    # Both devices, each with what was agreed on; one of them has bit 3.
    listed = "; ".join(
        f"{each['name']} (virtio_balloon): {', '.join(each['features'])}" for each in found["devices"]
    )
    assert f"ok device {listed}" in text
    with_bit_3 = ["FREE_PAGE_HINT" in each["features"] for each in found["devices"]]
    assert sorted(with_bit_3) == [False, True]
    assert with_bit_3 == [3 in each["feature_bits"] for each in found["devices"]]
    # To the stock driver it is what the device means by it, and its probes show that.
    assert "untraced" not in states
    assert any("report_free_page_func" in line for line in text) is (kind == "stock")
    assert states.get("bit 3") == (None if kind == "stock" else "warning")
    warned = [line for line in text if "discards pages which the guest still uses" in line]
    assert [line.startswith("warn bit 3") for line in warned] == ([] if kind == "stock" else [True])

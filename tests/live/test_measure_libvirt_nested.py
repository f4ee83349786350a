# SPDX-License-Identifier: GPL-2.0-or-later
"""`measure --vm` on a host with a real libvirtd and a domain defined by XML: both sides, by its name."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from measuring import assert_nothing_left
from pairs import SPLIT, booted, report_both, top_stages
from tracing import ATTACH_S, MIB_PAGES, assert_no_trace, assert_whole, outcomes, shell

import lab
from lab import ssh
from lab.kernels import HOST_OF_DOMAINS

NAME = "guest1"
GUEST_MIB, TAKEN_MIB = 512, 67
PORT, KEY = 2222, "/root/key"
WAY = ssh.Way(Path(KEY), PORT)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Nested]:
    """The domain, reached by ssh from its host."""
    key = ssh.make_key(tmp_path_factory.mktemp("ssh"))
    netdev, forward, device, card = ssh.network_arguments(PORT)
    arguments = (netdev, forward, device, f"{card},addr=0x1f")  # a place that libvirt does not give away
    with booted(GUEST_MIB, spec=HOST_OF_DOMAINS, domain=NAME, extra_args=arguments) as both:
        ssh.start_sshd(both.guest, key.with_suffix(".pub").read_bytes())
        both.host.run(shell(f"umask 077; cat > {KEY}; ip link set lo up"), stdin=key.read_bytes(), check=True)
        yield both


def test_both_sides_by_the_name_of_a_domain(pair: lab.Nested) -> None:
    done = pair.host.run(
        ["balloontrace", "measure", "--vm", NAME, "--guest", ssh.DESTINATION, "--ssh", WAY.command,
         "--take", f"{TAKEN_MIB}M", "--rounds", "1", "--no-first", "-o", "/io/domain", "--format", "json"],
        timeout_s=ATTACH_S, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["vm"] == NAME
    out = pair.host.io / "domain"
    found = report_both(*(out / f"round-001-{side}.bt" for side in ("guest", "host")))
    assert_whole(found)
    assert outcomes(found) == [(kind, "reached", TAKEN_MIB * MIB_PAGES) for kind in ("inflate", "deflate")]
    assert all(top_stages(operation) == SPLIT for operation in found["operations"])
    assert found["host"]["process"].startswith(f"{pair.qemu_pid} ")
    told = json.loads((out / "measure.json").read_text())
    assert told["vm"] == NAME
    assert f"guest={NAME}," in " ".join(told["vmm"])
    listed = pair.host.run(["virsh", "-q", "dommemstat", NAME], check=True).stdout
    assert f"actual {GUEST_MIB * 1024}" in listed
    assert_nothing_left(pair.guest)


def test_interrupted_on_both_sides(pair: lab.Nested) -> None:
    """One Ctrl-C, while the balloon is filled: nothing is left on either side, and it is empty again."""
    measuring = pair.host.start(
        ["balloontrace", "measure", "--vm", NAME, "--guest", ssh.DESTINATION, "--ssh", WAY.command,
         "--take", "251M", "--rounds", "2", "--settle", "100ms", "-o", "/io/interrupted"],
    )  # fmt: skip
    measuring.wait_for(f"{NAME}: ready after ".encode(), ATTACH_S)
    measuring.signal(signal.SIGINT)
    done = measuring.wait(ATTACH_S)
    assert (done.status, done.stdout) == (130, "")
    assert "interrupted; no round is complete" in done.stderr

    def is_back() -> bool:
        listed = pair.host.run(["virsh", "-q", "dommemstat", NAME], check=True).stdout
        return f"actual {GUEST_MIB * 1024}" in listed

    pair.host.wait_until(is_back, ATTACH_S, what="an empty balloon")  # measure waits for it for a minute
    assert_nothing_left(pair.guest)
    assert_no_trace(pair.host)

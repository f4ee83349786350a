# SPDX-License-Identifier: GPL-2.0-or-later
"""`measure --vm` with a real libvirtd and a domain defined by XML: by ssh, by its agent, restarted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from measuring import AGENT_PORT, START_AGENT, Measuring, assert_nothing_left
from tracing import MIB_PAGES, ROOT, change, outcomes, report, shell

import lab
from lab import ssh
from lab.kernels import IMAGES
from lab.libvirt import SYSTEM_PYTHON, Libvirt, domain
from lab.libvirt_domain import URI

NAME = "guest1"
MEMORY_MIB, TAKEN_MIB = 512, 67
COUNTERS = ("balloon_inflate", "balloon_deflate")
QUICK = ("--guest-only", "--settle", "100ms", "--no-first", "--take", f"{TAKEN_MIB}M")


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> ssh.Way:
    return ssh.Way(ssh.make_key(tmp_path_factory.mktemp("ssh")), ssh.free_port())


@pytest.fixture(scope="module")
def there(way: ssh.Way) -> Iterator[tuple[Libvirt, lab.Guest]]:
    """The domain, its sshd and its agent."""
    netdev, forward, device, card = ssh.network_arguments(way.port)
    arguments = (netdev, forward, device, f"{card},addr=0x1f")  # a place that libvirt does not give away
    with domain(NAME, MEMORY_MIB, IMAGES["trixie-bare-6.12"], arguments=arguments) as (libvirt, guest):
        ssh.start_sshd(guest, way.key.with_suffix(".pub").read_bytes())
        guest.start(shell(START_AGENT))
        yield libvirt, guest


def measure(libvirt: Libvirt, *words: str | Path) -> Measuring:
    """Run by the distribution's Python, which has libvirt's module, and no numpy."""
    python = libvirt.words(["env", f"PYTHONPATH={ROOT}", f"LIBVIRT_DEFAULT_URI={URI}", SYSTEM_PYTHON, "-P"])
    return Measuring(*words, python=python)


def test_by_ssh_while_libvirtd_is_restarted(
    there: tuple[Libvirt, lab.Guest], way: ssh.Way, tmp_path: Path
) -> None:
    libvirt, guest = there
    before = guest.vmstat()
    measuring = measure(
        libvirt, "--vm", NAME, "--guest", ssh.DESTINATION, "--ssh", way.command, *QUICK,
        "--rounds", "2", "-o", tmp_path / "out",
    )  # fmt: skip
    measuring.wait_for(f"{NAME}: round 1 of 2: inflate")
    libvirt.stop()
    libvirt.start()
    status, _ = measuring.wait()
    assert status == 0, measuring.said
    assert change(before, guest.vmstat(), COUNTERS) == [2 * TAKEN_MIB * MIB_PAGES] * 2
    found = report(tmp_path / "out/round-002-guest.bt")
    assert [each[:2] for each in outcomes(found)] == [("inflate", "reached"), ("deflate", "reached")]
    assert_nothing_left(guest)


def test_by_the_agent(there: tuple[Libvirt, lab.Guest], tmp_path: Path) -> None:
    libvirt, guest = there
    assert AGENT_PORT in libvirt.virsh("dumpxml", NAME)
    measuring = measure(
        libvirt, "--vm", NAME, "--guest-agent", "libvirt", *QUICK, "--rounds", "1", "-o", tmp_path / "out"
    )
    status, _ = measuring.wait()
    assert status == 0, measuring.said
    found = report(tmp_path / "out/round-001-guest.bt")
    assert [each[:2] for each in outcomes(found)] == [("inflate", "reached"), ("deflate", "reached")]
    assert_nothing_left(guest)


def test_a_daemon_that_hangs_does_not_keep_it(there: tuple[Libvirt, lab.Guest], tmp_path: Path) -> None:
    """What waits for the daemon is a thread of its own, so that a Ctrl-C ends all of it."""
    libvirt, guest = there
    with libvirt.hanging():
        measuring = measure(libvirt, "--vm", NAME, "--host-only", "--take", "64M", "-o", tmp_path / "out")
        guest.wait_until(lambda: measuring.threads() > 1, 60, what="a question to libvirt")
        measuring.interrupt()
        assert measuring.wait() == (130, "")
    assert measuring.said.strip() == "balloontrace: interrupted"


def test_a_wrong_name(there: tuple[Libvirt, lab.Guest], tmp_path: Path) -> None:
    libvirt, _ = there
    measuring = measure(libvirt, "--vm", "guest2", "--host-only", "--take", "64M", "-o", tmp_path / "out")
    assert measuring.wait() == (2, "")
    assert measuring.said == f"balloontrace: libvirt has no VM called guest2; it knows {NAME}\n"

# SPDX-License-Identifier: GPL-2.0-or-later
"""The nested topology, as far as it can be told without a VM."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import lab
from lab import accel, boot_retries
from lab.boot_retries import BootPanic, retry_lost
from lab.errors import LabError, VMLost
from lab.image import Image
from lab.nested_inner_vm import decode_config, inner_command
from lab.qemu import HOST_TCG, KVM, Hosting, HostingPlumbing, Plumbing, VmConfig, qemu_command
from lab.topology_nested import parse_rss_bytes
from lab.vhost import BackendOptions, ExtraTime
from lab.vm_processes import Software, socket_names

IMAGE = Image(Path("/cache/image"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        VmConfig(),
        VmConfig(
            balloons=({"deflate-on-oom": "on"},), kernel_args=("a b", "'c'"), extra_args=("-x",), cpus=1
        ),
        VmConfig(balloons=(), backend=BackendOptions(page_bitmap=True, arguments=("--no-discard",))),
        VmConfig(backend=BackendOptions(extra=ExtraTime(per_discard_ns=5, in_discard_ns=7))),
    ],
)
def test_a_configuration_reaches_the_host_as_it_is(config: VmConfig) -> None:
    assert decode_config(inner_command(config, "6.12")[-2]) == config


def test_only_hosts_that_count_have_the_same_mappings_at_each_boot() -> None:
    plain, counting = (inner_command(VmConfig(icount=icount, cpus=1), "6.12") for icount in (False, True))
    assert plain[0] == "python3"
    assert counting[0] == "env"
    assert counting[-5:-2] == plain[:3]


@pytest.mark.parametrize("options", [{"page_bitmap": True}, {"backend_args": ["--no-discard"]}])
def test_options_of_the_labs_own_balloon_are_not_qemus(options: dict[str, Any]) -> None:
    with pytest.raises(LabError, match="backend"), lab.nested(**options):
        pass


def test_only_what_is_there_has_a_socket() -> None:
    plain = ["qmp", "agent0", "agent1", "agent2", "agent3"]
    assert socket_names(VmConfig()) == plain
    assert socket_names(VmConfig(hosting=Hosting(Path("/vm")))) == [*plain, "tunnel"]
    assert socket_names(VmConfig(backend=BackendOptions())) == [*plain, "balloon"]


def test_a_host_has_the_image_twice_a_port_and_the_folders() -> None:
    hosting = HostingPlumbing(12, {"vm": Path("/run/vm")}, {"image": Path("/cache/image")})
    plumbing = Plumbing(7, (8, 9, 10, 11), Path("/console"), Path("/repo"), Path("/io"), hosting=hosting)
    words = qemu_command(VmConfig(balloons=()), IMAGE, HOST_TCG, plumbing)
    of = {
        option: [value for word, value in itertools.pairwise(words) if word == option]
        for option in ("-drive", "-chardev", "-device", "-fsdev")
    }
    root, inner = of["-drive"]
    assert "snapshot=on" in root
    assert inner == "file=/cache/image/root.ext4,format=raw,if=none,id=inner,readonly=on"
    assert "socket,id=tunnel,fd=12,server=on,wait=off" in of["-chardev"]
    assert "virtserialport,chardev=tunnel,name=lab.tunnel" in of["-device"]
    writable = {value.split("id=")[1].split(",")[0]: "readonly" not in value for value in of["-fsdev"]}
    assert writable == {"repo": False, "io": True, "vm": True, "image": False}


def test_the_root_of_a_guest_in_a_host_is_a_disk_of_the_host() -> None:
    inside = Software(Image(Path("/lab/image"), disk=Path("/dev/vdb")), lab.qemu.SYSTEM_QEMU, KVM)
    assert (inside.image.root, inside.image.kernel) == (
        Path("/dev/vdb"),
        Path("/lab/image/kernels/6.12/vmlinuz"),
    )


@pytest.mark.parametrize(("text", "nests"), [("1\n", True), ("Y\n", True), ("0\n", False), ("N\n", False)])
def test_kvm_is_taken_for_a_host_where_it_nests(tmp_path: Path, text: str, nests: bool) -> None:
    assert not accel.kvm_can_nest(tmp_path)
    switch = tmp_path / "kvm_intel/parameters/nested"
    switch.parent.mkdir(parents=True)
    switch.write_text(text)
    assert accel.kvm_can_nest(tmp_path) is nests


def test_a_host_is_emulated_where_kvm_does_not_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    config = VmConfig(hosting=Hosting(Path("/vm")))
    monkeypatch.setattr(accel, "kvm_works", lambda *_: True)
    for nests, expected in ((False, HOST_TCG), (True, KVM)):
        monkeypatch.setattr(accel, "kvm_can_nest", lambda nests=nests: nests)
        assert accel.choose_accelerator(config, IMAGE) == expected


def test_a_panic_while_booting_is_tried_again_and_nothing_else_is(tmp_path: Path) -> None:
    outcomes: list[Exception | str] = [BootPanic(VMLost("panicked"), "the console"), "booted"]

    def attempt() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert retry_lost(attempt) == "booted"
    assert (tmp_path / "balloontrace-lab/boot-panic.log").read_text() == "the console"
    outcomes[:] = [VMLost("killed"), "never"]
    with pytest.raises(VMLost, match="killed"):
        retry_lost(attempt)
    outcomes[:] = [BootPanic(VMLost(str(n)), "") for n in range(boot_retries._ATTEMPTS)]
    with pytest.raises(BootPanic):
        retry_lost(attempt)
    assert outcomes == []


def test_rss_is_in_kib() -> None:
    assert parse_rss_bytes("Name:\tx\nVmHWM:\t 9 kB\nVmRSS:\t  212716 kB\nRssAnon:\t 1 kB\n") == 212716 << 10

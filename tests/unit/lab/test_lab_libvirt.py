# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest in libvirt's XML: what libvirt has no word for goes to QEMU as it is."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab.errors import LabError
from lab.image import Image
from lab.libvirt_domain import DomainPlaces, describe_domain
from lab.nested_inner_vm import decode_config, inner_command
from lab.qemu import KVM, TCG, VmConfig
from lab.vhost import BackendOptions

PLACES = DomainPlaces(Path("/vm & co"), Path("/run/x"), Path("/dev/vdb"))
CONFIG = VmConfig(512, cpus=1, domain="guest1", extra_args=("-device", "virtio-net-pci"))
ARGUMENT = "{http://libvirt.org/schemas/domain/qemu/1.0}arg"


def test_a_domain_under_emulation_and_with_kvm() -> None:
    image = Image(Path("/image"))
    emulated, nested = (
        ElementTree.fromstring(describe_domain(CONFIG, image, PLACES, accelerator=each, emulator=emulator))
        for each, emulator in ((TCG, None), (KVM, Path("/root/qemu")))
    )
    assert [each.get("type") for each in (emulated, nested)] == ["qemu", "kvm"]
    assert [each.findtext("devices/emulator") for each in (emulated, nested)] == [None, "/root/qemu"]
    assert nested.findtext("name") == "guest1"
    assert [each.get("path") for each in nested.iterfind("devices/serial/source")] == ["/vm & co/console.log"]
    words = [each.get("value") for each in nested.iter(ARGUMENT)]
    assert "file=/dev/vdb,format=raw,if=none,id=root,snapshot=on,cache=unsafe" in words
    assert "unix:/run/x/qmp,server=on,wait=off" in words
    assert words[-2:] == ["-device", "virtio-net-pci"]


def test_which_program_starts_it_in_a_host() -> None:
    words = inner_command(CONFIG, "6.12")
    assert "lab.nested_inner_domain" in words[2]
    assert decode_config(words[3]) == CONFIG
    assert "lab.nested_inner_vm" in inner_command(VmConfig(512), "6.12")[2]


def test_what_a_domain_cannot_have() -> None:
    with pytest.raises(LabError, match="A domain of libvirt's has QEMU's own balloon"):
        VmConfig(512, domain="guest1", backend=BackendOptions()).check()

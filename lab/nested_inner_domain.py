# SPDX-License-Identifier: GPL-2.0-or-later
"""Run in a host VM, in place of `nested_inner_vm`: its guest is a domain of a libvirtd that starts here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import folders
from lab.errors import LabError
from lab.image import Image
from lab.libvirt_domain import QEMU_CONF, URI, DomainPlaces, describe_domain
from lab.nested_inner_vm import DISK, MOUNTS, QEMU_PID, READY, decode_config, open_trunk
from lab.qemu import KVM, QemuProgram
from lab.qemutree import tree_program
from lab.tunnel import Tunnel
from lab.vm_processes import DIES_WITH_US, IMAGE_TAG, QEMU_TAG, VM_TAG

_EMULATOR = Path("/root/qemu")
_ANSWERS_S = 120
_PORTS = Path("/sys/class/virtio-ports")


def main() -> None:
    """Runs the domain until it ends, or until the machine outside lets go of it."""
    config, kernel = decode_config(sys.argv[1]), sys.argv[2]
    folder = MOUNTS / VM_TAG
    places = DomainPlaces(folder, Path(tempfile.mkdtemp(dir="/run")), DISK)
    trunk = open_trunk(_PORTS)
    write_emulator(tree_program(MOUNTS / QEMU_TAG))
    daemon = start_daemon(folder / "libvirtd.log")
    xml = places.sockets / "domain.xml"
    image = Image(MOUNTS / IMAGE_TAG, kernel, disk=DISK)
    xml.write_text(describe_domain(config, image, places, accelerator=KVM, emulator=_EMULATOR))
    virsh("define", str(xml))
    virsh("start", config.domain)
    pid = int(Path(f"/run/libvirt/qemu/{config.domain}.pid").read_text())
    (folder / QEMU_PID).write_text(str(pid))

    def connect(name: str) -> socket.socket:
        return folders.connect(places.sockets, name)

    tunnel = Tunnel(trunk, connect=connect, on_signal=lambda number: os.kill(pid, number))
    tunnel.watch(os.pidfd_open(pid), tunnel.stop)
    print(READY, flush=True)
    try:
        tunnel.run()
    finally:
        subprocess.run(["virsh", "-q", "-c", URI, "destroy", config.domain], capture_output=True)
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
    if not tunnel.is_cut:
        tunnel.finish(0)


def write_emulator(program: QemuProgram) -> None:
    """A QEMU that libvirt can start by one name."""
    environment = " ".join(f"{name}={value}" for name, value in program.environment.items())
    _EMULATOR.write_text(f'#!/bin/sh\n{environment} exec {" ".join(program.argv)} "$@"\n')
    _EMULATOR.chmod(0o755)


def start_daemon(log: Path) -> subprocess.Popen[bytes]:
    """The daemon, which answers. Raises LabError."""
    Path("/etc/libvirt/qemu.conf").write_text(QEMU_CONF)
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            [*DIES_WITH_US, "libvirtd"], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    deadline_s = time.monotonic() + _ANSWERS_S
    while subprocess.run(["virsh", "-q", "-c", URI, "list"], capture_output=True).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline_s:
            raise LabError(f"libvirtd does not answer:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.5)
    return daemon


def virsh(*words: str) -> None:
    """Raises LabError."""
    done = subprocess.run(["virsh", "-q", "-c", URI, *words], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"virsh {' '.join(words)}: {done.stderr.strip()}")

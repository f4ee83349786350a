# SPDX-License-Identifier: GPL-2.0-or-later
"""Run in a host VM: starts the VM in it, and is the inner end of the tunnel to the machine outside.

It is given a VmConfig as JSON and the name of the kernel, and writes `ready` when QEMU has been started.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import tempfile
import time
from dataclasses import asdict, replace
from io import FileIO
from pathlib import Path

from lab import exit_after_injection, folders
from lab.errors import LabError
from lab.image import Image
from lab.qemu import KVM, TUNNEL_PORT, VmConfig
from lab.qemutree import tree_program
from lab.tunnel import Tunnel
from lab.vhost import BackendOptions, ExtraTime
from lab.vm_processes import (
    BACKEND_TAG,
    DIES_WITH_US,
    IMAGE_TAG,
    QEMU_TAG,
    VM_TAG,
    Software,
    launch,
    wait_helper_ended,
)

MOUNTS = Path("/lab")
DISK = Path("/dev/vdb")
QEMU_PID = "qemu.pid"
READY = "ready"
# The kernel looks QEMU's mappings through in each madvise call, three times in a deflate's. How long that
# takes depends on what lies before the guest's memory: heaps of threads, stacks of coroutines and of workers,
# as many as there happened to be. d of a deflate differed between boots by up to 10 %. So addresses are the
# same each time, what comes later lies above, threads share a heap, and there is one worker.
_SAME_MAPPINGS = ("env", "MALLOC_ARENA_MAX=1", "setarch", "--addr-no-randomize", "--addr-compat-layout")
_ONE_WORKER = ("-object", "main-loop,id=main-loop,thread-pool-max=1")
_CONNECT_S = 10
_LOOK_AGAIN_S = 0.02
_PORTS = Path("/sys/class/virtio-ports")


def decode_config(text: str) -> VmConfig:
    """A configuration from JSON; there is no VM in a VM in a VM."""
    raw = json.loads(text)
    lists = {name: tuple(raw[name]) for name in ("balloons", "kernel_args", "extra_args")}
    backend = raw["backend"]
    if backend is not None:
        extra, arguments = ExtraTime(**backend["extra"]), tuple(backend["arguments"])
        backend = BackendOptions(**{**backend, "arguments": arguments, "extra": extra})
    return VmConfig(**{**raw, **lists, "backend": backend, "hosting": None})


def main() -> None:
    """Runs the VM until it ends, or until the machine outside lets go of it."""
    config = decode_config(sys.argv[1])
    software = Software(
        image=Image(MOUNTS / IMAGE_TAG, sys.argv[2], disk=DISK),
        program=tree_program(MOUNTS / QEMU_TAG),
        accelerator=KVM,
        backend_build=MOUNTS / BACKEND_TAG if config.backend is not None else None,
    )
    folder = MOUNTS / VM_TAG
    sockets = Path(tempfile.mkdtemp(dir="/run"))  # 9p carries files, not sockets
    trunk = open_trunk(_PORTS)
    if config.icount:
        exit_after_injection.start()
        config = replace(config, extra_args=(*config.extra_args, *_ONE_WORKER))
    processes = launch(config, software, folder, sockets=sockets, guard=DIES_WITH_US)
    (folder / QEMU_PID).write_text(str(processes.qemu.pid))

    def connect(name: str) -> socket.socket:
        return folders.connect(sockets, name)

    tunnel = Tunnel(trunk, connect=connect, on_signal=processes.qemu.send_signal)
    tunnel.watch(os.pidfd_open(processes.qemu.pid), tunnel.stop)
    print(READY, flush=True)
    try:
        tunnel.run()
    finally:
        if processes.qemu.poll() is None:
            processes.qemu.kill()
        status = processes.qemu.wait()
        if processes.backend is not None:
            wait_helper_ended(processes.backend)
    if not tunnel.is_cut:
        tunnel.finish(status)


def open_trunk(ports: Path) -> FileIO:
    """The port to the outer end, which must be connected: until that is seen, a read would say the end.

    Raises LabError when it is not, in time.
    """
    names = [port.name for port in ports.iterdir() if (port / "name").read_text().strip() == TUNNEL_PORT]
    if not names:
        raise LabError(f"This VM has no port {TUNNEL_PORT}.")
    trunk = FileIO(f"/dev/{names[0]}", "r+")
    poll = select.poll()
    poll.register(trunk, select.POLLIN)
    deadline_s = time.monotonic() + _CONNECT_S
    while any(event & select.POLLHUP for _, event in poll.poll(0)):
        if time.monotonic() > deadline_s:
            raise LabError("Nobody is at the other end of the tunnel.")
        time.sleep(_LOOK_AGAIN_S)
    return trunk


def inner_command(config: VmConfig, kernel: str) -> list[str]:
    """The program that is the inner end, to be run in the repository of a host VM."""
    module = "nested_inner_domain" if config.domain else "nested_inner_vm"
    start = f"from lab.{module} import main; main()"
    same_mappings = _SAME_MAPPINGS if config.icount else ()
    return [*same_mappings, "python3", "-c", start, json.dumps(asdict(config)), kernel]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts the processes of a VM, here or in a host VM: QEMU, and the lab's own balloon device."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from lab import folders
from lab.agent import AGENT_PORTS
from lab.identity import read_identity
from lab.image import Image
from lab.qemu import (
    EMULATED_PC,
    Accelerator,
    HostingPlumbing,
    Plumbing,
    QemuProgram,
    VmConfig,
    needs_watch,
    qemu_command,
)
from lab.tsc import clock_arguments
from lab.vhost import CONTROL_SOCKET, start_backend
from lab.virtiofs import share_folders
from lab.watch import WATCH_SOCKET, watch_command

REPO = Path(__file__).resolve().parent.parent
QEMU_LOG = "qemu.log"
TUNNEL_SOCKET = "tunnel"
END_TIMEOUT_S = 5
# Tags of what a host VM sees: the folder of the VM in it, and what that is made of.
VM_TAG, IMAGE_TAG, QEMU_TAG, BACKEND_TAG = "vm", "image", "qemu", "backend"
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")


@dataclass(frozen=True)
class Software:
    """What a VM is made of, and the locks that keep it from being removed while the VM runs."""

    image: Image
    program: QemuProgram
    accelerator: Accelerator
    backend_build: Path | None = None
    qemu_tree: Path | None = None  # for the VM in this one
    locks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Processes:
    """What was started."""

    qemu: subprocess.Popen[bytes]
    backend: subprocess.Popen[bytes] | None
    helpers: Sequence[subprocess.Popen[bytes]] = ()  # each ends when QEMU does


def socket_names(config: VmConfig) -> list[str]:
    """The sockets of a VM, in its folder: QMP, the agent's, and those that only some VMs have."""
    return [
        "qmp",
        *(f"agent{number}" for number in range(AGENT_PORTS)),
        *([TUNNEL_SOCKET] if config.hosting is not None else ()),
        *([WATCH_SOCKET] if needs_watch(config) else ()),
        *([CONTROL_SOCKET] if config.backend is not None else ()),
    ]


def launch(
    config: VmConfig,
    software: Software,
    folder: Path,
    *,
    sockets: Path | None = None,
    guard: Sequence[str] = (),
) -> Processes:
    """Starts a VM with everything in `folder`; only its sockets may be in another one.

    `guard` is put before QEMU. The balloon device needs none: it ends when QEMU does. Raises OSError.
    """
    if software.accelerator in EMULATED_PC:
        config = replace(config, kernel_args=(*clock_arguments(), *config.kernel_args))
    with ExitStack() as stack:
        listeners = {
            name: stack.enter_context(closing(folders.listen(sockets or folder, name)))
            for name in socket_names(config)
        }
        control = listeners.pop(CONTROL_SOCKET, None)
        descriptors = {name: listener.fileno() for name, listener in listeners.items()}
        plumbing = Plumbing(
            qmp_fd=descriptors["qmp"],
            agent_fds=tuple(descriptors[f"agent{number}"] for number in range(AGENT_PORTS)),
            console=folder / "console.log",
            repo=REPO,
            io=folder / "io",
            hosting=_plan_hosting(config, software, descriptors),
            watch_fd=descriptors.get(WATCH_SOCKET),
        )
        helpers: list[subprocess.Popen[bytes]] = []
        if not software.image.has_9p():
            shared = {"repo": plumbing.repo, "io": plumbing.io}
            ends, helpers = share_folders(shared, sockets or folder, stack, guard)
            plumbing = replace(plumbing, virtiofs_fds=ends)
            descriptors |= ends
        backend = None
        if config.backend is not None and software.backend_build is not None and control is not None:
            # Both ends are closed here on the way out: the device lives as long as QEMU has its end.
            ours, theirs = (stack.enter_context(closing(end)) for end in socket.socketpair())
            backend = start_backend(software.backend_build, config.backend, folder, ours, control)
            plumbing = replace(plumbing, backend_fd=theirs.fileno())
            descriptors["backend"] = theirs.fileno()
        log = stack.enter_context((folder / QEMU_LOG).open("ab"))
        # QEMU inherits the locks, which therefore stay as long as any VM uses what they protect. A session of
        # its own: Ctrl-C in a terminal is for the program that started the VM, which then ends it in order.
        qemu = subprocess.Popen(
            [*guard, *qemu_command(config, software.image, software.accelerator, plumbing, software.program)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, **software.program.environment},
            pass_fds=(*descriptors.values(), *software.locks), start_new_session=True,
        )  # fmt: skip
        if needs_watch(config) and (identity := read_identity(qemu.pid)):
            watch = [*guard, *watch_command(folder, identity)]
            helpers.append(
                subprocess.Popen(
                    watch, cwd=REPO, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            )
    return Processes(qemu, backend, helpers)


def wait_helper_ended(helper: subprocess.Popen[bytes]) -> int:
    """Waits for what ends when its QEMU does, and kills it in the end; its exit status."""
    try:
        return helper.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        helper.kill()
        return helper.wait()


def _plan_hosting(
    config: VmConfig, software: Software, descriptors: Mapping[str, int]
) -> HostingPlumbing | None:
    if config.hosting is None or software.qemu_tree is None:
        return None
    readable = {IMAGE_TAG: software.image.folder, QEMU_TAG: software.qemu_tree}
    if software.backend_build is not None:
        readable[BACKEND_TAG] = software.backend_build
    return HostingPlumbing(descriptors[TUNNEL_SOCKET], {VM_TAG: config.hosting.folder}, readable)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The nested topology: a host VM with KVM and QEMU in it, and the guest with the balloon in that.

The guest's VM has a folder on this machine like any other; its QEMU runs in the host VM
(`lab.nested_inner_vm`), and in its place here is the end of a tunnel (`lab.tunnel`). `Guest` and the command
line need not know.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from lab import folders
from lab.boot_retries import await_guest, boot, retry_lost
from lab.errors import CommandFailed, LabError
from lab.folders import VmState
from lab.guest import Guest
from lab.identity import ProcessIdentity, own_identity, read_identity
from lab.kernels import ImageSpec
from lab.nested_inner_vm import MOUNTS, QEMU_PID, READY, inner_command
from lab.progress import Progress
from lab.qemu import Hosting, VmConfig
from lab.signals import sigterm_raises
from lab.topology_solo import GuestOptions, guest_config
from lab.tunnel import outer_command
from lab.vm import Vm
from lab.vm_processes import (
    BACKEND_TAG,
    DIES_WITH_US,
    IMAGE_TAG,
    QEMU_LOG,
    QEMU_TAG,
    REPO,
    TUNNEL_SOCKET,
    VM_TAG,
    socket_names,
)

# For the host's own kernel, QEMU beside the guest's memory, and a recorder while it compiles.
HOST_EXTRA_MIB = 1536
# Driver and device take turns, so that a second CPU would gain little; and code that one CPU patches while
# the other runs it is what emulation does worst.
HOST_CPUS = GUEST_CPUS = 1
_PREPARE_S = 60
_READY_S = 120
_KIB_BYTES = 1024


@dataclass(frozen=True)
class Nested:
    """Both sides of a balloon; commands run in either, and files go in and out of either."""

    host: Guest
    guest: Guest

    @property
    def qemu_pid(self) -> int:
        """The process id, in the host VM, of the QEMU that runs the guest."""
        return int((self.guest.io.parent / QEMU_PID).read_text())

    @property
    def vmm_pid(self) -> int:
        """The process id, in the host VM, of the process whose madvise calls are the balloon's."""
        return self.guest.backend.pid() if self.guest.has_backend else self.qemu_pid

    def guest_rss_bytes(self) -> int:
        """How much of the host's memory QEMU has mapped, the guest's included. Raises CommandFailed."""
        text = self.host.run(["cat", f"/proc/{self.qemu_pid}/status"], check=True).stdout
        return parse_rss_bytes(text)

    def detach(self) -> None:
        """Lets go of both VMs, which go on."""
        self.guest.detach()
        self.host.detach()

    def stop(self) -> None:
        """Ends both VMs and removes their folders; no error when they have ended already."""
        try:
            self.guest.stop()
        finally:
            self.host.stop()


@contextmanager
def nested(
    *,
    icount: bool = False,
    host_extra_mib: int = HOST_EXTRA_MIB,
    host_cpus: int = HOST_CPUS,
    host_huge_pages: bool = True,
    spec: ImageSpec | None = None,
    boot_timeout_s: float = 300,
    progress: Progress | None = None,
    **options: Unpack[GuestOptions],
) -> Iterator[Nested]:
    """Boots a host VM and a guest in it, both from the same image; ends both in any case.

    The guest has 2 GiB and 1 CPU; the host has so much more memory than the guest. With `icount` the time of
    both counts instructions. Raises LabError; VMFrozen where QEMU stops doing so (`retry_lost` helps).
    """
    config = replace(guest_config(cpus=GUEST_CPUS, memory_mib=2048, options=options), icount=icount)
    with sigterm_raises():
        pair = boot_nested(
            config,
            host_extra_mib=host_extra_mib,
            host_cpus=host_cpus,
            host_huge_pages=host_huge_pages,
            spec=spec,
            boot_timeout_s=boot_timeout_s,
            progress=progress,
        )
        try:
            yield pair
        finally:
            pair.stop()


def boot_nested(
    config: VmConfig,
    name: str | None = None,
    *,
    outlives_us: bool = False,
    host_extra_mib: int = HOST_EXTRA_MIB,
    host_cpus: int = HOST_CPUS,
    host_huge_pages: bool = True,
    spec: ImageSpec | None = None,
    boot_timeout_s: float = 300,
    progress: Progress | None = None,
) -> Nested:
    """Host and guest, both of whose agents answer; the host's name is that of the guest and `-host`.

    Unless `outlives_us` both die with the calling thread. Raises LabError, VMLost.
    """
    config.check()

    def attempt() -> Nested:
        with ExitStack() as undo:
            folders.remove_stale()
            folder = folders.create_folder(name, owned=not outlives_us)
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            host_config = VmConfig(
                memory_mib=config.memory_mib + host_extra_mib,
                cpus=host_cpus,
                icount=config.icount,
                balloons=(),
                hosting=Hosting(folder, config.backend),
            )
            host = boot(
                host_config, f"{folder.name}-host", outlives_us=outlives_us, spec=spec, progress=progress
            )
            undo.callback(host.stop)
            prepare_host(host, with_backend=config.backend is not None, huge_pages=host_huge_pages)
            vm = start_inner_vm(host, config, folder, spec, outlives_us=outlives_us)
            guest = await_guest(vm, boot_timeout_s)
            undo.pop_all()
            return Nested(host, guest)

    return retry_lost(attempt, progress)


def prepare_host(host: Guest, *, with_backend: bool, huge_pages: bool = True) -> None:
    """Mounts what the guest is made of, and loads KVM. Raises LabError.

    Memory that is shared with a balloon device may have huge pages, as QEMU's own memory has by default:
    under emulation a guest that has to fault in 4 KiB at a time takes minutes to use what it has.
    """
    tags = [IMAGE_TAG, QEMU_TAG, *([BACKEND_TAG] if with_backend else ())]
    enabled, shared_enabled = ("always", "advise") if huge_pages else ("never", "never")
    options = "trans=virtio,version=9p2000.L,msize=262144"
    script = f"""
set -e
mkdir -p {" ".join(str(MOUNTS / tag) for tag in [VM_TAG, *tags])}
mount -t 9p -o {options},cache=none {VM_TAG} {MOUNTS / VM_TAG}
for tag in {" ".join(tags)}; do mount -t 9p -o {options},cache=loose,ro $tag {MOUNTS}/$tag; done
echo {enabled} > /sys/kernel/mm/transparent_hugepage/enabled
echo {shared_enabled} > /sys/kernel/mm/transparent_hugepage/shmem_enabled
modprobe -q kvm_amd || modprobe -q kvm_intel || true
[ -c /dev/kvm ] || {{ echo "there is no /dev/kvm" >&2; exit 1; }}
"""
    try:
        host.run(["sh", "-c", script], timeout_s=_PREPARE_S, check=True)
    except CommandFailed as failed:
        raise LabError(f"The host VM cannot run a guest: {failed.completed.stderr.strip()}") from None


def start_inner_vm(
    host: Guest, config: VmConfig, folder: Path, spec: ImageSpec | None = None, *, outlives_us: bool
) -> Vm:
    """Starts QEMU in the host VM, and the process that stands for it here. Raises LabError."""
    with ExitStack() as stack:
        trunk = stack.enter_context(closing(host.connect(TUNNEL_SOCKET)))
        listeners = {
            name: stack.enter_context(closing(folders.listen(folder, name))) for name in socket_names(config)
        }
        descriptors = {name: listener.fileno() for name, listener in listeners.items()}
        log = stack.enter_context((folder / QEMU_LOG).open("ab"))
        outer = subprocess.Popen(
            [*(() if outlives_us else DIES_WITH_US), *outer_command(trunk.fileno(), descriptors)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPO,
            pass_fds=(trunk.fileno(), *descriptors.values()), start_new_session=True,
        )  # fmt: skip
    identity = read_identity(outer.pid) or ProcessIdentity(outer.pid, 0)
    vm = Vm(folder, identity, outer)
    try:
        inner = host.start(inner_command(config, (spec or ImageSpec()).kernel), cwd="/repo")
        inner.wait_for(READY.encode(), _READY_S, stream="stdout")
    except BaseException:
        vm.send_signal(signal.SIGKILL)
        vm.end()
        raise
    owner = None if outlives_us else own_identity()
    state = VmState(identity, owner, config.memory_mib, config.cpus, accelerator="nested", host=host.name)
    folders.write_state(folder, state)
    return vm


def parse_rss_bytes(status: str) -> int:
    """VmRSS from /proc/PID/status."""
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * _KIB_BYTES

# SPDX-License-Identifier: GPL-2.0-or-later
"""One QEMU process, and the lab's own balloon device if it has one: started, found again, ended."""

from __future__ import annotations

import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from lab import folders
from lab.accel import choose_accelerator
from lab.agent import AGENT_PORTS
from lab.cache import run_folder, try_lock
from lab.errors import LabError, VMFrozen, VMLost
from lab.fair_clock import FairClock
from lab.folders import VmState
from lab.identity import ProcessIdentity, own_identity, read_identity
from lab.image import using_image
from lab.kernels import ImageSpec
from lab.packages import TO_RUN, TO_RUN_ARM, ensure_packages, tail_lines
from lab.progress import Progress
from lab.qemu import ARM_QEMU, ARM_TCG, SYSTEM_QEMU, VmConfig, needs_new_qemu
from lab.qemutree import using_new_qemu, using_qemu_tree
from lab.vhost import CONTROL_SOCKET, MESSAGES, BackendClient, build_backend
from lab.virtiofs import ensure_virtiofsd
from lab.vm_processes import DIES_WITH_US, QEMU_LOG, Software, launch, wait_helper_ended
from lab.watch import read_frozen

_SHOWN_LINES = 60
_END_TIMEOUT_S = 5


class Vm:
    """A VM by its folder: `vm.json`, the sockets, `console.log`, `qemu.log` and the exchange folder `io`."""

    def __init__(
        self,
        folder: Path,
        identity: ProcessIdentity,
        child: subprocess.Popen[bytes] | None = None,
        backend: subprocess.Popen[bytes] | None = None,
        helpers: Sequence[subprocess.Popen[bytes]] = (),
    ) -> None:
        self.folder = folder
        self.identity = identity
        self._child = child
        self._backend = backend
        self._helpers = helpers

    @property
    def name(self) -> str:
        """Its name, which is that of the folder."""
        return self.folder.name

    @property
    def io(self) -> Path:
        """What the guest sees as /io."""
        return self.folder / "io"

    def is_alive(self) -> bool:
        """Whether QEMU runs."""
        return not self.wait_ended(0)

    def wait_ended(self, timeout_s: float) -> bool:
        """Waits for QEMU to end by itself; whether it has."""
        if self._child is not None:
            try:
                self._child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
            return True
        with self.identity.opened() as descriptor:
            return descriptor is None or bool(select.select([descriptor], [], [], timeout_s)[0])

    def send_signal(self, number: int) -> None:
        """Signals QEMU, and nothing that may have got its process id since."""
        with self.identity.opened() as descriptor:
            if descriptor is not None:
                signal.pidfd_send_signal(descriptor, number)

    def end(self) -> None:
        """Ends QEMU: it is asked, then killed; the lab's own balloon device ends with it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.wait_ended(0):
                break
            self.send_signal(number)
            self.wait_ended(_END_TIMEOUT_S)
        self.wait_backend_ended()
        for process in self._helpers:
            wait_helper_ended(process)

    def wait_backend_ended(self) -> int | None:
        """Waits for the balloon device, and kills it in the end; its exit status, None without one."""
        return wait_helper_ended(self._backend) if self._backend is not None else None

    def remove(self) -> None:
        """Removes its folder; QEMU must have ended."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def console(self) -> str:
        """What the guest has written to its console."""
        return _read_text(self.folder / "console.log").replace("\r", "")

    def has_panicked(self) -> bool:
        """Whether the guest's kernel said so on its console."""
        return "Kernel panic" in self.console()

    def lost(self, what: str) -> VMLost:
        """The error that says how the VM ended (it is given a moment to do so) and shows its last words."""
        console = self.console()
        end = self._describe_end()
        frozen = self._describe_frozen()
        return (VMFrozen if frozen else VMLost)(
            f"VM {self.name} is lost: {what}; {end}{frozen}\n"
            f"--- QEMU's messages ---\n{tail_lines(_read_text(self.folder / QEMU_LOG), _SHOWN_LINES)}\n"
            f"{self._describe_backend()}"
            f"--- end of the guest's console ---\n{tail_lines(console, _SHOWN_LINES)}"
            f"{self._describe_host()}"
        )

    def connect(self, socket_name: str) -> socket.socket:
        """A connection to one of its sockets. Raises VMLost when nobody listens."""
        try:
            return folders.connect(self.folder, socket_name)
        except OSError as error:
            raise self.lost(f"cannot connect to its socket {socket_name}: {error.strerror}") from None

    def backend_client(self) -> BackendClient | None:
        """A client of the lab's own balloon device; None without one."""
        has_one = (self.folder / CONTROL_SOCKET).exists()
        return BackendClient(self.folder, lambda: self.connect(CONTROL_SOCKET)) if has_one else None

    def clock(self) -> FairClock:
        """The clock of time limits: for a VM in a host VM, that of the host."""
        host = folders.read_state(self._host_folder())
        return FairClock((host.qemu if host else self.identity).pid)

    def connect_agent(self) -> tuple[socket.socket, int]:
        """A connection to a free agent port, and the lock to close after it. Raises LabError."""
        for number in range(AGENT_PORTS):
            lock = try_lock(self.folder / f"agent{number}.lock") if self.folder.exists() else None
            if lock is not None:
                return self.connect(f"agent{number}"), lock
        raise LabError(f"All {AGENT_PORTS} connections to VM {self.name} are in use.")

    def _describe_backend(self) -> str:
        messages = _read_text(self.folder / MESSAGES)
        return f"--- the balloon device's messages ---\n{messages}" if messages else ""

    def _describe_frozen(self) -> str:
        """That this VM, or the one it is in, stood still; empty if not."""
        for folder in (self.folder, self._host_folder()):
            if text := read_frozen(folder):
                return f"; the processor of {folder.name} {text}"
        return ""

    def _host_folder(self) -> Path:
        state = folders.read_state(self.folder)
        return run_folder() / (state.host if state else "")

    def _describe_host(self) -> str:
        """The last words of the VM this one is in, if that has ended too."""
        host_folder = self._host_folder()
        host = folders.read_state(host_folder)
        if host is None or host.qemu.is_alive():
            return ""
        console = Vm(host_folder, host.qemu).console()
        return f"\n--- end of its host's console ---\n{tail_lines(console, _SHOWN_LINES)}"

    def _describe_end(self) -> str:
        if not self.wait_ended(_END_TIMEOUT_S):
            return "QEMU still runs but the guest does not answer"
        if self._child is None:
            ended = "QEMU has ended"
        elif self._child.returncode < 0:
            ended = f"QEMU was ended by signal {-self._child.returncode}"
        else:
            ended = f"QEMU ended with status {self._child.returncode}"
        return ended + (", the guest's kernel panicked" if self.has_panicked() else "")


def start_vm(
    config: VmConfig,
    name: str | None = None,
    *,
    outlives_us: bool = False,
    spec: ImageSpec | None = None,
    progress: Progress | None = None,
) -> Vm:
    """Starts QEMU in a new folder; unless `outlives_us` it dies with the calling thread. Raises LabError."""
    config.check()
    ensure_packages(TO_RUN, progress)
    folders.remove_stale()
    with ExitStack() as stack:
        software = _enter_software(config, stack, spec, progress)
        folder = folders.create_folder(name, owned=not outlives_us)
        try:
            return _launch(config, folder, software, outlives_us=outlives_us)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def attach_vm(name: str) -> Vm:
    """A VM started by another program, running or not. Raises LabError when there is none of that name."""
    state = folders.read_state(run_folder() / name) if folders.is_name(name) else None
    if state is None:
        raise LabError(f"There is no VM {name}; `python -m lab up --name {name}` starts one.")
    return Vm(run_folder() / name, state.qemu)


def _enter_software(
    config: VmConfig, stack: ExitStack, spec: ImageSpec | None, progress: Progress | None
) -> Software:
    image, *locks = stack.enter_context(using_image(spec, progress))
    if image.architecture == "arm64":
        if config.cpus > 1 or config.backend or config.hosting:
            raise LabError("An emulated ARM guest has one CPU, QEMU's own balloon, and no VM in it.")
        ensure_packages(TO_RUN_ARM, progress)
        return Software(image, ARM_QEMU, ARM_TCG, locks=tuple(locks))
    program, tree, build = SYSTEM_QEMU, None, None
    if not image.has_9p():
        ensure_virtiofsd(progress)
    backend = config.hosting.backend if config.hosting is not None else config.backend
    if backend is not None:
        build = build_backend(sanitize=backend.sanitize, progress=progress)
    if config.hosting is not None:
        tree, tree_lock = stack.enter_context(using_qemu_tree(progress))
        locks.append(tree_lock)
    accelerator = choose_accelerator(config, image)
    if needs_new_qemu(config, accelerator):
        program, program_locks = stack.enter_context(using_new_qemu(progress))
        locks += program_locks
        accelerator = choose_accelerator(config, image, program=program)
    return Software(image, program, accelerator, build, tree, tuple(locks))


def _launch(config: VmConfig, folder: Path, software: Software, *, outlives_us: bool) -> Vm:
    processes = launch(config, software, folder, guard=() if outlives_us else DIES_WITH_US)
    identity = read_identity(processes.qemu.pid) or ProcessIdentity(processes.qemu.pid, 0)
    owner = None if outlives_us else own_identity()
    state = VmState(identity, owner, memory_mib=config.memory_mib, cpus=config.cpus)
    try:
        folders.write_state(folder, replace(state, accelerator=software.accelerator.name))
    except BaseException:
        # Nobody else would know of them. The backend ends with its only client.
        processes.qemu.kill()
        processes.qemu.wait()
        raise
    return Vm(folder, identity, processes.qemu, processes.backend, processes.helpers)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

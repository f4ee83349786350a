# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that serves a balloon: found by its open /dev/kvm, or told by its number.

The name of a process says nothing: a VMM is any that has /dev/kvm open. A vhost-user backend has not: it is
told by number, or by a VMM's memory that it has mapped. `vm_names` says what its VM is called. Everything is
read below an injectable root path, as in `system/kernel`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from balloontrace.errors import CannotTraceError, UsageError
from balloontrace.system.kernel import ROOT
from balloontrace.system.process_memory import read_shared_memory, read_status
from balloontrace.system.vm_names import read_vm_name
from balloontrace.untrusted import printable

KVM_DEVICE = "/dev/kvm"

# proc_pid_ns of the first PID namespace, include/linux/proc_ns.h; BPF programs see numbers of that one only.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
_MOST_FILES = 256


@dataclass(frozen=True)
class Process:
    """A process as it may be traced."""

    pid: int
    comm: str  # the kernel's name of it
    executable: str | None  # base name of its program's file
    start_ticks: int  # since boot, in clock ticks: with the pid, it is this process and no other
    threads: int
    balloons: tuple[str, ...] = ()  # words of its command line, and names of threads, that name a balloon
    vm: str | None = None  # what its VM is called, where that is known
    vm_uuid: str | None = None
    backend_of: int | None = None  # the VM's process, of which a vhost-user backend serves a device

    @property
    def name(self) -> str:
        """E.g. `web1`, and `web1/virtiofsd` for a backend; without a VM's name that of the process."""
        own = f"{self.comm}-{self.pid}"
        if self.vm is None:
            return own
        return self.vm if self.backend_of is None else f"{self.vm}/{printable(self.comm)}"

    @property
    def description(self) -> str:
        """E.g. `1234 (qemu-system-x86, VM web1): virtio-balloon-pci`."""
        vm = f", VM {self.vm}" if self.vm else ""
        if self.backend_of is not None:
            vm = f", backend of {f'VM {self.vm}' if self.vm else f'process {self.backend_of}'}"
        balloons = f": {', '.join(self.balloons)}" if self.balloons else ""
        return f"{self.pid} ({self.comm}{vm}){balloons}"


def find_vmms(root: Path = ROOT) -> tuple[Process, ...]:
    """Every process with an open /dev/kvm, by pid; those that may not be looked into are left out."""
    pids = sorted(int(path.name) for path in (root / "proc").glob("[0-9]*") if path.name.isdigit())
    return tuple(process for pid in pids if (process := find_vmm(pid, root)) is not None)


def find_vmm(pid: int, root: Path = ROOT) -> Process | None:
    """The process if it has /dev/kvm open, and may be looked into."""
    return _read_process(pid, root) if _has_open(root / f"proc/{pid}/fd", KVM_DEVICE) else None


def find_backend(pid: int, memory: Mapping[str, Process], root: Path = ROOT) -> Process | None:
    """The process if it has some of `memory` mapped, which has the VMM by a file's device and inode."""
    owner = next((memory[file] for file in read_shared_memory(pid, root) if file in memory), None)
    process = _read_process(pid, root) if owner is not None else None
    if owner is None or process is None:
        return None
    return replace(process, vm=owner.vm, vm_uuid=owner.vm_uuid, backend_of=owner.pid)


def is_called(process: Process, pattern: str) -> bool:
    """Whether the name or the uuid of its VM fits `pattern`, as a shell's names of files do."""
    return any(name and fnmatchcase(name, pattern) for name in (process.vm, process.vm_uuid))


def choose_process(
    pid: int | None, vmms: Sequence[Process], root: Path = ROOT, *, vm: str | None = None
) -> Process:
    """The process to trace: `pid`, or the only one of `vmms`, or of those whose VM is called as `vm` says.

    UsageError when `pid` is no process that can be traced, when no VM has such a name or when there is a
    choice, CannotTraceError when there is nothing to trace.
    """
    require_first_pid_namespace(root)
    if pid is not None:
        return read_process(pid, root)
    if vm is not None:
        vmms = vmms_called(vm, vmms)
    if not vmms:
        raise CannotTraceError(
            "no process here has /dev/kvm open, so there is no VMM to trace: start the VM, "
            "or name a process (a vhost-user backend, say) with -p PID"
        )
    if len(vmms) > 1:
        listed = "; ".join(vmm.description for vmm in vmms)
        such = " of such a name" if vm is not None else ""
        ways = "-p PID or --vm NAME" if any(vmm.vm for vmm in vmms) else "-p PID"
        raise UsageError(f"there are {len(vmms)} VMMs{such} here, choose one with {ways}: {listed}")
    return vmms[0]


def vmms_called(vm: str, vmms: Sequence[Process]) -> tuple[Process, ...]:
    """Those of `vmms` whose VM is called as the pattern `vm` says. UsageError when there is none."""
    found = tuple(each for each in vmms if is_called(each, vm))
    if not found:
        listed = "; ".join(each.description for each in vmms) or "no process has /dev/kvm open"
        raise UsageError(f"--vm {printable(vm)}: no VM here is called so: {listed}")
    return found


def require_first_pid_namespace(root: Path = ROOT) -> None:
    """CannotTraceError where processes have numbers of their own, which BPF programs do not see."""
    if _in_container(root):
        raise CannotTraceError(
            "this is a container with process numbers of its own; record on the host itself, "
            "or in a container that shares the host's (--pid=host)"
        )


def read_process(pid: int, root: Path = ROOT) -> Process:
    """The process `pid`. UsageError when there is none, or it is a thread, the kernel's own, or has ended."""
    status = read_status(pid, root)
    if status is None:
        raise UsageError(f"-p {pid}: there is no such process")
    if status.get("Tgid") != str(pid):
        raise UsageError(f"-p {pid}: that is a thread of process {status.get('Tgid')}, give -p that number")
    if status.get("State", "").startswith(("Z", "X")):
        raise UsageError(f"-p {pid}: that process has ended")
    if "VmSize" not in status:
        raise UsageError(f"-p {pid}: that is a thread of the kernel, which serves no balloon")
    process = _read_process(pid, root)
    if process is None:
        raise UsageError(f"-p {pid}: there is no such process any more")
    return process


def read_open_files(pid: int, root: Path = ROOT) -> dict[str, str]:
    """Files that the process has open, by descriptor; no sockets, pipes and such."""
    found = {}
    with suppress(OSError):
        for link in sorted((root / f"proc/{pid}/fd").iterdir(), key=lambda each: int(each.name)):
            with suppress(OSError):
                name = os.fsencode(link.readlink()).decode(errors="replace")
                if name.startswith("/") and not name.startswith(("/dev/", "/proc/", "/sys/")):
                    found[link.name] = name
            if len(found) == _MOST_FILES:
                break
    return found


def _read_process(pid: int, root: Path) -> Process | None:
    """The process, None when it ended meanwhile."""
    folder = root / f"proc/{pid}"
    status = read_status(pid, root)
    try:
        stat = (folder / "stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    if status is None:
        return None
    executable = None
    with suppress(OSError):
        executable = Path((folder / "exe").readlink()).name
    vm = read_vm_name(folder)
    return Process(
        pid,
        status.get("Name", "?"),
        executable,
        # Field 22 of proc_pid_stat(5); the name before them may hold spaces and brackets.
        start_ticks=int(stat.rpartition(")")[2].split()[19]),
        threads=int(status.get("Threads", "1")),
        balloons=_read_balloons(folder),
        vm=vm.name,
        vm_uuid=vm.uuid,
    )


def _read_balloons(folder: Path) -> tuple[str, ...]:
    """What of the command line and the threads' names speaks of a balloon, each once."""
    words: list[str] = []
    with suppress(OSError):
        words += (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[1:]
    for thread in _threads(folder):
        with suppress(OSError):
            words.append((folder / "task" / thread / "comm").read_bytes().decode(errors="replace").strip())
    return tuple(dict.fromkeys(word for word in words if "balloon" in word.lower()))


def _threads(folder: Path) -> list[str]:
    """Numbers of the process's threads; none of one that has ended: `glob` would raise, in some versions."""
    with suppress(OSError):
        return sorted(os.listdir(folder / "task"))  # noqa: PTH208  (names alone)
    return []


def _has_open(folder: Path, target: str) -> bool:
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                if str(path.readlink()) == target:
                    return True
    return False


def _in_container(root: Path) -> bool:
    try:
        return str((root / "proc/self/ns/pid").readlink()) != _FIRST_PID_NAMESPACE
    except OSError:
        return False

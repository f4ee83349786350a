# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's command line: a VM is a readable list of small devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from lab.agent import AGENT_PORTS
from lab.errors import LabError
from lab.image import Image
from lab.vhost import BackendOptions

QEMU = "qemu-system-x86_64"
TUNNEL_PORT = "lab.tunnel"
# QEMU >= 10.2; what it does is up to the vhost-user backend behind it.
VHOST_DEVICE = "vhost-user-test-device-pci"


@dataclass(frozen=True)
class QemuProgram:
    """Which QEMU: the first words of its command line, and what it needs in its environment."""

    argv: tuple[str, ...] = (QEMU,)
    environment: Mapping[str, str] = field(default_factory=dict)


SYSTEM_QEMU = QemuProgram()
ARM_QEMU = QemuProgram(("qemu-system-aarch64",))


@dataclass(frozen=True)
class Hosting:
    """What a host VM is for: another VM in it, which has its folder here."""

    folder: Path
    backend: BackendOptions | None = None


@dataclass(frozen=True)
class VmConfig:
    """What kind of VM; the balloons are the properties of each, `extra_args` go to QEMU as they are."""

    memory_mib: int = 8192
    cpus: int = 2
    icount: bool = False  # guest time counts instructions (1 ns each) instead of passing
    balloons: tuple[Mapping[str, str], ...] = field(default_factory=lambda: ({},))
    backend: BackendOptions | None = None  # a balloon of the lab's own, beside QEMU's or instead
    kernel_args: tuple[str, ...] = ()
    init_on_alloc: bool = False  # Debian's default is on: then the guest clears every page it gives away
    extra_args: tuple[str, ...] = ()
    machine: Literal["pc", "microvm"] = "pc"  # a microvm has no PCI: its devices are virtio-mmio
    hosting: Hosting | None = None
    domain: str = ""  # its name in libvirt, which starts it then

    @property
    def backend_queues(self) -> int:
        """Inflate and deflate, and the third that free page hints come with."""
        return 3 if self.backend and "--free-page-hint" in self.backend.arguments else 2

    def check(self) -> None:
        """Raises LabError for what QEMU cannot do, before it says so in its own words."""
        if self.memory_mib < 256:
            raise LabError(f"{self.memory_mib} MiB are too few for the guest; it needs 256.")
        if self.icount and self.cpus != 1:
            raise LabError("A guest whose time counts instructions has one CPU.")
        if self.machine == "microvm" and (self.backend or self.hosting):
            raise LabError("A microvm has QEMU's own balloon, and no VM in it.")
        if self.domain and (self.backend or self.hosting):
            raise LabError("A domain of libvirt's has QEMU's own balloon, and no VM in it.")
        if len(self.balloons) > 1:
            raise LabError("QEMU has one balloon of its own per VM; attach another one through extra_args.")


@dataclass(frozen=True)
class Accelerator:
    """How instructions are run: the name people know and what QEMU wants to hear."""

    name: str
    cpu: str
    arguments: tuple[str, ...]


KVM = Accelerator("kvm", "host", ("-accel", "kvm"))
# One thread for all processors: with a thread each, code that one translates while another patches it may
# stay as it was before the patch. Kernels patch their code while it runs, and panic then ("Oops: int3").
TCG = Accelerator("tcg", "max", ("-accel", "tcg,thread=single"))
# A host VM keeps its threads: in one, a nested test was not set up after 360 s that took 194 s in CI.
HOST_TCG = replace(TCG, arguments=("-accel", "tcg,thread=multi"))
EMULATED_PC = (TCG, HOST_TCG)
# Signing pointers the way the processor's manual says takes most of the time under emulation.
ARM_TCG = Accelerator("tcg", "max,pauth-impdef=on", TCG.arguments)
ICOUNT = Accelerator("icount", "max", ("-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"))
# A host VM is idle while it waits for this machine, and its time would run ahead by hours.
HOST_ICOUNT = Accelerator("icount", "max", ("-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on"))


def needs_new_qemu(config: VmConfig, accelerator: Accelerator) -> bool:
    """Whether QEMU 7.2, which Debian 12 has, will not do.

    It lacks the lab's device; and its emulation may go on running code that another CPU has just patched,
    or the kernel of a guest within. Kernels panic ("Oops: int3") that patch their scheduler while the other
    CPU is busy, within 0.3 s (5 of 5), or switch the statistics of BPF; nested guests that attached probes
    over and over triple-faulted within 16 s (3 of 3). Under 11.1 the first is rare where processors have a
    thread each (2 of 2 on an overloaded machine, within 4000 switches; one test of one CI run), the
    second was never seen.
    """
    patches_what_runs = config.cpus > 1 or config.hosting is not None
    return config.backend is not None or (accelerator in EMULATED_PC and patches_what_runs)


def needs_watch(config: VmConfig) -> bool:
    """Whether QEMU was seen to stop in VMs like this one: those that count instructions and host another."""
    return config.icount and config.hosting is not None


@dataclass(frozen=True)
class Plumbing:
    """Where the VM touches this machine: listening sockets (descriptors), files and folders."""

    qmp_fd: int
    agent_fds: tuple[int, ...]
    console: Path
    repo: Path
    io: Path
    backend_fd: int | None = None  # connected to the lab's own balloon device
    virtiofs_fds: Mapping[str, int] = field(default_factory=dict)  # folders by tag, for a kernel without 9p
    hosting: HostingPlumbing | None = None
    watch_fd: int | None = None  # a second QMP, for lab.watch


@dataclass(frozen=True)
class HostingPlumbing:
    """What a host VM has besides: the socket to its other end of the tunnel, and folders by tag."""

    tunnel_fd: int
    writable: Mapping[str, Path]
    readable: Mapping[str, Path]


def qemu_command(
    config: VmConfig,
    image: Image,
    accelerator: Accelerator,
    plumbing: Plumbing,
    program: QemuProgram = SYSTEM_QEMU,
) -> list[str]:
    """The whole command line, one device after the other."""
    is_shared = plumbing.backend_fd is not None or plumbing.virtiofs_fds
    devices = [
        *disk_arguments(image.root),
        *control_arguments(plumbing),
        *folder_arguments(plumbing),
        *balloon_arguments(config.balloons),
    ]
    if config.machine == "microvm":
        devices = [word.replace("-pci", "-device", 1) for word in devices]
    return [
        *program.argv,
        *machine_arguments(config, accelerator, "virt" if image.architecture == "arm64" else config.machine),
        *kernel_arguments(config, image),
        *(shared_memory_arguments(config.memory_mib) if is_shared else ()),
        *devices,
        *(backend_arguments(config, plumbing.backend_fd) if plumbing.backend_fd is not None else ()),
        *(hosting_arguments(image, plumbing.hosting) if plumbing.hosting is not None else ()),
        *config.extra_args,
    ]


def machine_arguments(config: VmConfig, accelerator: Accelerator, machine: str) -> list[str]:
    """A PC with only what is asked for. The PCI bus of `pc` allows unplugging, that of `q35` does not."""
    return [
        "-machine", machine, *accelerator.arguments, "-cpu", accelerator.cpu,
        "-smp", str(config.cpus), "-m", f"{config.memory_mib}M",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
    ]  # fmt: skip


def kernel_arguments(config: VmConfig, image: Image) -> list[str]:
    """The kernel's own command line: a panic or oops resets at once, which ends QEMU (-no-reboot)."""
    console = "ttyAMA0" if image.architecture == "arm64" else "ttyS0"
    words = (
        f"console={console}", "quiet", "panic=-1", "oops=panic",
        f"init_on_alloc={int(config.init_on_alloc)}", *config.kernel_args,
    )  # fmt: skip
    return ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", " ".join(words)]


def disk_arguments(root: Path) -> list[str]:
    """The image is only read; what the guest writes goes to a temporary file that vanishes with QEMU."""
    drive = f"file={option_value(root)},format=raw,if=none,id=root,snapshot=on,cache=unsafe"
    return ["-drive", drive, "-device", "virtio-blk-pci,drive=root"]


def control_arguments(plumbing: Plumbing) -> list[str]:
    """Console to a file, QMP, and the agent's ports lab.0, lab.1, ..."""
    arguments = [
        "-chardev", f"file,id=console,path={option_value(plumbing.console)}", "-serial", "chardev:console",
        "-chardev", f"socket,id=qmp,fd={plumbing.qmp_fd},server=on,wait=off",
        "-mon", "chardev=qmp,mode=control",
        "-device", f"virtio-serial-pci,max_ports={AGENT_PORTS + 2}",
    ]  # fmt: skip
    if plumbing.watch_fd is not None:
        arguments += ["-chardev", f"socket,id=watch,fd={plumbing.watch_fd},server=on,wait=off"]
        arguments += ["-mon", "chardev=watch,mode=control"]
    for number, descriptor in enumerate(plumbing.agent_fds):
        arguments += ["-chardev", f"socket,id=agent{number},fd={descriptor},server=on,wait=off"]
        arguments += ["-device", f"virtserialport,chardev=agent{number},name=lab.{number}"]
    return arguments


def shared_memory_arguments(memory_mib: int) -> list[str]:
    """Memory of the guest that other processes than QEMU can be given too."""
    return [
        "-object", f"memory-backend-memfd,id=memory,size={memory_mib}M,share=on",
        "-machine", "memory-backend=memory",
    ]  # fmt: skip


def folder_arguments(plumbing: Plumbing) -> list[str]:
    """The repository and the exchange folder."""
    if not plumbing.virtiofs_fds:
        return [
            *share_arguments("repo", plumbing.repo, readonly=True),
            *share_arguments("io", plumbing.io, readonly=False),
        ]
    arguments = []
    for tag, descriptor in plumbing.virtiofs_fds.items():
        arguments += ["-chardev", f"socket,id={tag},fd={descriptor}"]
        arguments += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
    return arguments


def share_arguments(tag: str, folder: Path, *, readonly: bool) -> list[str]:
    """A folder the guest mounts by `tag`; security_model=none needs no privilege on this machine."""
    backend = f"local,id={tag},path={option_value(folder)},security_model=none,multidevs=remap"
    return [
        "-fsdev", backend + (",readonly=on" if readonly else ""),
        "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]  # fmt: skip


def balloon_arguments(balloons: Sequence[Mapping[str, str]]) -> list[str]:
    """Devices balloon0, ... with the properties given, e.g. {"free-page-reporting": "on"}."""
    arguments = []
    for number, properties in enumerate(balloons):
        words = [
            "virtio-balloon-pci",
            f"id=balloon{number}",
            *(f"{name}={value}" for name, value in properties.items()),
        ]
        arguments += ["-device", ",".join(words)]
    return arguments


def backend_arguments(config: VmConfig, descriptor: int) -> list[str]:
    """A balloon (virtio device 5) that the process behind `descriptor` is."""
    queues = f"num_vqs={config.backend_queues},config_size=16"
    return [
        "-chardev", f"socket,id=backend,fd={descriptor}",
        "-device", f"{VHOST_DEVICE},id=backend0,chardev=backend,virtio-id=5,{queues}",
    ]  # fmt: skip


def hosting_arguments(image: Image, plumbing: HostingPlumbing) -> list[str]:
    """The image once more, as a second disk for the VM inside; the tunnel's port; and the folders."""
    return [
        "-drive", f"file={option_value(image.root)},format=raw,if=none,id=inner,readonly=on",
        "-device", "virtio-blk-pci,drive=inner",
        "-chardev", f"socket,id=tunnel,fd={plumbing.tunnel_fd},server=on,wait=off",
        "-device", f"virtserialport,chardev=tunnel,name={TUNNEL_PORT}",
        *chain.from_iterable(share_arguments(t, p, readonly=False) for t, p in plumbing.writable.items()),
        *chain.from_iterable(share_arguments(t, p, readonly=True) for t, p in plumbing.readable.items()),
    ]  # fmt: skip


def option_value(path: Path) -> str:
    """A path as part of a QEMU option, where a comma is written twice."""
    return str(path).replace(",", ",,")

# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM of the lab in libvirt's XML, and the settings of a libvirtd that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from lab.agent import AGENT_PORTS
from lab.image import Image
from lab.qemu import Accelerator, VmConfig, kernel_arguments, option_value
from lab.tsc import clock_arguments
from lab.vm_processes import REPO

URI = "qemu:///system"
# The lab's files belong to whoever runs it, and a QEMU of this daemon may do as any other of the lab.
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
"""
# libvirt gives away the other places on the bus from the lowest on.
_DISK_SLOT = "0x1e"


@dataclass(frozen=True)
class DomainPlaces:
    """Where a domain's files are, where its sockets, and what its disk is a throw-away layer above."""

    folder: Path
    sockets: Path
    disk: Path


def describe_domain(
    config: VmConfig,
    image: Image,
    places: DomainPlaces,
    *,
    accelerator: Accelerator,
    emulator: Path | None = None,
) -> str:
    """What lab/qemu.py gives a guest, a channel for the guest's agent, and the lab's QMP beside libvirt's.

    `emulator` is for a QEMU that libvirt would not find.
    """
    command_line = kernel_arguments(config, image)[-1]
    if accelerator.name != "kvm":
        command_line += " " + " ".join(clock_arguments())
    kind, cpu = ("kvm", "host-passthrough") if accelerator.name == "kvm" else ("qemu", "maximum")
    console = places.folder / "console.log"
    ports = "".join(
        f"<channel type='unix'><source mode='bind' path={quoteattr(str(places.sockets / f'agent{number}'))}/>"
        f"<target type='virtio' name='lab.{number}'/></channel>"
        for number in range(AGENT_PORTS)
    )
    shares = "".join(
        f"<filesystem type='mount' accessmode='squash'><source dir={quoteattr(str(path))}/>"
        f"<target dir='{tag}'/>{'<readonly/>' if tag == 'repo' else ''}</filesystem>"
        for tag, path in (("repo", REPO), ("io", places.folder / "io"))
    )
    arguments = (
        *("-drive", f"file={option_value(places.disk)},format=raw,if=none,id=root,snapshot=on,cache=unsafe"),
        *("-device", f"virtio-blk-pci,drive=root,addr={_DISK_SLOT}"),
        *("-qmp", f"unix:{places.sockets / 'qmp'},server=on,wait=off"),
        *config.extra_args,
    )
    words = "".join(f"<qemu:arg value={quoteattr(word)}/>" for word in arguments)
    return f"""\
<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{config.domain}</name><memory unit='MiB'>{config.memory_mib}</memory><vcpu>{config.cpus}</vcpu>
  <cpu mode='{cpu}'/>
  <os><type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{image.kernel}</kernel><initrd>{image.initrd}</initrd><cmdline>{escape(command_line)}</cmdline></os>
  <on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    {f"<emulator>{emulator}</emulator>" if emulator else ""}
    {shares}{ports}
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <serial type='file'><source path={quoteattr(str(console))}/><target port='0'/></serial>
    <memballoon model='virtio'/>
  </devices>
  <qemu:commandline>{words}</qemu:commandline>
</domain>
"""

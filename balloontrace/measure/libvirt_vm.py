# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM driven through libvirt, whose Python module need not be installed for anything else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from balloontrace.errors import UsageError
from balloontrace.measure.vm import Vm, VmGone, VmName
from balloontrace.system.kernel import ROOT
from balloontrace.untrusted import printable

URI = "qemu:///system"
_KIB_BYTES = 1024


class LibvirtVm(Vm):
    """`open_libvirt` makes one."""

    def __init__(self, libvirt: Any, connection: Any, domain: Any, named: VmName) -> None:  # noqa: ANN401
        self._libvirt = libvirt
        self._connection = connection
        self._domain = domain
        self.named = named

    def read_size_bytes(self) -> int:
        """As `actual` of its memory statistics, which is QEMU's."""
        statistics = self._ask(lambda: self._domain.memoryStats())
        if "actual" not in statistics:
            raise UsageError(f"the VM {self.named.name} has no balloon, as far as libvirt knows")
        return int(statistics["actual"]) * _KIB_BYTES

    def set_size_bytes(self, size_bytes: int) -> None:
        """As `virsh setmem --live` does."""
        flags = self._libvirt.VIR_DOMAIN_AFFECT_LIVE
        self._ask(lambda: self._domain.setMemoryFlags(size_bytes // _KIB_BYTES, flags))

    def ask_agent(self, command: str, timeout_s: int) -> str:
        """What the guest's agent answers to a command in JSON. Raises VmGone."""
        import libvirt_qemu

        answer: str = self._ask(lambda: libvirt_qemu.qemuAgentCommand(self._domain, command, timeout_s, 0))
        return answer

    def close(self) -> None:
        """The VM goes on."""
        with suppress(self._libvirt.libvirtError):
            self._connection.close()

    def _ask(self, question: Any) -> Any:  # noqa: ANN401
        try:
            return question()
        except self._libvirt.libvirtError as error:
            raise VmGone(f"libvirt cannot reach the VM {self.named.name}: {printable(str(error))}") from error


def open_libvirt(name: str, pid: int | None = None, uri: str = URI) -> LibvirtVm:
    """Connect to libvirt and find a running VM. UsageError without libvirt, or without such a VM.

    An ImportError of its module is explained by whoever shows it.
    """
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print each error, too
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise UsageError(f"cannot connect to libvirt at {uri}: {printable(str(error))}") from error
    try:
        domain = connection.lookupByName(name)
        running = bool(domain.isActive())
    except libvirt.libvirtError:
        names = sorted(each.name() for each in connection.listAllDomains())
        known = f"it knows {', '.join(map(printable, names))}" if names else "it knows none"
        raise UsageError(f"libvirt has no VM called {printable(name)}; {known}") from None
    if not running:
        raise UsageError(f"the VM {printable(name)} is not running; start it first")
    return LibvirtVm(libvirt, connection, domain, VmName(printable(name), pid or read_pid(name)))


def read_pid(name: str, root: Path = ROOT) -> int | None:
    """The VM's process, which libvirt writes into a file of its own; None where it is not there."""
    for folder in ("run/libvirt/qemu", "var/run/libvirt/qemu"):
        with suppress(OSError, ValueError):
            return int((root / folder / f"{name}.pid").read_text())
    return None

# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM driven through libvirt, whose Python module need not be installed for anything else."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure.vm import Vm, VmGone, VmName
from balloontrace.system.kernel import ROOT
from balloontrace.system.vm_names import read_vm_name
from balloontrace.untrusted import printable

_URI = "qemu:///system"
_KIB_BYTES = 1024
_ANSWERS_S = 30


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

    def exchange(self, command: dict[str, Any]) -> dict[str, Any]:
        """A command to the guest's agent and its answer. Raises VmGone."""
        import libvirt_qemu

        text = json.dumps(command)
        answer = self._ask(lambda: libvirt_qemu.qemuAgentCommand(self._domain, text, _ANSWERS_S, 0))
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """The VM goes on."""
        with suppress(self._libvirt.libvirtError):
            self._connection.close()

    def _ask(self, question: Any) -> Any:  # noqa: ANN401
        try:
            return question()
        except self._libvirt.libvirtError as error:
            raise VmGone(f"libvirt cannot reach the VM {self.named.name}: {printable(str(error))}") from error


def open_libvirt(name: str, pid: int | None = None) -> LibvirtVm:
    """Connect to libvirt and find a running VM. BalloontraceError without its module, else UsageError."""
    try:
        import libvirt
    except ImportError as error:
        raise BalloontraceError(
            "--vm needs libvirt's module for Python: install python3-libvirt (Debian, Ubuntu) "
            "or libvirt-python (pip)"
        ) from error
    uri = os.environ.get("LIBVIRT_DEFAULT_URI") or _URI
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print each error, too
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise UsageError(f"cannot connect to libvirt at {printable(uri)}: {printable(str(error))}") from error
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
    """The VM's process: as a file of libvirt's has it, else by its command line; None: not found."""
    with suppress(OSError, ValueError):
        return int((root / f"run/libvirt/qemu/{name}.pid").read_text())
    folders = (root / "proc").glob("[0-9]*")
    return next((int(folder.name) for folder in folders if read_vm_name(folder).name == name), None)

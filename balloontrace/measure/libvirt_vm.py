# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM driven through libvirt, whose Python module need not be installed for anything else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure.answers import parse_object
from balloontrace.measure.bounded_calls import BoundedCalls
from balloontrace.measure.vm import Vm, VmGone, VmName
from balloontrace.system.kernel import ROOT
from balloontrace.system.vm_names import read_vm_name
from balloontrace.untrusted import printable

_URI = "qemu:///system"
_KIB_BYTES = 1024
_ANSWERS_S = 30
_BACK_S = 30.0  # a daemon that is restarted takes less
_LOOK_EVERY_S = 0.5
_PATIENCE_S = 60.0  # above both: a daemon that hangs answers nothing, and libvirt waits for ever
_HANGS = f"has not answered within {_PATIENCE_S:.0f} s: its daemon may hang"
_CLOSES_S = 2.0  # the end of this process does it as well


class LibvirtVm(Vm):
    """`open_libvirt` makes one. It waits for a daemon that is restarted, and not for one that hangs."""

    def __init__(self, libvirt: Any, uri: str, name: str, pid: int | None) -> None:  # noqa: ANN401
        """Connects. UsageError without a daemon, or without such a VM that runs."""
        self._libvirt, self._uri, self._name = libvirt, uri, name
        self._calls = BoundedCalls("libvirt", _PATIENCE_S)
        try:
            self._calls.ask(self._open)
        except TimeoutError:
            raise UsageError(f"libvirt at {printable(uri)} {_HANGS}") from None
        self.named = VmName(printable(name), pid or read_pid(name))

    def _open(self) -> None:
        libvirt, uri, name = self._libvirt, self._uri, self._name
        try:
            self._connection = libvirt.open(uri)
        except libvirt.libvirtError as error:
            raise UsageError(f"cannot connect to libvirt at {printable(uri)}: {_said(error)}") from error
        try:
            self._domain = self._connection.lookupByName(name)
            running = bool(self._domain.isActive())
        except libvirt.libvirtError:
            raise UsageError(f"libvirt has no VM called {printable(name)}; {self._names()}") from None
        if not running:
            raise UsageError(f"the VM {printable(name)} is not running; start it first")

    def _names(self) -> str:
        """Which it has, where it still answers."""
        try:
            names = sorted(each.name() for each in self._connection.listAllDomains())
        except self._libvirt.libvirtError as error:
            return _said(error)
        return f"it knows {', '.join(map(printable, names))}" if names else "it knows none"

    def read_size_bytes(self) -> int:
        """As `actual` of its memory statistics, which is QEMU's."""
        statistics = self._ask(lambda domain: domain.memoryStats())
        if "actual" not in statistics:
            raise UsageError(f"the VM {self.named.name} has no balloon, as far as libvirt knows")
        return int(statistics["actual"]) * _KIB_BYTES

    def set_size_bytes(self, size_bytes: int) -> None:
        """As `virsh setmem --live` does."""
        flags = self._libvirt.VIR_DOMAIN_AFFECT_LIVE
        self._ask(lambda domain: domain.setMemoryFlags(size_bytes // _KIB_BYTES, flags))

    def exchange(self, command: dict[str, Any]) -> dict[str, Any]:
        """A command to the guest's agent and its answer. Raises VmGone."""
        found = parse_object(self._wait_for(lambda: self._ask_agent(json.dumps(command))))
        if found is None:
            raise VmGone(f"the agent of the VM {self.named.name} does not answer as one should")
        return found

    def close(self) -> None:
        """The VM goes on."""
        with suppress(self._libvirt.libvirtError, TimeoutError):
            self._calls.ask(self._connection.close, _CLOSES_S)

    def _ask(self, question: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        """The domain's answer. Raises VmGone."""
        return self._wait_for(lambda: self._ask_twice(question))

    def _wait_for(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401
        try:
            return self._calls.ask(call)
        except TimeoutError:
            raise VmGone(f"libvirt, asked about the VM {self.named.name}, {_HANGS}") from None

    def _ask_twice(self, question: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        """The domain's answer; once more where only the connection was lost."""
        try:
            return question(self._domain)
        except self._libvirt.libvirtError as error:
            if self._is_connected():
                raise self._gone(error) from error
        try:
            self._connect_again()
            return question(self._domain)
        except self._libvirt.libvirtError as error:
            raise self._gone(error) from error

    def _ask_agent(self, text: str) -> Any:  # noqa: ANN401
        """Asked once: the agent may have done what a daemon that was restarted has no answer to.

        So another question comes first, which finds a connection that had been lost before.
        """
        import libvirt_qemu

        self._ask_twice(lambda domain: domain.isActive())
        try:
            return libvirt_qemu.qemuAgentCommand(self._domain, text, _ANSWERS_S, 0)
        except self._libvirt.libvirtError as error:
            raise self._gone(error) from error

    def _is_connected(self) -> bool:
        try:
            return bool(self._connection.isAlive() == 1)
        except self._libvirt.libvirtError:
            return False

    def _connect_again(self) -> None:
        """Raises libvirtError when it is not back in time."""
        deadline_s = time.monotonic() + _BACK_S
        while True:
            try:
                self._connection = self._libvirt.open(self._uri)
                self._domain = self._connection.lookupByName(self._name)
                return
            except self._libvirt.libvirtError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(_LOOK_EVERY_S)

    def _gone(self, error: Exception) -> VmGone:
        return VmGone(f"libvirt cannot reach the VM {self.named.name}: {_said(error)}")


def open_libvirt(name: str, pid: int | None = None) -> LibvirtVm:
    """A running VM. BalloontraceError without libvirt's module, else errors as `LibvirtVm`."""
    try:
        import libvirt
    except ImportError as error:
        raise BalloontraceError(
            "--vm needs libvirt's module for Python: install python3-libvirt (Debian, Ubuntu) "
            "or libvirt-python (pip)"
        ) from error
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print each error, too
    return LibvirtVm(libvirt, os.environ.get("LIBVIRT_DEFAULT_URI") or _URI, name, pid)


def read_pid(name: str, root: Path = ROOT) -> int | None:
    """The VM's process: as a file of libvirt's has it, else by its command line; None: not found."""
    with suppress(OSError, ValueError):
        return int((root / f"run/libvirt/qemu/{name}.pid").read_text())
    folders = (root / "proc").glob("[0-9]*")
    return next((int(folder.name) for folder in folders if read_vm_name(folder).name == name), None)


def _said(error: Exception) -> str:
    return printable(str(error))

# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM of QEMU, driven through its QMP socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from balloontrace.errors import UsageError
from balloontrace.measure.answers import connect, is_whole
from balloontrace.measure.qmp import NotQmp, QmpClient, QmpGone, QmpRefused
from balloontrace.measure.vm import Vm, VmGone, VmName
from balloontrace.system.socket_peer import find_peer
from balloontrace.untrusted import printable

_ANSWERS_S = 15.0


class QmpVm(Vm):
    """`open_qmp` makes one."""

    def __init__(self, client: QmpClient, named: VmName) -> None:
        self._client = client
        self.named = named

    def read_size_bytes(self) -> int:
        """As `actual` of query-balloon."""
        found = self._execute("query-balloon")
        size_bytes = found.get("actual") if isinstance(found, dict) else None
        if not is_whole(size_bytes):
            raise VmGone(f"the VM {self.named.name} has ended or does not answer: {NotQmp()}")
        return size_bytes

    def set_size_bytes(self, size_bytes: int) -> None:
        """By the command balloon."""
        self._execute("balloon", value=size_bytes)

    def close(self) -> None:
        """QEMU goes on."""
        self._client.close()

    def _execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever QEMU returns for it
        try:
            return self._client.execute(command, **arguments)
        except QmpGone as gone:
            raise VmGone(f"the VM {self.named.name} has ended or does not answer: {gone}") from gone
        except QmpRefused as refused:
            if refused.error_class in ("DeviceNotActive", "KVMMissingCap"):
                raise UsageError(f"the VM {self.named.name} has no balloon: {refused.description}") from None
            raise


def open_qmp(path: Path, pid: int | None = None, name: str | None = None) -> QmpVm:
    """Connect to a QMP socket; `pid` is the process that serves the balloon, found where it is None.

    `name` is for a VM that QEMU knows no name of; without one the socket's has to do. UsageError when there
    is no such socket, or when something else has the connection.
    """
    connection = connect(path, "cannot connect to QEMU", _ANSWERS_S)
    try:
        client = QmpClient(connection, _ANSWERS_S)
        told = _ask_name(client)
    except NotQmp as gone:
        connection.close()
        raise UsageError(f"no QMP socket at {printable(str(path))}: {gone}") from gone
    except QmpGone as gone:
        connection.close()
        raise UsageError(
            f"no answer at {printable(str(path))}: {gone}; a QMP socket serves one program at a time"
        ) from gone
    return QmpVm(client, VmName(printable(told or name or path.stem), pid or find_peer(connection)))


def _ask_name(client: QmpClient) -> str | None:
    """As -name has it; None without that."""
    try:
        told = client.execute("query-name")
    except QmpRefused:
        return None
    name = told.get("name") if isinstance(told, dict) else None
    return name if isinstance(name, str) else None

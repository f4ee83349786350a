# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP as `balloontrace measure` speaks it, with the lab's errors."""

from __future__ import annotations

import socket
from typing import Any

from balloontrace.measure import qmp
from lab.errors import LabError


class QmpError(LabError):
    """QEMU understood the command and refused it; `description` is QEMU's sentence."""

    def __init__(self, refused: qmp.QmpRefused) -> None:
        self.error_class = refused.error_class
        self.description = refused.description
        super().__init__(str(refused))


class QmpGone(LabError):  # noqa: N818
    """The connection ended or QEMU does not answer; callers that know the VM turn this into VMLost."""


class QmpClient(qmp.QmpClient):
    """One connection; commands may come from several threads, events that pass by are kept in `events`."""

    def __init__(self, connection: socket.socket, timeout_s: float = 30) -> None:
        try:
            super().__init__(connection, timeout_s)
        except qmp.QmpGone as gone:
            raise QmpGone(str(gone)) from None

    def execute(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401 - whatever QEMU returns for it
        """QEMU's return value. `_` in argument names stands for `-`. Raises QmpError, QmpGone."""
        try:
            return super().execute(command, **arguments)
        except qmp.QmpRefused as refused:
            raise QmpError(refused) from None
        except qmp.QmpGone as gone:
            raise QmpGone(str(gone)) from None

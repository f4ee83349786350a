# SPDX-License-Identifier: GPL-2.0-or-later
"""What every way of driving a VM's balloon can do."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from balloontrace.errors import BalloontraceError


class VmGone(BalloontraceError):  # noqa: N818
    """The VM has ended, or what controls it does not answer any more."""


@dataclass(frozen=True)
class VmName:
    """A VM by its name, and by the process on this host that serves its balloon; None where unknown."""

    name: str
    pid: int | None


class Vm(abc.ABC):
    """A VM whose balloon can be moved. Sizes are bytes of memory that the guest has, balloon subtracted."""

    named: VmName

    @abc.abstractmethod
    def read_size_bytes(self) -> int:
        """How much memory the guest has now, as its driver has told. Raises VmGone, BalloontraceError."""

    @abc.abstractmethod
    def set_size_bytes(self, size_bytes: int) -> None:
        """Ask for so much, and do not wait. Raises VmGone, BalloontraceError."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the VM, which goes on."""

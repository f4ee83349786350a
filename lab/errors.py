# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong in the lab, kept apart: the lab itself, the VM, the command, the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.process import Completed


class LabError(Exception):
    """The lab cannot do what was asked; `str()` of it is one clear sentence, then what output shows why."""


class VMLost(LabError):  # noqa: N818 - says what happened, not that it is an error
    """The VM ended or does not answer any more; the message shows its last words and QEMU's."""


class VMFrozen(VMLost):
    """An emulated processor stood still, which is QEMU's fault: the same once more is likely to succeed."""


class LabTimeout(LabError):  # noqa: N818
    """Something did not happen in time although the VM is alive."""


class CommandFailed(LabError):  # noqa: N818
    """A command ran in the guest and did not do what was expected of it; `completed` is all it left."""

    def __init__(self, completed: Completed, why: str = "") -> None:
        self.completed = completed
        super().__init__(completed.describe(why))

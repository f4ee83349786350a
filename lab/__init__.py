# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab for balloons: real guests in QEMU, for tests, demo and benchmarks."""

from lab.errors import CommandFailed, LabError, LabTimeout, VMFrozen, VMLost
from lab.guest import Guest
from lab.process import Completed, GuestProcess
from lab.qmp import QmpError
from lab.topology_nested import Nested, nested
from lab.topology_solo import solo

__all__ = [
    "CommandFailed",
    "Completed",
    "Guest",
    "GuestProcess",
    "LabError",
    "LabTimeout",
    "Nested",
    "QmpError",
    "VMFrozen",
    "VMLost",
    "nested",
    "solo",
]

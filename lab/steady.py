# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts off what kernels do now and then, so that a move does not depend on whether it fell into it."""

from __future__ import annotations

from lab.topology_nested import Nested

# Statistics and compaction: together up to 2.5 % of an inflate.
STEADY = ["sysctl", "-w", "vm.stat_interval=1000", "vm.compaction_proactiveness=0"]
# It looks through the guest's memory each 10 s. d of deflates differed by 3 % with it.
_NO_KHUGEPAGED = "echo 3600000 > /sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs"


def make_steady(pair: Nested) -> None:
    """In both kernels. The host makes huge pages when memory is touched, and not later. Raises LabError."""
    for machine in (pair.host, pair.guest):
        machine.run(STEADY, check=True)
    pair.host.run(["sh", "-c", _NO_KHUGEPAGED], check=True)

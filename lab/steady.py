# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts off what kernels do now and then, so that a move does not depend on whether it fell into it."""

from __future__ import annotations

from lab.guest import Guest
from lab.topology_nested import Nested

# Statistics and compaction: together up to 2.5 % of an inflate.
STEADY = ["sysctl", "-w", "vm.stat_interval=1000", "vm.compaction_proactiveness=0"]
# It looks through the guest's memory each 10 s. d of deflates differed by 3 % with it.
_NO_KHUGEPAGED = "echo 3600000 > /sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs"
# So many pages may be missing of what it makes a huge page. It fills them: what was given back page by page
# is in use again. 14 MiB of 251 were seen to be, within one move.
_FILLS_NONE = "echo 0 > /sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none"


def fill_no_huge_pages(machine: Guest) -> None:
    """Khugepaged makes huge pages of what is in use alone: what was given back stays so. Raises LabError."""
    machine.run(["sh", "-c", _FILLS_NONE], check=True)


def make_steady(pair: Nested) -> None:
    """In both kernels. The host makes huge pages when memory is touched, and not later. Raises LabError."""
    for machine in (pair.host, pair.guest):
        machine.run(STEADY, check=True)
    pair.host.run(["sh", "-c", _NO_KHUGEPAGED], check=True)

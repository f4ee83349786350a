# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the driver is loaded and has its balloons, now: it may be unbound or unloaded, and come back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from balloontrace.system import kernel
from balloontrace.trace.guest.diagnosis import GuestDiagnosis

_BUILT_IN = 0


@dataclass(frozen=True)
class DriverState:
    """What was loaded and bound at one look; numbers tell a thing from a later one of the same name."""

    module: int | None  # None: not loaded
    bound: Mapping[str, int]  # by device: virtioN

    def lacks(self, before: DriverState) -> tuple[str, ...]:
        """Devices that were bound `before` and are not any more, or are anew."""
        return tuple(name for name, inode in before.bound.items() if self.bound.get(name) != inode)

    def replaces(self, before: DriverState) -> bool:
        """Whether as many balloons are bound as `before`, be it others."""
        return self.module is not None and len(self.bound) >= len(before.bound)


class DriverWatch:
    """Looks at the driver, with a few system calls as long as nothing has changed."""

    def __init__(self, diagnosis: GuestDiagnosis, root: Path = kernel.ROOT) -> None:
        """Remember what is loaded and bound now."""
        self._root = root
        module = diagnosis.plan.driver_module
        self._module = root / "sys/module" / module if module else None
        devices = [device.name for device in diagnosis.devices if device.driver]
        self.state = self._first = DriverState(self._module_now(), self._bound(devices))

    def look(self) -> DriverState:
        """What is loaded and bound now; the very same state while nothing has changed."""
        same = DriverState(self._module_now(), self._bound(self.state.bound))
        if same == self.state and len(same.bound) >= len(self._first.bound):
            return self.state
        devices = [device.name for device in kernel.read_balloon_devices(self._root) if device.driver]
        found = DriverState(same.module, self._bound(devices))
        if found != self.state:
            self.state = found
        return self.state

    def gone(self) -> bool:
        """Whether something has changed since this was made, or had."""
        return self.look() != self._first

    def _module_now(self) -> int | None:
        return _BUILT_IN if self._module is None else _inode(self._module)

    def _bound(self, devices: Iterable[str]) -> dict[str, int]:
        folder = self._root / "sys/bus/virtio/devices"
        inodes = {name: _inode(folder / name / "driver") for name in devices}
        return {name: inode for name, inode in inodes.items() if inode is not None}


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino  # a module loaded again, a device bound again, has another
    except OSError:
        return None

# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts a VM and waits for its guest; what only emulation makes fail gets another try."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lab.cache import cache_folder
from lab.errors import VMFrozen, VMLost
from lab.guest import Guest
from lab.kernels import ImageSpec
from lab.progress import Progress
from lab.qemu import VmConfig
from lab.vm import Vm, start_vm

# "Oops: int3" in the idle loop, twice in 140 boots under QEMU 7.2: `needs_new_qemu` says why. In hosts, whose
# processors have a thread each under 11.1 too, it is not ruled out; another try costs little.
# In hosts that count instructions 12 guests of 25 stood still before `exit_after_injection`.
_ATTEMPTS = 5
T = TypeVar("T")


class BootPanic(VMLost):
    """The kernel of a guest panicked before its agent answered."""

    def __init__(self, lost: VMLost, console: str) -> None:
        self.console = console
        super().__init__(str(lost))


# What a caller may try again. Any other error is the lab's, or what was to be found.
LOST_BY_EMULATION = (VMFrozen, BootPanic)


def boot(
    config: VmConfig,
    name: str | None = None,
    *,
    outlives_us: bool = False,
    spec: ImageSpec | None = None,
    boot_timeout_s: float = 180,
    progress: Progress | None = None,
) -> Guest:
    """A guest whose agent answers; `start_vm` says what the arguments mean. Raises LabError, VMLost."""

    def attempt() -> Guest:
        vm = start_vm(config, name, outlives_us=outlives_us, spec=spec, progress=progress)
        return await_guest(vm, boot_timeout_s)

    return retry_lost(attempt, progress)


def await_guest(vm: Vm, timeout_s: float) -> Guest:
    """The guest of a VM just started; on failure the VM is ended. Raises BootPanic, VMLost."""
    try:
        guest = Guest(vm, boot_timeout_s=timeout_s)
        guest.set_clock()
        return guest
    except BaseException as error:
        panic = BootPanic(error, vm.console()) if isinstance(error, VMLost) and vm.has_panicked() else None
        vm.end()
        vm.remove()
        if panic is not None:
            raise panic from None
        raise


def retry_lost(attempt: Callable[[], T], progress: Progress | None = None) -> T:
    """What `attempt` returns; after BootPanic and VMFrozen it is called again, some times. That is told."""
    progress = progress or Progress()
    for _ in range(_ATTEMPTS - 1):
        try:
            return attempt()
        except VMFrozen as frozen:
            progress.stage(f"{str(frozen).splitlines()[0]}; trying again")
        except BootPanic as panic:
            kept = cache_folder() / "boot-panic.log"
            kept.write_text(panic.console)
            progress.stage(f"the guest's kernel panicked while booting (see {kept}); trying again")
    return attempt()

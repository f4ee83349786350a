# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts a VM and waits for its guest; an emulated kernel that falls over while booting gets another try."""

from __future__ import annotations

from pathlib import Path

from lab.cache import cache_folder
from lab.errors import VMLost
from lab.guest import Guest
from lab.image import ImageSpec
from lab.progress import Progress
from lab.qemu import VmConfig
from lab.vm import Vm, start_vm

# "Oops: int3" in the idle loop, twice in 140 boots: QEMU 7.2's multi-threaded emulation can run
# a breakpoint that the kernel has just removed while it patched its own code. Booting on one CPU and starting
# the others later avoids it, but makes every boot 0.8 s longer; another try costs less.
_ATTEMPTS = 3


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
    progress = progress or Progress()
    for attempt in range(1, _ATTEMPTS + 1):
        vm = start_vm(config, name, outlives_us=outlives_us, spec=spec, progress=progress)
        try:
            return Guest(vm, boot_timeout_s=boot_timeout_s)
        except BaseException as error:
            may_retry = isinstance(error, VMLost) and vm.has_panicked() and attempt < _ATTEMPTS
            kept = _keep_console(vm) if may_retry else None
            vm.end()
            vm.remove()
            if not may_retry:
                raise
            progress.stage(f"the guest's kernel panicked while booting (see {kept}); trying again")
    raise AssertionError("the last attempt returns or raises")


def _keep_console(vm: Vm) -> Path:
    kept = cache_folder() / "boot-panic.log"
    kept.write_text(vm.console())
    return kept

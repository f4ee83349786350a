# SPDX-License-Identifier: GPL-2.0-or-later
"""The solo topology: one guest with a balloon on this machine's QEMU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from lab.boot import boot
from lab.guest import Guest
from lab.image import ImageSpec
from lab.progress import Progress
from lab.qemu import VmConfig
from lab.signals import sigterm_raises


@contextmanager
def solo(
    *,
    memory_mib: int = 8192,
    cpus: int | None = None,
    icount: bool = False,
    balloons: int | Sequence[Mapping[str, str]] = 1,
    kernel_args: Sequence[str] = (),
    init_on_alloc: bool = False,
    extra_args: Sequence[str] = (),
    spec: ImageSpec | None = None,
    boot_timeout_s: float = 180,
    progress: Progress | None = None,
) -> Iterator[Guest]:
    """Boots a guest and yields it when its agent answers; ends it and removes its folder in any case.

    `cpus` is 2, with `icount` 1. `balloons` is 0 or 1, or the properties of each:
    `[{"deflate-on-oom": "on"}]`. `extra_args` go to QEMU. Raises LabError.
    """
    config = VmConfig(
        memory_mib=memory_mib,
        cpus=cpus if cpus is not None else (1 if icount else 2),
        icount=icount,
        balloons=tuple({} for _ in range(balloons)) if isinstance(balloons, int) else tuple(balloons),
        kernel_args=tuple(kernel_args),
        init_on_alloc=init_on_alloc,
        extra_args=tuple(extra_args),
    )
    with sigterm_raises():
        guest = boot(config, spec=spec, boot_timeout_s=boot_timeout_s, progress=progress)
        try:
            yield guest
        finally:
            guest.stop()

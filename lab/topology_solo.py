# SPDX-License-Identifier: GPL-2.0-or-later
"""The solo topology: one guest with a balloon, on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from lab.boot_retries import boot
from lab.errors import LabError
from lab.guest import Guest
from lab.image import ImageSpec
from lab.progress import Progress
from lab.qemu import VmConfig
from lab.signals import sigterm_raises
from lab.vhost import NO_EXTRA, BackendOptions, ExtraTime

Device = Literal["qemu", "backend"]


@contextmanager
def solo(
    *,
    memory_mib: int = 8192,
    cpus: int | None = None,
    icount: bool = False,
    device: Device = "qemu",
    balloons: int | Sequence[Mapping[str, str]] | None = None,
    page_bitmap: bool = False,
    dump: bool = False,
    sanitize: bool = False,
    backend_args: Sequence[str] = (),
    extra: ExtraTime = NO_EXTRA,
    kernel_args: Sequence[str] = (),
    init_on_alloc: bool = False,
    extra_args: Sequence[str] = (),
    spec: ImageSpec | None = None,
    boot_timeout_s: float = 180,
    progress: Progress | None = None,
) -> Iterator[Guest]:
    """Boots a guest and yields it when its agent answers; ends it and removes its folder in any case.

    `cpus` is 2, with `icount` 1. `device` says which balloon `guest` moves: QEMU's, or the lab's own, with
    the options `page_bitmap`, `dump`, `sanitize`, `backend_args` and `extra` (`BackendOptions`).
    `balloons` are QEMU's: 0 or 1, or the properties of each, `[{"deflate-on-oom": "on"}]`; the default is 1,
    with `device="backend"` 0. `extra_args` go to QEMU. Raises LabError.
    """
    config = guest_config(
        memory_mib=memory_mib,
        cpus=cpus,
        icount=icount,
        device=device,
        balloons=balloons,
        options=BackendOptions(page_bitmap, dump, sanitize, tuple(backend_args), extra),
        kernel_args=kernel_args,
        init_on_alloc=init_on_alloc,
        extra_args=extra_args,
    )
    with sigterm_raises():
        guest = boot(config, spec=spec, boot_timeout_s=boot_timeout_s, progress=progress)
        try:
            yield guest
        finally:
            guest.stop()


def guest_config(
    *,
    memory_mib: int,
    cpus: int | None,
    device: Device,
    balloons: int | Sequence[Mapping[str, str]] | None,
    options: BackendOptions,
    icount: bool = False,
    kernel_args: Sequence[str] = (),
    init_on_alloc: bool = False,
    extra_args: Sequence[str] = (),
) -> VmConfig:
    """The configuration that `solo` describes. Raises LabError."""
    if device == "qemu" and options != BackendOptions():
        raise LabError('QEMU\'s own balloon has none of these options; device="backend" has them.')
    if balloons is None:
        balloons = 1 if device == "qemu" else 0
    return VmConfig(
        memory_mib=memory_mib,
        cpus=cpus if cpus is not None else (1 if icount else 2),
        icount=icount,
        balloons=tuple({} for _ in range(balloons)) if isinstance(balloons, int) else tuple(balloons),
        backend=options if device == "backend" else None,
        kernel_args=tuple(kernel_args),
        init_on_alloc=init_on_alloc,
        extra_args=tuple(extra_args),
    )

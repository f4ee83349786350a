# SPDX-License-Identifier: GPL-2.0-or-later
"""The solo topology: one guest with a balloon, on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, TypedDict, Unpack

from lab.boot_retries import boot
from lab.errors import LabError
from lab.guest import Guest
from lab.kernels import ImageSpec
from lab.progress import Progress
from lab.qemu import VmConfig
from lab.signals import sigterm_raises
from lab.vhost import NO_EXTRA, BackendOptions, ExtraTime

Device = Literal["qemu", "backend"]


class GuestOptions(TypedDict, total=False):
    """What kind of guest. `device` says which balloon `guest` moves: QEMU's, or the lab's own.

    The lab's own takes `page_bitmap`, `dump`, `sanitize`, `backend_args` and `extra` (`BackendOptions`).
    `balloons` are QEMU's: 0 or 1, or the properties of each, `[{"deflate-on-oom": "on"}]`; the default is 1,
    with `device="backend"` 0. `extra_args` go to QEMU. In a host VM libvirt starts it if it is a `domain`.
    """

    memory_mib: int
    cpus: int
    device: Device
    balloons: int | Sequence[Mapping[str, str]]
    page_bitmap: bool
    dump: bool
    sanitize: bool
    backend_args: Sequence[str]
    extra: ExtraTime
    kernel_args: Sequence[str]
    init_on_alloc: bool
    extra_args: Sequence[str]
    machine: Literal["pc", "microvm"]
    domain: str


@contextmanager
def solo(
    *,
    icount: bool = False,
    spec: ImageSpec | None = None,
    boot_timeout_s: float = 180,
    progress: Progress | None = None,
    **options: Unpack[GuestOptions],
) -> Iterator[Guest]:
    """Boots a guest and yields it when its agent answers; ends it and removes its folder in any case.

    It has 8 GiB and 2 CPUs, with `icount` 1. Raises LabError.
    """
    config = replace(guest_config(cpus=1 if icount else 2, memory_mib=8192, options=options), icount=icount)
    with sigterm_raises():
        guest = boot(config, spec=spec, boot_timeout_s=boot_timeout_s, progress=progress)
        try:
            yield guest
        finally:
            guest.stop()


def guest_config(*, memory_mib: int, cpus: int, options: GuestOptions) -> VmConfig:
    """The configuration of a guest, with this memory and these CPUs where none are given. Raises LabError."""
    device = options.get("device", "qemu")
    backend = BackendOptions(
        page_bitmap=options.get("page_bitmap", False),
        dump=options.get("dump", False),
        sanitize=options.get("sanitize", False),
        arguments=tuple(options.get("backend_args", ())),
        extra=options.get("extra", NO_EXTRA),
    )
    if device == "qemu" and backend != BackendOptions():
        raise LabError('QEMU\'s own balloon has none of these options; device="backend" has them.')
    balloons = options.get("balloons", 1 if device == "qemu" else 0)
    return VmConfig(
        memory_mib=options.get("memory_mib", memory_mib),
        cpus=options.get("cpus", cpus),
        balloons=tuple({} for _ in range(balloons)) if isinstance(balloons, int) else tuple(balloons),
        backend=backend if device == "backend" else None,
        kernel_args=tuple(options.get("kernel_args", ())),
        init_on_alloc=options.get("init_on_alloc", False),
        extra_args=tuple(options.get("extra_args", ())),
        machine=options.get("machine", "pc"),
        domain=options.get("domain", ""),
    )

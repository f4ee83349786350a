# SPDX-License-Identifier: GPL-2.0-or-later
"""Which memory of a process is its guest's, as KVM has it: asked of the program at kvm_vm_ioctl.

No file shows KVM's memory slots. So the recorder borrows the process's descriptor of the VM, and makes an
ioctl that KVM refuses to all but the VM's own process. By then the program has run, and copied the slots.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from balloontrace.format.host_layout import MEMORY_SLOT, MEMORY_SLOTS, MOST_MEMORY_SLOTS
from balloontrace.trace.shared_maps import SharedPage

_VM_LINK = "anon_inode:kvm-vm"
_MOST_VMS = 8
_CHECK_EXTENSION = 0xAE03  # include/uapi/linux/kvm.h: _IO(KVMIO, 0x03)
_NR_PIDFD_GETFD = 438  # include/uapi/asm-generic/unistd.h; the same on every architecture
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class MemorySlot:
    """A range of the process's addresses that is memory of its guest."""

    address: int
    bytes: int
    guest_address: int


def read_memory_slots(page: SharedPage, pid: int) -> tuple[MemorySlot, ...] | None:
    """All slots of the process's VMs by address; None where it has none yet, or they could not be read.

    `page` is the map `memory_slots` of programs that are attached and know where KVM keeps them.
    """
    found: list[MemorySlot] = []
    for number in _vm_descriptors(pid):
        with _borrowed(pid, number) as fd:
            slots = None if fd is None else _ask(page, fd)
        if slots is None:
            return None
        found += slots
    return tuple(sorted(found, key=lambda slot: slot.address)) or None


def _vm_descriptors(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if str(link.readlink()) == _VM_LINK:
                    found.append(int(link.name))
    return sorted(found)[:_MOST_VMS]


@contextmanager
def _borrowed(pid: int, number: int) -> Iterator[int | None]:
    """A descriptor of our own for one of another process; None where the kernel refuses."""
    try:
        process = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        fd = _LIBC.syscall(_NR_PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    try:
        yield None if fd < 0 else fd
    finally:
        if fd >= 0:
            os.close(fd)


def _ask(page: SharedPage, fd: int) -> list[MemorySlot] | None:
    """The slots of one VM; None if no program answered, or there are more than fit."""
    asking = os.getpid() << 32 | threading.get_native_id()
    head = {"asked_by": asking, "count": 0, "left_out": 0}
    page.write(MEMORY_SLOTS.decoder.pack(*(head[name] for name, _, _ in MEMORY_SLOTS.fields)))
    with suppress(OSError):
        fcntl.ioctl(fd, _CHECK_EXTENSION, 0)
    raw = page.read()
    (head,) = MEMORY_SLOTS.rows(raw[: MEMORY_SLOTS.decoder.size])
    if head["asked_by"] or head["left_out"] or head["count"] > MOST_MEMORY_SLOTS:
        return None
    start = MEMORY_SLOTS.offsets["at"]
    rows = MEMORY_SLOT.rows(raw[start : start + head["count"] * MEMORY_SLOT.size_bytes])
    return [
        MemorySlot(row["address"], row["pages"] * mmap.PAGESIZE, row["guest_page"] * mmap.PAGESIZE)
        for row in rows
        if row["pages"]
    ]

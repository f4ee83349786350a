# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaches a loaded BPF program to another address: what a module that was loaded again takes.

The kernel drops the kprobes of a module with it. Compiling once more would take a squeezed guest seconds and
100 MB; the programs are there already, and only want a new perf event (perf_event_open(2)).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct
from pathlib import Path

from balloontrace.system.kernel import ROOT

# __NR_perf_event_open; the C library has no function for it.
_SYSTEM_CALL_NUMBERS = {
    "x86_64": 298, "aarch64": 241, "riscv64": 241, "loongarch64": 241, "ppc64le": 319, "ppc64": 319,
    "s390x": 331,
}  # fmt: skip

# include/uapi/linux/perf_event.h
_ATTRIBUTE = struct.Struct("=IIQQQQQIIQQ")  # up to config2: PERF_ATTR_SIZE_VER1
_CLOSE_ON_EXEC = 8
_ENABLE = 0x2400
_SET_BPF = 0x40042408
_POWERPC_ENABLE, _POWERPC_SET_BPF = 0x20002400, 0x80042408  # its ioctls have their direction elsewhere


def attach_kprobe(program_fd: int, address: int, *, returns: bool, name: str = "", root: Path = ROOT) -> int:
    """A descriptor as long as which a kprobe, or kretprobe, at `address` runs the program. Raises OSError.

    With `name`, the place is `address` bytes into that function.
    """
    source = root / "sys/bus/event_source/devices/kprobe"
    kind = int((source / "type").read_text())
    retprobe_bit = int((source / "format/retprobe").read_text().strip().removeprefix("config:"))
    function = ctypes.create_string_buffer(name.encode())
    place = ctypes.addressof(function) if name else 0
    attribute = _ATTRIBUTE.pack(
        kind, _ATTRIBUTE.size, int(returns) << retprobe_bit, 0, 0, 0, 0, 0, 0, place, address
    )
    fd = _perf_event_open(attribute)
    powerpc = platform.machine().startswith("ppc")
    try:
        fcntl.ioctl(fd, _POWERPC_SET_BPF if powerpc else _SET_BPF, program_fd)
        fcntl.ioctl(fd, _POWERPC_ENABLE if powerpc else _ENABLE, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _perf_event_open(attribute: bytes) -> int:
    number = _SYSTEM_CALL_NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(f"how to attach to a module loaded again is not known on {platform.machine()}")
    call = ctypes.CDLL(None, use_errno=True).syscall
    buffer = ctypes.create_string_buffer(attribute, len(attribute))
    # Of every process, registered at CPU 0; its program runs wherever the function is called.
    fd = call(ctypes.c_long(number), buffer, -1, 0, -1, ctypes.c_ulong(_CLOSE_ON_EXEC))
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(fd)

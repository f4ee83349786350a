# SPDX-License-Identifier: GPL-2.0-or-later
"""Perf events that run a loaded BPF program (perf_event_open(2)) whenever an address is reached."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct

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


def attach_event(program_fd: int, kind: int, config: int, place: tuple[int, int]) -> int:
    """A descriptor as long as which `program_fd` runs at a place, whoever comes by. Raises OSError."""
    # Of every process, registered at CPU 0; its program runs wherever the function is called.
    attribute = _ATTRIBUTE.pack(kind, _ATTRIBUTE.size, config, 0, 0, 0, 0, 0, 0, *place)
    fd = _perf_event_open(attribute, -1, 0)
    powerpc = platform.machine().startswith("ppc")
    try:
        fcntl.ioctl(fd, _POWERPC_SET_BPF if powerpc else _SET_BPF, program_fd)
        fcntl.ioctl(fd, _POWERPC_ENABLE if powerpc else _ENABLE, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _perf_event_open(attribute: bytes, pid: int, cpu: int) -> int:
    number = _SYSTEM_CALL_NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(f"how to open a perf event is not known on {platform.machine()}")
    call = ctypes.CDLL(None, use_errno=True).syscall
    buffer = ctypes.create_string_buffer(attribute, len(attribute))
    fd = call(ctypes.c_long(number), buffer, pid, cpu, -1, ctypes.c_ulong(_CLOSE_ON_EXEC))
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(fd)

# SPDX-License-Identifier: GPL-2.0-or-later
"""bpf(2), for which the C library has no function, and programs given to it as single instructions."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# __NR_bpf
_SYSTEM_CALL_NUMBERS = {
    "x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "ppc64": 361,
    "s390x": 351,
}  # fmt: skip

# include/uapi/linux/bpf.h
_MAP_CREATE, _MAP_LOOKUP_ELEM, _PROG_LOAD, _RAW_TRACEPOINT_OPEN = 0, 1, 5, 17
MAP_TYPE_ARRAY, MAP_TYPE_RINGBUF = 2, 27
PROG_TYPE_KPROBE, PROG_TYPE_RAW_TRACEPOINT, PROG_TYPE_TRACING = 2, 17, 26
PSEUDO_MAP_FD, PSEUDO_MAP_VALUE = 1, 2
_TRACE_FENTRY = 24
_KEY_BYTES = 4

Instruction = tuple[int, int, int, int]
"""Operation, registers (destination in the lower 4 bits), offset and immediate: struct bpf_insn."""


def is_possible() -> bool:
    """Whether the number of the system call is known on this machine."""
    return platform.machine() in _SYSTEM_CALL_NUMBERS


@contextmanager
def owned(fd: int) -> Iterator[int]:
    """A descriptor, closed at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def create_map(kind: int, value_bytes: int, entries: int) -> int:
    """Its descriptor; a ring has no values, and as many bytes as entries. OSError as the kernel says."""
    key_bytes = _KEY_BYTES if value_bytes else 0
    return _bpf(_MAP_CREATE, struct.pack("=IIIII", kind, key_bytes, value_bytes, entries, 0))


def read_u64(array: int) -> int:
    """The first value of an array of u64. OSError as the kernel says."""
    key, value = ctypes.c_uint32(0), ctypes.c_uint64(0)
    places = struct.pack("=IIQQQ", array, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
    _bpf(_MAP_LOOKUP_ELEM, places)
    return value.value


def load_program(kind: int, instructions: Iterable[Instruction], name: bytes, function_id: int = 0) -> int:
    """Its descriptor; an fentry program is loaded for its function. OSError as the kernel says."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=BBhi", *each) for each in instructions))
    license_ = ctypes.create_string_buffer(b"GPL")
    return _bpf(
        _PROG_LOAD,
        struct.pack(
            "=IIQQIIQII16sIIIIQIIQIII4x",
            kind, len(code.raw) // 8, ctypes.addressof(code), ctypes.addressof(license_),
            0, 0, 0, 0, 0, name,
            0, _TRACE_FENTRY if function_id else 0, 0, 0, 0, 0, 0, 0, 0, function_id, 0,
        ),
    )  # fmt: skip


def open_raw_tracepoint(program: int, name: bytes | None = None) -> int:
    """Attaches a program to a tracepoint, or an fentry program where it belongs, until that is closed."""
    held = ctypes.create_string_buffer(name) if name else None
    place = ctypes.addressof(held) if held else 0
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QII", place, program, 0))


def _bpf(command: int, attributes: bytes) -> int:
    held = ctypes.create_string_buffer(attributes, len(attributes))
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SYSTEM_CALL_NUMBERS[platform.machine()]
    result: int = libc.syscall(number, command, held, len(attributes))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result

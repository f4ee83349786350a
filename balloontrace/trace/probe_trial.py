# SPDX-License-Identifier: GPL-2.0-or-later
"""A probe tried out: attached to a function that is called right away, and seen to run or not.

A kernel can take a probe and never run it (`kernel.ftrace_enabled=0`, kprobes disarmed); only trying tells.
Six instructions given to bpf(2) need neither compiler nor headers, and take milliseconds where bcc takes
seconds. The function is eventfd's write, which every kernel with virtio has, and this process calls it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from balloontrace.system.attach_kprobe import attach_kprobe
from balloontrace.system.libbpf import BtfError, open_btf
from balloontrace.trace.mechanism import Mechanism

FUNCTION = "eventfd_write"

# __NR_bpf; the C library has no function for it.
_SYSTEM_CALL_NUMBERS = {
    "x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "ppc64": 361,
    "s390x": 351,
}  # fmt: skip
KPROBES = "sys/bus/event_source/devices/kprobe"

# include/uapi/linux/bpf.h
_MAP_CREATE, _MAP_LOOKUP_ELEM, _PROG_LOAD, _RAW_TRACEPOINT_OPEN = 0, 1, 5, 17
_MAP_TYPE_ARRAY, _PROG_TYPE_KPROBE, _PROG_TYPE_TRACING, _TRACE_FENTRY = 2, 2, 26, 24
_PSEUDO_MAP_VALUE = 2

_CALLS = 3


@dataclass(frozen=True)
class Trial:
    """What became of a probe of each kind; one that could not be tried is in neither."""

    fired: Mapping[Mechanism, bool] = field(default_factory=dict)
    refused: Mapping[Mechanism, str] = field(default_factory=dict)  # the kernel's reason


def try_probes(root: Path) -> Trial:
    """Try an fentry and a kprobe on the running kernel; raises nothing."""
    fired: dict[Mechanism, bool] = {}
    refused: dict[Mechanism, str] = {}
    for mechanism, attach in _attachers(root):
        try:
            fired[mechanism] = _fires(attach)
        except OSError as error:
            refused[mechanism] = error.strerror or str(error)
    return Trial(fired, refused)


_Attach = Callable[["_Kernel", ExitStack, int], None]
"""Attaches a program that counts into the map of that descriptor, until the stack is left."""


def _attachers(root: Path) -> Iterator[tuple[Mechanism, _Attach]]:
    """How to attach each kind that can be tried here, given what counts its runs."""
    if platform.machine() not in _SYSTEM_CALL_NUMBERS:
        return
    try:
        with open_btf(root) as btf:
            function_id = btf.function_id(FUNCTION)
    except BtfError:
        function_id = None
    if function_id is not None:
        yield Mechanism.FENTRY, partial(_attach_fentry, function_id)
    if (root / KPROBES).exists():
        yield Mechanism.KPROBE, partial(_attach_kprobe, root)


def _fires(attach: _Attach) -> bool:
    """Whether the program ran when the function was called, by any process. OSError when it is refused."""
    kernel = _Kernel()
    with ExitStack() as stack:
        counter = stack.enter_context(_owned(kernel.create_counter()))
        attach(kernel, stack, counter)
        eventfd = stack.enter_context(_owned(os.eventfd(0)))
        for _ in range(_CALLS):
            os.eventfd_write(eventfd, 1)
        return kernel.read_counter(counter) >= _CALLS


def _attach_fentry(function_id: int, kernel: _Kernel, stack: ExitStack, counter: int) -> None:
    program = stack.enter_context(_owned(kernel.load(_PROG_TYPE_TRACING, counter, function_id)))
    stack.enter_context(_owned(kernel.bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QII", 0, program, 0))))


def _attach_kprobe(root: Path, kernel: _Kernel, stack: ExitStack, counter: int) -> None:
    program = stack.enter_context(_owned(kernel.load(_PROG_TYPE_KPROBE, counter)))
    stack.enter_context(_owned(attach_kprobe(program, 0, returns=False, name=FUNCTION, root=root)))


@contextmanager
def _owned(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


class _Kernel:
    """bpf(2), for which the C library has no function."""

    def __init__(self) -> None:
        self._number = _SYSTEM_CALL_NUMBERS[platform.machine()]
        self._libc = ctypes.CDLL(None, use_errno=True)

    def bpf(self, command: int, attributes: bytes) -> int:
        """The system call of that name. OSError as the kernel says."""
        held = ctypes.create_string_buffer(attributes, len(attributes))
        return self._checked(self._libc.syscall(self._number, command, held, len(attributes)))

    def create_counter(self) -> int:
        """An array of one u64; its descriptor."""
        return self.bpf(_MAP_CREATE, struct.pack("=IIIII", _MAP_TYPE_ARRAY, 4, 8, 1, 0))

    def read_counter(self, counter: int) -> int:
        """The u64 in it."""
        key, value = ctypes.c_uint32(0), ctypes.c_uint64(0)
        places = struct.pack("=IIQQQ", counter, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
        self.bpf(_MAP_LOOKUP_ELEM, places)
        return value.value

    def load(self, kind: int, counter: int, function_id: int = 0) -> int:
        """A program that adds one to `counter`; an fentry program is loaded for its function."""
        instructions = ctypes.create_string_buffer(_counting(counter))
        license_ = ctypes.create_string_buffer(b"GPL")
        return self.bpf(
            _PROG_LOAD,
            struct.pack(
                "=IIQQIIQII16sIIIIQIIQIII4x",
                kind, len(instructions.raw) // 8, ctypes.addressof(instructions), ctypes.addressof(license_),
                0, 0, 0, 0, 0, b"bt_trial",
                0, _TRACE_FENTRY if function_id else 0, 0, 0, 0, 0, 0, 0, 0, function_id, 0,
            ),
        )  # fmt: skip

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


def _counting(counter: int) -> bytes:
    """`r1 = &counter[0]; r2 = 1; *r1 += r2; r0 = 0; exit`."""
    instructions = (
        (0x18, 1 | _PSEUDO_MAP_VALUE << 4, 0, counter),
        (0, 0, 0, 0),
        (0xB7, 2, 0, 1),
        (0xDB, 1 | 2 << 4, 0, 0),
        (0xB7, 0, 0, 0),
        (0x95, 0, 0, 0),
    )
    return b"".join(struct.pack("=BBhi", *instruction) for instruction in instructions)

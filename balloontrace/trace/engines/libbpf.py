# SPDX-License-Identifier: GPL-2.0-or-later
"""A compiled BPF object in libbpf's hands, from its bytes to descriptors, whatever its programs do.

Version 1.1 and newer. Every descriptor handed out is a duplicate, and outlives the object.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from types import TracebackType
from typing import Self

from balloontrace.errors import BalloontraceError
from balloontrace.system.libbpf import LIBBPF, load_libbpf
from balloontrace.trace.engines.constants import MARK, NAMES

_MESSAGE_BYTES = 64 << 10  # what libbpf says at a time; the verifier's log may be longer

_ADDRESS, _TEXT, _INT, _BOOL = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_bool
_FUNCTIONS: Mapping[str, tuple[object, tuple[object, ...]]] = {
    "libbpf_version_string": (_TEXT, ()),
    "libbpf_set_print": (_ADDRESS, (_ADDRESS,)),
    "bpf_object__open_mem": (_ADDRESS, (_TEXT, ctypes.c_size_t, _ADDRESS)),
    "bpf_object__load": (_INT, (_ADDRESS,)),
    "bpf_object__close": (None, (_ADDRESS,)),
    "bpf_object__next_program": (_ADDRESS, (_ADDRESS, _ADDRESS)),
    "bpf_object__find_map_by_name": (_ADDRESS, (_ADDRESS, _TEXT)),
    "bpf_program__name": (_TEXT, (_ADDRESS,)),
    "bpf_program__insns": (_ADDRESS, (_ADDRESS,)),
    "bpf_program__insn_cnt": (ctypes.c_size_t, (_ADDRESS,)),
    "bpf_program__fd": (_INT, (_ADDRESS,)),
    "bpf_program__set_autoload": (_INT, (_ADDRESS, _BOOL)),
    "bpf_program__set_attach_target": (_INT, (_ADDRESS, _INT, _TEXT)),
    "bpf_program__attach_tracepoint": (_ADDRESS, (_ADDRESS, _TEXT, _TEXT)),
    "bpf_map__fd": (_INT, (_ADDRESS,)),
    "bpf_map__set_autocreate": (_INT, (_ADDRESS, _BOOL)),
    "bpf_map__set_max_entries": (_INT, (_ADDRESS, ctypes.c_uint32)),
    "libbpf_register_prog_handler": (_INT, (_TEXT, _INT, _INT, _ADDRESS)),
    "bpf_btf_get_next_id": (_INT, (ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32))),
    "bpf_btf_get_fd_by_id": (_INT, (ctypes.c_uint32,)),
    "bpf_obj_get_info_by_fd": (_INT, (_INT, _ADDRESS, ctypes.POINTER(ctypes.c_uint32))),
    "bpf_raw_tracepoint_open": (_INT, (_TEXT, _INT)),
    "bpf_link__fd": (_INT, (_ADDRESS,)),
    "bpf_link__destroy": (_INT, (_ADDRESS,)),
}  # fmt: skip
_PRINT = ctypes.CFUNCTYPE(_INT, _INT, _ADDRESS, _ADDRESS)

# include/uapi/linux/bpf.h: the type of fentry and fexit programs, and each section's kind of attaching
_PROG_TYPE_TRACING = 26
_TRACING_SECTIONS = {"fentry": 24, "fexit": 25}
_MODULE_NAME_BYTES = 64


class _OpenOptions(ctypes.Structure):
    """The beginning of `struct bpf_object_open_opts` (tools/lib/bpf/libbpf.h)."""

    _fields_ = (("sz", ctypes.c_size_t), ("object_name", _TEXT))


class _LoadOptions(ctypes.Structure):
    """The beginning of `struct bpf_prog_load_opts` (tools/lib/bpf/bpf.h)."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", _INT),
        ("expected_attach_type", _INT),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
    )


_PREPARE = ctypes.CFUNCTYPE(_INT, _ADDRESS, ctypes.POINTER(_LoadOptions), ctypes.c_long)


class _HandlerOptions(ctypes.Structure):
    """`struct libbpf_prog_handler_opts`."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("cookie", ctypes.c_long),
        ("prog_setup_fn", _ADDRESS),
        ("prog_prepare_load_fn", _PREPARE),
        ("prog_attach_fn", _ADDRESS),
    )


_TARGETS: dict[int, tuple[int, int]] = {}
"""By the address of a program, the descriptor of a module's BTF and its function's number in it."""


def _prepare(program: int, options: ctypes._Pointer[_LoadOptions], _cookie: int) -> int:
    """Called by libbpf right before it loads a program."""
    if program in _TARGETS:
        options[0].attach_btf_obj_fd, options[0].attach_btf_id = _TARGETS[program]
    return 0


_HANDLER = _HandlerOptions(sz=ctypes.sizeof(_HandlerOptions), prog_prepare_load_fn=_PREPARE(_prepare))


# struct bpf_insn: code, registers, 16 bits of offset, 32 of immediate. BPF_LD | BPF_DW | BPF_IMM takes two.
_INSTRUCTION_BYTES = 8
_ALL_BITS = (1 << 64) - 1
_MARKED = (
    rb"\x18[\0-\x0f]\0\0(?P<low>.{4})\0{4}(?P<high>" + re.escape(MARK.to_bytes(4, sys.byteorder)) + rb")"
)


class _BtfInfo(ctypes.Structure):
    """`struct bpf_btf_info` (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("btf", ctypes.c_uint64),
        ("btf_size", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("kernel_btf", ctypes.c_uint32),
    )


class BpfObjectError(BalloontraceError):
    """libbpf or the kernel refused something."""


class BpfObject:
    """An object opened; nothing of it is in the kernel before `load`. As a context it closes itself."""

    def __init__(self, name: str, content: bytes) -> None:
        """Raises BpfObjectError when there is no libbpf, or when it cannot read the object.

        Bytes, not a file: an object in a bundle has no file of its own. libbpf copies what it keeps of them.
        """
        try:
            self._lib = _library()
        except (OSError, AttributeError) as error:
            raise BpfObjectError(
                f"{LIBBPF} 1.1 or newer cannot be loaded: install libbpf1 (Debian, Ubuntu) or libbpf (Fedora)"
            ) from error
        self.messages: list[str] = []
        self._module_fds: dict[str, int] = {}
        self._print = _PRINT(_collector(self.messages))  # referenced as long as libbpf may call it
        self._lib.libbpf_set_print(self._print)
        _register_handler(self._lib)
        options = _OpenOptions(ctypes.sizeof(_OpenOptions), name.encode())
        self._object = self._lib.bpf_object__open_mem(content, len(content), ctypes.byref(options))
        if not self._object:
            reason = os.strerror(ctypes.get_errno())
            self._release()
            raise BpfObjectError(f"object {name} cannot be opened: {reason}")
        self._programs = self._find_programs()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lib.bpf_object__close(self._object)
        self._release()

    def _release(self) -> None:
        self._lib.libbpf_set_print(None)
        _TARGETS.clear()
        for fd in self._module_fds.values():
            os.close(fd)

    @property
    def version(self) -> str:
        """Of libbpf, e.g. `1.5`."""
        said: bytes = self._lib.libbpf_version_string()
        return said.decode().removeprefix("v")

    @property
    def program_names(self) -> Collection[str]:
        """The C functions that are programs."""
        return self._programs.keys()

    def set_constants(self, values: Mapping[str, int]) -> None:
        """Give marked immediates of all programs their values. KeyError for one that is not among them."""
        for code, mark in self._marks():
            halves = struct.pack("=Q", values[_name_of(mark)] & _ALL_BITS)
            code[mark.start("low") : mark.end("low")] = halves[:4]
            code[mark.start("high") : mark.end("high")] = halves[4:]

    def open_constants(self) -> set[str]:
        """Names of those that have no value yet."""
        return {_name_of(mark) for _, mark in self._marks()}

    def _marks(self) -> Iterator[tuple[memoryview, re.Match[bytes]]]:
        """Each program's instructions with each mark in them.

        Found as bytes: to go through all instructions takes Python a tenth of a second under emulation.
        """
        for program in self._programs.values():
            address = self._lib.bpf_program__insns(program)
            size_bytes = self._lib.bpf_program__insn_cnt(program) * _INSTRUCTION_BYTES
            code = memoryview((ctypes.c_char * size_bytes).from_address(address)).cast("B")
            for mark in re.finditer(_MARKED, bytes(code), re.DOTALL):
                if mark.start() % _INSTRUCTION_BYTES == 0:
                    yield code, mark

    def set_max_entries(self, name: str, entries: int) -> None:
        """How large a map is to be: of a ring, in bytes."""
        self._checked(self._lib.bpf_map__set_max_entries(self._map(name), entries), f"the size of {name}")

    def leave_out_map(self, name: str) -> None:
        """Not make this map; programs may name it where they never come."""
        self._checked(self._lib.bpf_map__set_autocreate(self._map(name), False), f"leaving out {name}")

    def has_map(self, name: str) -> bool:
        """Whether the object has a map of that name."""
        return bool(self._find_map(name))

    def load_only(self, names: Collection[str]) -> None:
        """Which programs `load` is to give to the kernel."""
        for name, program in self._programs.items():
            self._lib.bpf_program__set_autoload(program, name in names)

    def set_module_target(self, program: str, module: str, number: int) -> None:
        """The function of a module an fentry or fexit program is for, by its number in the module's BTF.

        By name, libbpf looks through all of vmlinux's types first, each time: 1 s under emulation.
        """
        if module not in self._module_fds:
            self._module_fds[module] = self._open_module_btf(module)
        _TARGETS[self._programs[program]] = (self._module_fds[module], number)

    def set_target(self, program: str, function: str) -> None:
        """The same for a function of the kernel image, by its name."""
        result = self._lib.bpf_program__set_attach_target(self._programs[program], 0, function.encode())
        self._checked(result, f"type information on {function}")

    def load(self) -> None:
        """Make maps, and have the kernel verify the programs."""
        self._checked(self._lib.bpf_object__load(self._object), "loading the programs")

    def map_fd(self, name: str) -> int:
        """A descriptor of a map, the caller's to close."""
        return _duplicate(self._lib.bpf_map__fd(self._map(name)))

    def program_fd(self, name: str) -> int:
        """A descriptor of a program, the same way."""
        return _duplicate(self._lib.bpf_program__fd(self._programs[name]))

    def attach_tracing(self, program: str) -> int:
        """Attach an fentry or fexit program to its target; as long as the descriptor is open it runs."""
        return self.attach_raw_tracepoint(program, None)

    def attach_raw_tracepoint(self, program: str, event: str | None) -> int:
        """Attach to a tracepoint with its raw arguments, the same way."""
        fd = self._lib.bpf_raw_tracepoint_open(
            event.encode() if event is not None else None, self._lib.bpf_program__fd(self._programs[program])
        )
        return self._checked(fd, f"attaching {program}")

    def attach_tracepoint(self, program: str, category: str, event: str) -> int:
        """Attach to a tracepoint, the same way."""
        link = self._lib.bpf_program__attach_tracepoint(
            self._programs[program], category.encode(), event.encode()
        )
        if not link:
            raise BpfObjectError(f"attaching {program}: {os.strerror(ctypes.get_errno())}")
        try:
            return _duplicate(self._lib.bpf_link__fd(link))
        finally:
            self._lib.bpf_link__destroy(link)

    def refused_programs(self) -> list[str]:
        """Those of which libbpf has said that they were not loaded."""
        return re.findall(r"prog '(\w+)': BPF program load failed", "".join(self.messages))

    def _open_module_btf(self, module: str) -> int:
        """A descriptor of the kernel's type information on a module (BPF_BTF_GET_NEXT_ID)."""
        number = ctypes.c_uint32(0)
        while self._lib.bpf_btf_get_next_id(number, ctypes.byref(number)) == 0:
            fd = self._lib.bpf_btf_get_fd_by_id(number)
            if fd < 0:
                continue  # it has just been unloaded
            name = ctypes.create_string_buffer(_MODULE_NAME_BYTES)
            info = _BtfInfo(name=ctypes.addressof(name), name_len=_MODULE_NAME_BYTES)
            size = ctypes.c_uint32(ctypes.sizeof(info))
            done = self._lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
            if done == 0 and info.kernel_btf and name.value == module.encode():
                return int(fd)
            os.close(fd)
        raise BpfObjectError(f"the kernel has no type information on module {module}")

    def _find_programs(self) -> dict[str, int]:
        found: dict[str, int] = {}
        program = self._lib.bpf_object__next_program(self._object, None)
        while program:
            found[self._lib.bpf_program__name(program).decode()] = program
            program = self._lib.bpf_object__next_program(self._object, program)
        return found

    def _find_map(self, name: str) -> int | None:
        # A variable that is a map is called by its section.
        for word in (name, f".bss.{name}"):
            found: int | None = self._lib.bpf_object__find_map_by_name(self._object, word.encode())
            if found:
                return found
        return None

    def _map(self, name: str) -> int:
        found = self._find_map(name)
        if not found:
            raise KeyError(name)
        return found

    def _checked(self, result: int, what: str) -> int:
        if result < 0:
            raise BpfObjectError(f"{what}: {os.strerror(-result)}")
        return result


def _name_of(mark: re.Match[bytes]) -> str:
    return NAMES[int.from_bytes(mark["low"], sys.byteorder)]


@cache
def _library() -> ctypes.CDLL:
    """The library with the types of what is used of it. OSError, or AttributeError when it is too old."""
    lib = load_libbpf()
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def _collector(messages: list[str]) -> Callable[[int, int, int], int]:
    """A function for libbpf to print by: level, format and a va_list, which is passed as an address."""
    vsnprintf = ctypes.CDLL(None).vsnprintf
    vsnprintf.argtypes = (_ADDRESS, ctypes.c_size_t, _ADDRESS, _ADDRESS)

    def collect(level: int, form: int, arguments: int) -> int:
        if level <= 1:  # LIBBPF_WARN, LIBBPF_INFO
            text = ctypes.create_string_buffer(_MESSAGE_BYTES)
            vsnprintf(text, _MESSAGE_BYTES, form, arguments)
            messages.append(text.value.decode(errors="replace"))
        return 0

    return collect


@cache
def _register_handler(lib: ctypes.CDLL) -> None:
    """Have libbpf ask for the targets of programs.

    Once and for good: libbpf before 1.3 frees its list twice when the last handler is taken back.
    """
    for section, kind in _TRACING_SECTIONS.items():
        lib.libbpf_register_prog_handler(section.encode(), _PROG_TYPE_TRACING, kind, ctypes.byref(_HANDLER))


def _duplicate(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)

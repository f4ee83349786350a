# SPDX-License-Identifier: GPL-2.0-or-later
"""What libbpf, the library bcc itself stands on, is used for: BTF, and the run times of programs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from balloontrace.errors import BalloontraceError

LIBBPF = "libbpf.so.1"

_KIND_STRUCT = 4  # BTF_KIND_STRUCT, include/uapi/linux/btf.h
_KIND_UNION = 5  # BTF_KIND_UNION
_KIND_ENUM = 6  # BTF_KIND_ENUM
_KIND_FUNC = 12  # BTF_KIND_FUNC
_KIND_DATASEC = 15  # BTF_KIND_DATASEC
_VLEN_MASK = 0xFFFF
_KIND_SHIFT = 24
_KIND_MASK = 0x1F
_KIND_FLAG = 1 << 31
_MEMBER_BIT_OFFSET_MASK = 0xFFFFFF  # the bits above hold a bitfield's width when the kind flag is set
_BPF_STATS_RUN_TIME = 0  # enum bpf_stats_type, include/uapi/linux/bpf.h


class BtfError(BalloontraceError):
    """Type information is missing or cannot be read."""


class _Type(ctypes.Structure):
    """`struct btf_type`; a struct's members follow it in memory."""

    _fields_ = (("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32))


class _Member(ctypes.Structure):
    """`struct btf_member`."""

    _fields_ = (("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32))


class _SectionVariable(ctypes.Structure):
    """`struct btf_var_secinfo`."""

    _fields_ = (("type", ctypes.c_uint32), ("offset", ctypes.c_uint32), ("size", ctypes.c_uint32))


class _Enumerator(ctypes.Structure):
    """`struct btf_enum`."""

    _fields_ = (("name_off", ctypes.c_uint32), ("val", ctypes.c_int32))


def load_libbpf() -> ctypes.CDLL:
    """Load libbpf and declare what is used of it; OSError when the machine has none."""
    lib = ctypes.CDLL(LIBBPF, use_errno=True)
    lib.btf__parse_split.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    lib.btf__parse_split.restype = ctypes.c_void_p
    lib.btf__find_by_name_kind.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32]
    lib.btf__find_by_name_kind.restype = ctypes.c_int32
    lib.btf__type_by_id.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.btf__type_by_id.restype = ctypes.c_void_p
    lib.btf__name_by_offset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.btf__name_by_offset.restype = ctypes.c_char_p
    lib.btf__type_cnt.argtypes = [ctypes.c_void_p]
    lib.btf__type_cnt.restype = ctypes.c_uint32
    lib.btf__free.argtypes = [ctypes.c_void_p]
    lib.btf__free.restype = None
    # libbpf prints its own warnings to stderr; what matters of them is in the errors raised here.
    lib.libbpf_set_print.argtypes = [ctypes.c_void_p]
    lib.libbpf_set_print(None)
    return lib


class Btf:
    """Types of one kernel object; a module's types stand on vmlinux's."""

    def __init__(self, lib: ctypes.CDLL, handle: int, base: int | None = None) -> None:
        self._lib = lib
        self._handle = handle
        self._own: dict[tuple[str, int], int] = {}  # of a module: its own types by name and kind
        if base is not None:
            for number in range(lib.btf__type_cnt(base), lib.btf__type_cnt(handle)):
                described = _Type.from_address(lib.btf__type_by_id(handle, number))
                kind = described.info >> _KIND_SHIFT & _KIND_MASK
                self._own.setdefault((self._name(described.name_off), kind), number)

    def _find(self, name: str, kind: int) -> int | None:
        """The number of a type, or None.

        A module's own types come first: libbpf would look through all of vmlinux's before them, each time,
        which takes a second under emulation.
        """
        number: int = self._own.get((name, kind)) or self._lib.btf__find_by_name_kind(
            self._handle, name.encode(), kind
        )
        return number if number > 0 else None

    def struct_members(self, name: str) -> dict[str, int] | None:
        """Byte offset of each named member but bitfields; None when there is no `struct name`.

        Members of structures and unions without a name are members of what holds these.
        """
        type_id = self._find(name, _KIND_STRUCT)
        return None if type_id is None else dict(self._members(type_id, 0))

    def struct_bytes(self, name: str) -> int | None:
        """The size of `struct name`; None when there is none."""
        type_id = self._find(name, _KIND_STRUCT)
        if type_id is None:
            return None
        return int(_Type.from_address(self._lib.btf__type_by_id(self._handle, type_id)).size)

    def enumerators(self, name: str) -> dict[str, int]:
        """The numbers of `enum name` by their names; none when there is no such enum."""
        type_id = self._find(name, _KIND_ENUM)
        if type_id is None:
            return {}
        address = self._lib.btf__type_by_id(self._handle, type_id)
        count = _Type.from_address(address).info & _VLEN_MASK
        values = (_Enumerator * count).from_address(address + ctypes.sizeof(_Type))
        return {self._name(value.name_off): value.val for value in values}

    def variables(self, section: str) -> dict[str, int]:
        """Byte offset of each variable in a section of an object file; none when there is no such section."""
        type_id = self._find(section, _KIND_DATASEC)
        if type_id is None:
            return {}
        address = self._lib.btf__type_by_id(self._handle, type_id)
        count = _Type.from_address(address).info & _VLEN_MASK
        variables = (_SectionVariable * count).from_address(address + ctypes.sizeof(_Type))
        names = (self._lib.btf__type_by_id(self._handle, each.type) for each in variables)
        return {
            self._name(_Type.from_address(name).name_off): each.offset
            for name, each in zip(names, variables, strict=True)
        }

    def _members(self, type_id: int, start_bytes: int) -> Iterator[tuple[str, int]]:
        """Name and offset of each member of a structure or union that begins at `start_bytes`."""
        address = self._lib.btf__type_by_id(self._handle, type_id)
        struct = _Type.from_address(address)
        if struct.info >> _KIND_SHIFT & _KIND_MASK not in (_KIND_STRUCT, _KIND_UNION):
            return
        members = (_Member * (struct.info & _VLEN_MASK)).from_address(address + ctypes.sizeof(_Type))
        has_bitfields = bool(struct.info & _KIND_FLAG)
        for member in members:
            if has_bitfields and member.offset >> 24:
                continue
            offset_bytes = start_bytes + (member.offset & _MEMBER_BIT_OFFSET_MASK) // 8
            if label := self._name(member.name_off):
                yield label, offset_bytes
            else:
                yield from self._members(member.type, offset_bytes)

    def _name(self, offset: int) -> str:
        name: bytes | None = self._lib.btf__name_by_offset(self._handle, offset)
        return name.decode() if name else ""

    def struct_id(self, name: str) -> int | None:
        """The number of `struct name`, None where there is none."""
        return self._find(name, _KIND_STRUCT)

    def has_function(self, name: str) -> bool:
        """Whether the type information describes function `name`; it may be inlined all the same."""
        return self.function_id(name) is not None

    def function_id(self, name: str) -> int | None:
        """The number of function `name` in the type information, None where it is not described."""
        return self._find(name, _KIND_FUNC)

    def own_function_id(self, name: str) -> int | None:
        """The same for a function of the module itself."""
        return self._own.get((name, _KIND_FUNC))


def enable_run_time_statistics() -> int | None:
    """Have the kernel count runs and time of BPF programs while the returned descriptor is open."""
    try:
        fd = int(ctypes.CDLL(LIBBPF).bpf_enable_stats(_BPF_STATS_RUN_TIME))
    except (OSError, AttributeError):  # no libbpf, or one without the function
        return None
    return fd if fd >= 0 else None


@contextmanager
def open_btf(root: Path, module: str = "") -> Iterator[Btf]:
    """BTF of `module` (of vmlinux alone when empty) under `root`/sys/kernel/btf.

    Raises BtfError when libbpf or the type information is missing; freed at the end of the block.
    """
    try:
        lib = load_libbpf()
    except OSError as error:
        raise BtfError(
            f"{LIBBPF} cannot be loaded: install libbpf1 (Debian, Ubuntu) or libbpf (Fedora)"
        ) from error
    handles: list[int] = []
    try:
        for name in ("vmlinux", module) if module else ("vmlinux",):
            path = root / "sys/kernel/btf" / name
            handle = lib.btf__parse_split(str(path).encode(), handles[-1] if handles else None)
            if not handle:
                raise BtfError(f"{path} is missing or cannot be read: no type information for {name}")
            handles.append(handle)
        yield Btf(lib, handles[-1], handles[0] if module else None)
    finally:
        for handle in reversed(handles):
            lib.btf__free(handle)

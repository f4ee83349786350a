# SPDX-License-Identifier: GPL-2.0-or-later
"""A C struct from the list of its members: offsets, size and a decoder, as a compiler lays it out."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Field: TypeAlias = tuple[str, str, int]
"""Name, type, and offset in bytes."""

TYPE_BYTES: Mapping[str, int] = {"u8": 1, "u16": 2, "u32": 4, "s32": 4, "u64": 8, "s64": 8}
TYPE_CODES: Mapping[str, str] = {"u8": "B", "u16": "H", "u32": "I", "s32": "i", "u64": "Q", "s64": "q"}

_PADDING = "padding"


@dataclass(frozen=True)
class Struct:
    """`fields` are its numbers, which `decoder` takes; `offsets` has its arrays and structs too."""

    fields: tuple[Field, ...]
    offsets: Mapping[str, int]
    size_bytes: int
    alignment_bytes: int
    decoder: struct.Struct

    def rows(self, raw: bytes | memoryview) -> Iterator[dict[str, int]]:
        """The numbers of each struct in an array of them, in this machine's byte order."""
        names = [name for name, _, _ in self.fields]
        return (dict(zip(names, row, strict=True)) for row in self.decoder.iter_unpack(raw))


def sums_since(raw: bytes, before: bytes) -> bytes:
    """A struct of sums less an earlier look at it.

    None has become less, so that subtracting all of it as one number subtracts each.
    """
    order = sys.byteorder
    whole = int.from_bytes(raw, order) - int.from_bytes(before, order)
    return (whole % (1 << 8 * len(raw))).to_bytes(len(raw), order)


Member: TypeAlias = str | tuple[str, "str | Struct", int]
"""A number as C declares it, `u32 tid`; or an array: name, type, and how many."""


def lay_out(*members: Member) -> Struct:
    """The struct of these members, in order; those called `padding` only take room."""
    fields: list[Field] = []
    offsets: dict[str, int] = {}
    end, widest = 0, 1
    for member in members:
        name, kind, count = _parse(member)
        size, alignment = _measure(kind)
        widest = max(widest, alignment)
        offset = -(-end // alignment) * alignment
        end = offset + size * count
        if name != _PADDING:
            offsets[name] = offset
        if isinstance(member, str) and isinstance(kind, str) and name != _PADDING:
            fields.append((name, kind, offset))
    size_bytes = -(-end // widest) * widest
    return Struct(tuple(fields), offsets, size_bytes, widest, _decoder(fields, size_bytes))


def _parse(member: Member) -> tuple[str, str | Struct, int]:
    if isinstance(member, str):
        kind, name = member.split()
        return name, kind, 1
    return member


def _measure(kind: str | Struct) -> tuple[int, int]:
    """Size and alignment in bytes."""
    if isinstance(kind, Struct):
        return kind.size_bytes, kind.alignment_bytes
    return TYPE_BYTES[kind], TYPE_BYTES[kind]


def _decoder(fields: list[Field], size_bytes: int) -> struct.Struct:
    """Takes the numbers out of the bytes of a struct, in this machine's byte order."""
    codes, end = "=", 0
    for _, kind, offset in fields:
        codes += f"{offset - end}x{TYPE_CODES[kind]}"
        end = offset + TYPE_BYTES[kind]
    return struct.Struct(f"{codes}{size_bytes - end}x")

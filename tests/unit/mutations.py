# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage for recordings: what disks, networks and strangers do to files, at random but repeatably."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable

from balloontrace.format.guest_layout import FUNCTION_COUNTERS, PAYLOAD, RING_HEADER_BYTES, SPAN
from balloontrace.format.host_layout import BATCH, SAMPLED_BATCH
from balloontrace.format.pieces import MAGIC, SYNC
from balloontrace.format.struct_layout import TYPE_BYTES

_PREAMBLE_BYTES = 16
_HEADER = struct.Struct("<4s4sIIII")
_ODD_VALUES: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    2**64,
    10**400,
    1.5,
    1e308,
    "",
    "\x1b[2J\ud800",
    [],
    [[]],
    {},
    {"": 0},
)

Piece = tuple[bytes, int, bytes]


def split(data: bytes) -> list[Piece]:
    """The pieces of a whole recording: type, sequence, payload."""
    pieces, offset = [], _PREAMBLE_BYTES
    while offset < len(data):
        _, kind, sequence, length, _, _ = _HEADER.unpack_from(data, offset)
        start = offset + _HEADER.size
        pieces.append((kind, sequence, data[start : start + length]))
        offset = start + length
    return pieces


def join(pieces: list[Piece], version: tuple[int, int] = (1, 0)) -> bytes:
    """A recording of these pieces with right checksums, whatever they hold."""
    start = MAGIC + struct.pack("<HH", *version)
    return b"".join([start, struct.pack("<I", zlib.crc32(start)), *(seal(piece) for piece in pieces)])


def seal(piece: Piece) -> bytes:
    """One piece with right checksums."""
    kind, sequence, payload = piece
    checked = struct.pack("<4s4sIII", SYNC, kind, sequence, len(payload), zlib.crc32(payload))
    return checked + struct.pack("<I", zlib.crc32(checked)) + payload


def mutate(data: bytes, source: random.Random) -> bytes:
    """One to three kinds of damage, one after the other."""
    for _ in range(source.choice((1, 1, 2, 3))):
        data = source.choice(_MUTATIONS)(data, source)
    return data


def _truncate(data: bytes, source: random.Random) -> bytes:
    return data[: source.randrange(len(data) + 1)]


def _flip(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 3, 50))):
        if changed:
            changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def _remove(data: bytes, source: random.Random) -> bytes:
    start, length = source.randrange(len(data) + 1), source.choice((1, 64, 1000))
    return data[:start] + data[start + length :]


def _insert(data: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(data) + 1)
    return data[:start] + source.randbytes(source.choice((1, 64, 500))) + data[start:]


def _repeat(data: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(data) + 1)
    chunk = data[start : start + source.choice((24, 200, 5000))]
    where = source.randrange(len(data) + 1)
    return data[:where] + chunk + data[where:]


def _huge_length(data: bytes, source: random.Random) -> bytes:
    """A header that promises more than there is, properly checksummed."""
    checked = struct.pack(
        "<4s4sIII", SYNC, b"SPAN", source.randrange(9), source.choice((2**24, 2**32 - 1)), 0
    )
    where = source.randrange(len(data) + 1)
    return data[:where] + checked + struct.pack("<I", zlib.crc32(checked)) + data[where:]


def _resealed(change: Callable[[list[Piece], random.Random], list[Piece]]) -> Callable[..., bytes]:
    def changed(data: bytes, source: random.Random) -> bytes:
        try:
            return join(change(split(data), source))
        except struct.error:
            return data  # Earlier damage left no pieces to take apart.

    return changed


def _rearrange(pieces: list[Piece], source: random.Random) -> list[Piece]:
    pieces = [*pieces, *source.sample(pieces, source.randrange(len(pieces) + 1))]
    source.shuffle(pieces)
    return pieces[: source.randrange(len(pieces) + 1)]


def _change_payload(pieces: list[Piece], source: random.Random) -> list[Piece]:
    """Bytes inside a payload, with the checksum put right: what a stranger would do."""
    if not pieces:
        return pieces
    index = source.randrange(len(pieces))
    kind, sequence, payload = pieces[index]
    payload = source.choice((_flip, _truncate, _remove, _insert, _flip_words))(payload, source)
    pieces[index] = kind, sequence, payload
    return pieces


def _flip_words(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice((1, 10, 100))):
        start = source.randrange(max(1, len(changed) // 8)) * 8
        changed[start : start + 8] = source.choice(
            (b"\xff" * 8, bytes(8), b"\0" * 7 + b"\x7f", source.randbytes(8))
        )
    return bytes(changed)


def _change_json(pieces: list[Piece], source: random.Random) -> list[Piece]:
    """A value of another type or size somewhere in the metadata, the end record, readings or processes."""
    for index, (kind, sequence, payload) in enumerate(pieces):
        if kind in (b"META", b"ENDR", b"READ", b"PROC") and source.random() < 0.7:
            try:
                value = json.loads(payload)
            except (ValueError, RecursionError):
                continue
            pieces[index] = kind, sequence, json.dumps(_odd(value, source)).encode()
            if source.random() < 0.02:
                pieces[index] = kind, sequence, b'{"a":' + b"[" * 100_000
    return pieces


# Record size, where its fields begin, and the fields, of each type of piece.
_RECORDS: dict[bytes, tuple[int, int, tuple[tuple[str, str, int], ...]]] = {
    b"SPAN": (RING_HEADER_BYTES + SPAN.size_bytes, RING_HEADER_BYTES, SPAN.fields),
    b"PAYL": (RING_HEADER_BYTES + PAYLOAD.size_bytes, RING_HEADER_BYTES, PAYLOAD.fields),
    b"BTCH": (RING_HEADER_BYTES + BATCH.size_bytes, RING_HEADER_BYTES, BATCH.fields),
    b"SMPL": (RING_HEADER_BYTES + SAMPLED_BATCH.size_bytes, RING_HEADER_BYTES, SAMPLED_BATCH.fields),
    b"CNTR": (FUNCTION_COUNTERS.size_bytes, 0, FUNCTION_COUNTERS.fields),
}
_EDGES = (0, 1, 2**31, 2**32, 2**53, 2**61, 2**62, 2**63, 2**64)


def change_fields(pieces: list[Piece], source: random.Random) -> list[Piece]:
    """Impossible values in records, in pieces that are whole: what a stranger would do."""
    pieces = list(pieces)
    for _ in range(source.choice((1, 1, 2, 5, 20))):
        index = source.randrange(len(pieces)) if pieces else 0
        if not pieces or pieces[index][0] not in _RECORDS:
            continue
        kind, sequence, payload = pieces[index]
        stride_bytes, header_bytes, fields = _RECORDS[kind]
        if len(payload) < stride_bytes:
            continue
        _, kind_of_field, offset = source.choice((*fields, *(each for each in fields if "_ns" in each[0])))
        size_bytes, changed = TYPE_BYTES[kind_of_field], bytearray(payload)
        place = source.randrange(len(payload) // stride_bytes) * stride_bytes + header_bytes + offset
        value = int.from_bytes(changed[place : place + size_bytes], "little")
        value = _hostile(value, changed, place, stride_bytes, size_bytes, source)
        changed[place : place + size_bytes] = (value % 2 ** (8 * size_bytes)).to_bytes(size_bytes, "little")
        pieces[index] = kind, sequence, bytes(changed)
    return pieces


def _hostile(
    value: int, records: bytearray, place: int, stride_bytes: int, size_bytes: int, source: random.Random
) -> int:
    """At the edge of some type, near the right value, or the value of another record."""
    match source.randrange(5):
        case 0 | 1:
            return source.choice(_EDGES) + source.choice((-1, 0, 1))
        case 2:
            return value + source.choice((-1, 1)) * int(10 ** source.randrange(10))
        case 3:
            return value * source.choice((0, 1, 4, 2000)) // 2
        case _:
            other = (place + source.randrange(1, 5) * stride_bytes) % max(1, len(records) - size_bytes)
            return int.from_bytes(records[other : other + size_bytes], "little")


def _odd(value: object, source: random.Random) -> object:
    if source.random() < 0.15:
        return source.choice(_ODD_VALUES)
    if isinstance(value, dict) and value:
        key = source.choice(list(value))
        return {**value, key: _odd(value[key], source)}
    if isinstance(value, list) and value:
        index = source.randrange(len(value))
        return [*value[:index], _odd(value[index], source), *value[index + 1 :]]
    return source.choice(_ODD_VALUES)


_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _truncate,
    _flip,
    _remove,
    _insert,
    _repeat,
    _huge_length,
    _resealed(_rearrange),
    _resealed(_change_payload),
    _resealed(_change_json),
    _resealed(change_fields),
)

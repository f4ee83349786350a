# SPDX-License-Identifier: GPL-2.0-or-later
"""Single pieces of a recording, as `format/recording` describes them: finding one, and what it holds."""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from dataclasses import dataclass

from balloontrace.untrusted import made_printable

# The first byte is no text, and the line end tells when a terminal on the way rewrote it.
MAGIC = b"\x89BTRACE\n"
SYNC = b"\xd7\xb1\x8e\xc3"
MAX_PAYLOAD_BYTES = 16 << 20
MAX_JSON_BYTES = 4 << 20
PREAMBLE = struct.Struct("<8sHHI")
PIECE = struct.Struct("<4s4sIIII")
_CHECKED_HEADER_BYTES = PIECE.size - 4

# How a header begins: its type is letters, and the first byte of its length, which comes last, is at most 1.
_HEADER_START = re.compile(re.escape(SYNC) + rb"[ -~]{4}.{7}[\x00\x01]", re.DOTALL)


@dataclass(slots=True)
class Header:
    """What stands before a piece; the checksum of the header itself was right."""

    kind: bytes
    sequence: int
    length: int
    payload_crc: int


def parse_header(data: memoryview, offset: int) -> Header | None:
    """The piece header at `offset`, or None unless its marker, checksum and length are right."""
    raw = bytes(data[offset : offset + PIECE.size])
    if len(raw) < PIECE.size:
        return None
    sync, kind, sequence, length, payload_crc, header_crc = PIECE.unpack(raw)
    if sync != SYNC or header_crc != zlib.crc32(raw[:_CHECKED_HEADER_BYTES]) or length > MAX_PAYLOAD_BYTES:
        return None
    return Header(kind, sequence, length, payload_crc)


def find_header(data: memoryview, start: int) -> int:
    """Offset of the first whole piece header at or after `start`, else the end of the data."""
    # The object behind the view can be searched without a copy.
    whole = data.obj
    assert isinstance(whole, bytes)
    while (found := _HEADER_START.search(whole, start)) is not None:
        if parse_header(data, found.start()) is not None:
            return found.start()
        start = found.start() + 1
    return len(data)


def find_preamble(data: memoryview, start: int, end: int) -> int:
    """Offset of the first whole preamble that begins from `start` on and before `end`, else `end`."""
    whole = data.obj
    assert isinstance(whole, bytes)
    limit = end + len(MAGIC) - 1
    while (start := whole.find(MAGIC, start, limit)) >= 0:
        raw = bytes(data[start : start + PREAMBLE.size])
        if len(raw) == PREAMBLE.size and PREAMBLE.unpack(raw)[3] == zlib.crc32(raw[:-4]):
            return start
        start += 1
    return end


def decode_json(payload: memoryview) -> dict[str, object]:
    """A JSON object; ValueError for anything else. Numbers no finite float holds become None.

    Here every text from a recording becomes printable, once for all that is made of it.
    """
    if len(payload) > MAX_JSON_BYTES:
        raise ValueError("too long")
    value = json.loads(bytes(payload).decode(), parse_float=_finite, parse_constant=lambda _: None)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return made_printable(value)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None

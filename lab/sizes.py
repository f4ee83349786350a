# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes as people write them: "8G", "512M", "997MiB"."""

from __future__ import annotations

import re

from lab.errors import LabError

MIB_BYTES = 1 << 20
PAGE_BYTES = 4096
_UNIT_BYTES = {"": 1, "K": 1 << 10, "M": MIB_BYTES, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)(?:i?B)?\s*", re.IGNORECASE)


def parse_size_bytes(text: str) -> int:
    """Bytes meant by `text`; K, M, G and T are powers of 1024. Raises LabError when it is no size."""
    match = _SIZE.fullmatch(text)
    size_bytes = float(match["number"]) * _UNIT_BYTES[match["unit"].upper()] if match else 0.0
    if size_bytes < 1 or size_bytes != int(size_bytes):
        raise LabError(f"{text!r} is not a size; write for example 8G, 512M or 268435456.")
    return int(size_bytes)


def parse_size_mib(text: str) -> int:
    """Whole MiB meant by `text`. Raises LabError when it is no size or not a whole number of MiB."""
    size_bytes = parse_size_bytes(text)
    if size_bytes % MIB_BYTES:
        raise LabError(f"{text!r} is not a whole number of MiB.")
    return size_bytes // MIB_BYTES


def format_size(size_bytes: int) -> str:
    """The shortest exact way to write a size: `8G`, `997M`, `4K` or plain bytes."""
    for unit in ("T", "G", "M", "K"):
        if size_bytes and size_bytes % _UNIT_BYTES[unit] == 0:
            return f"{size_bytes // _UNIT_BYTES[unit]}{unit}"
    return str(size_bytes)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The page-bitmap format once more, written without a look at the device's decoder, and payloads for both."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from hypothesis import strategies as st

PFN_END = 1 << 52


@dataclass
class Decoded:
    """What is in a payload; `lines` is what `decode-payload` prints for it."""

    lines: list[str] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)
    records: int = 0
    words: int = 0
    plains: int = 0
    bad: list[str] = field(default_factory=list)


def decode(payload: bytes) -> Decoded:
    found = Decoded()
    at = 0
    while at < len(payload):
        at = _decode_one(payload, at, found)
        found.records += 1
    return found


def _decode_one(payload: bytes, at: int, found: Decoded) -> int:
    if at + 8 > len(payload):
        return _bad(found, at, "record cut short", len(payload))
    (value,) = struct.unpack_from("<Q", payload, at)
    pfn, shift, size = value % PFN_END, value // PFN_END % 64, value >> 58
    if size == 0:
        return _decode_plain(found, at, pfn, shift)
    if size != 8:
        return _bad(found, at, "bitmap length neither 0 nor 8", len(payload))
    if at + 16 > len(payload):
        return _bad(found, at, "bitmap word cut short", len(payload))
    (bits,) = struct.unpack_from("<Q", payload, at + 8)
    return _decode_word(found, at, pfn, shift, bits)


def _decode_plain(found: Decoded, at: int, pfn: int, shift: int) -> int:
    if shift < 12:
        return _bad(found, at, "impossible page shift", at + 8)
    pages = 2 ** (shift - 12)
    if pfn + pages > PFN_END:
        return _bad(found, at, "pages beyond 2^52", at + 8)
    found.plains += 1
    found.lines.append(f"plain {at} {pfn} {pages}")
    _run(found, pfn, pages)
    return at + 8


def _decode_word(found: Decoded, at: int, pfn: int, shift: int, bits: int) -> int:
    pages = [pfn + i for i in range(64) if bits >> i & 1]
    if shift != 12:
        return _bad(found, at, "impossible page shift", at + 16)
    if pages and pages[-1] >= PFN_END:
        return _bad(found, at, "pages beyond 2^52", at + 16)
    found.words += 1
    found.lines.append(f"word {at} {pfn} {bits:016x}")
    while pages:
        length = next((i for i in range(len(pages)) if pages[i] != pages[0] + i), len(pages))
        _run(found, pages[0], length)
        pages = pages[length:]
    return at + 16


def _run(found: Decoded, pfn: int, pages: int) -> None:
    found.runs.append((pfn, pages))
    found.lines.append(f"run {pfn} {pages}")


def _bad(found: Decoded, at: int, why: str, end: int) -> int:
    found.bad.append(why)
    found.lines.append(f"bad {at} {why}")
    return end


def _record(pfn: int, shift: int, size: int, tail: bytes) -> bytes:
    return struct.pack("<Q", pfn | shift << 52 | size << 58) + tail


BITS = st.one_of(
    st.sampled_from([0, 1, 1 << 63, 2**64 - 1, 2**64 - 2, 2**63 - 1, 0x5555_5555_5555_5555]),
    st.integers(0, 2**64 - 1),
)


def words(pfns: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda pfn, bits: _record(pfn, 12, 8, struct.pack("<Q", bits)), pfns, BITS)


def plains(pfns: st.SearchStrategy[int], orders: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda pfn, order: _record(pfn, 12 + order, 0, b""), pfns, orders)


def payloads(
    pfns: st.SearchStrategy[int], orders: st.SearchStrategy[int], *, most: int = 24
) -> st.SearchStrategy[bytes]:
    """Valid records, records that cannot be, raw bytes, and all of it cut short or not."""
    anything = st.builds(
        _record, pfns, st.integers(0, 63), st.one_of(st.sampled_from([0, 8]), st.integers(0, 63)),
        st.binary(max_size=16),
    )  # fmt: skip
    record = st.one_of(words(pfns), plains(pfns, orders), anything, st.binary(max_size=16))
    valid = st.lists(st.one_of(words(pfns), plains(pfns, orders)), max_size=most)
    whole = st.one_of(valid, st.lists(record, max_size=most)).map(b"".join)
    return st.one_of(whole, st.builds(lambda data, cut: data[: len(data) - cut], whole, st.integers(0, 15)))

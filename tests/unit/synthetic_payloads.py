# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows whose sends carry payloads, and records of the page-bitmap driver."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from flows import Flow
from patched_flows import PatchedFlow

from balloontrace.format.vocabulary import Function, Queue

BASE_PFN = 1 << 20
PAGE_SHIFT = 12


def run(pfn: int, order: int) -> bytes:
    """A plain record: 2^order pages."""
    return struct.pack("<Q", pfn | (PAGE_SHIFT + order) << 52)


def word(pfn: int, bits: int) -> bytes:
    """A record with a word of bitmap."""
    return struct.pack("<QQ", pfn | PAGE_SHIFT << 52 | 8 << 58, bits)


class NamingFlow(PatchedFlow):
    """Sends that carry what they are told to, in order; None is a payload that was not captured."""

    def __init__(self, carried: Sequence[bytes | None], sends_of_windows: tuple[int, ...] = (1,)) -> None:
        super().__init__(sends_of_windows=sends_of_windows)
        self._carried = iter(carried)

    def _send_records(self, queue: Queue, count: int, *, tid: int) -> int:
        data = next(self._carried)
        taken_ns = super()._send_records(queue, count if data is None else len(data), tid=tid)
        if data is not None:
            self.carry(Function.SEND_RESP_DATA, data, tid=tid)
        return taken_ns


class ArrayFlow(Flow):
    """The stock driver, with the page numbers of each send from BASE_PFN on downwards, as allocators give."""

    next_pfn = BASE_PFN

    def _send(self, queue: Queue, pages: int, *, tid: int) -> int:
        taken_ns = super()._send(queue, pages, tid=tid)
        pfns = np.arange(self.next_pfn, self.next_pfn - pages, -1, dtype="<u4")
        self.next_pfn -= pages
        self.carry(Function.TELL_HOST, pfns.tobytes(), tid=tid)
        return taken_ns

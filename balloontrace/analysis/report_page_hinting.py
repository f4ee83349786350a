# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page hinting: from the first command id of a migration until all pages are back.

It moves no balloon and no memory of the host: it is part of no stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.guest_side import GuestRecording
from balloontrace.analysis.metadata import integer, mapping
from balloontrace.analysis.nesting import Nesting
from balloontrace.analysis.report_operations import device_name
from balloontrace.format.balloon_size import kernel_page_in_pages
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.results.page_hinting import (
    ANOTHER_COMMAND,
    DONE,
    NO_BLOCK_LEFT,
    SHRINKER,
    STOPPED,
    HintOperation,
    HintReturn,
    HintRound,
    PageHinting,
)
from balloontrace.units import rate_bytes_per_s

# VIRTIO_BALLOON_CMD_ID_STOP and _DONE in include/uapi/linux/virtio_balloon.h
_STOP_ID, _DONE_ID = 0, 1
_MOST_ORDER = 20


@dataclass(frozen=True, slots=True)
class Hints:
    """`struct bt_hint` of some spans as columns; they mean nothing but where `known`."""

    known: Mask
    command_id: Column
    received_id: Column
    returned_pages: Column
    held_blocks: Column


def hints_of(spans: Spans, rows: NDArray[np.intp]) -> Hints:
    """In place of three fields that no such call has."""
    known = spans.of(Function.REPORT_FREE_PAGE_FUNC) & spans.has(SpanFlag.PAGES)
    last = spans.int64("config_ns")[rows]
    return Hints(
        known[rows],
        spans.int64("target_pages")[rows],
        spans.int64("actual_pages")[rows],
        last & 0xFFFFFFFF,
        last >> 32 & 0xFFFFFFFF,
    )


def measure_hinting(guest: GuestRecording, spans: Spans, nesting: Nesting) -> PageHinting | None:
    """What was hinted; None where that was not traced."""
    if Function.REPORT_FREE_PAGE_FUNC not in guest.traced:
        return None
    work = np.flatnonzero(spans.of(Function.REPORT_FREE_PAGE_FUNC))
    order = integer(mapping(guest.recording.metadata, "page_hinting"), "order")
    order = order if order is not None and order <= _MOST_ORDER else None
    unit_pages = kernel_page_in_pages(guest.header.machine.page_size_bytes) or 1
    names = {device.index: device.name for device in guest.header.devices if device.index is not None}
    found = sorted(
        _find_operations(spans, nesting, None if order is None else unit_pages << order),
        key=lambda each: each.started_ns,
    )
    return PageHinting(
        calls=len(work),
        calls_ns=int(spans.int64("duration_ns")[work].sum()),
        unknown_calls=int(np.count_nonzero(~hints_of(spans, work).known)),
        order=order,
        operations=tuple(each.described(number, names) for number, each in enumerate(found, start=1)),
    )


@dataclass(slots=True)
class _UnderWay:
    """An operation as far as it went."""

    device: int
    started_ns: int
    block_pages: int | None
    ended_ns: int | None = None
    held_pages: int | None = None
    rounds: list[HintRound] = field(default_factory=list)
    returns: dict[str, HintReturn] = field(default_factory=dict)

    def blocks(self, pages: int) -> int | None:
        return pages // self.block_pages if self.block_pages else None

    def take_back(self, why: str, start_ns: int, duration_ns: int, pages: int) -> None:
        before = self.returns.get(why, HintReturn(why, 0, start_ns, 0, 0, 0))
        self.returns[why] = replace(
            before,
            calls=before.calls + 1,
            duration_ns=before.duration_ns + duration_ns,
            blocks=self.blocks(before.pages + pages),
            pages=before.pages + pages,
        )

    def described(self, number: int, names: Mapping[int, str]) -> HintOperation:
        pages = sum(each.pages for each in self.rounds)
        sending_ns = sum(each.duration_ns for each in self.rounds)
        return HintOperation(
            number=number,
            device=device_name(self.device, names),
            started_ns=self.started_ns,
            wall_ns=None if self.ended_ns is None else self.ended_ns - self.started_ns,
            blocks=self.blocks(pages),
            pages=pages,
            sending_ns=sending_ns,
            rate_bytes_per_s=rate_bytes_per_s(pages, sending_ns),
            held_pages=self.held_pages,
            rounds=tuple(self.rounds),
            returns=tuple(self.returns.values()),
        )


def _find_operations(spans: Spans, nesting: Nesting, block_pages: int | None) -> Iterator[_UnderWay]:
    """Calls in the order of their ends, which is that of what they did to the driver's blocks."""
    shrinker = spans.of(Function.VIRTIO_BALLOON_SHRINKER_SCAN)
    which = np.flatnonzero((shrinker | spans.of(Function.REPORT_FREE_PAGE_FUNC)) & spans.has(SpanFlag.PAGES))
    which = which[np.argsort(spans.end_ns[which], kind="stable")]
    hints = hints_of(spans, which)
    columns = (
        nesting.device[which], shrinker[which], spans.int64("start_ns")[which],
        spans.int64("duration_ns")[which], spans.int64("pages")[which], hints.command_id, hints.received_id,
        hints.returned_pages, hints.held_blocks,
    )  # fmt: skip
    under_way: dict[int, _UnderWay] = {}
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for device, by_shrinker, start_ns, duration_ns, count, command, received, returned, held_blocks in rows:
        if not (count or command or returned or device in under_way):
            continue  # it had nothing to do
        operation = under_way.setdefault(device, _UnderWay(device, start_ns, block_pages))
        operation.started_ns = min(operation.started_ns, start_ns)
        if by_shrinker:
            operation.take_back(SHRINKER, start_ns, duration_ns, count)
            if operation.held_pages is not None:
                operation.held_pages = max(0, operation.held_pages - count)
            continue
        operation.held_pages = held_blocks * block_pages if block_pages else None
        if command:
            rate = rate_bytes_per_s(count, duration_ns)
            blocks, ended_by = operation.blocks(count), _why_ended(command, received)
            operation.rounds.append(HintRound(command, start_ns, duration_ns, blocks, count, rate, ended_by))
        elif received == _DONE_ID:
            operation.take_back(DONE, start_ns, duration_ns, returned)
            operation.ended_ns = start_ns + duration_ns
            yield under_way.pop(device)
    yield from under_way.values()


def _why_ended(command: int, received: int) -> str:
    words = {command: NO_BLOCK_LEFT, _STOP_ID: STOPPED, _DONE_ID: DONE}
    return words.get(received, ANOTHER_COMMAND)

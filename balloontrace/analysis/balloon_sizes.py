# SPDX-License-Identifier: GPL-2.0-or-later
"""Size and target of each balloon at both ends of a recording, and what left it outside of work items.

What the recorder read of the device counts most, then the kernel's counts since boot, which tell one
balloon's size; of a recording that has neither, or was cut off, what the driver itself was seen to count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.analysis.nesting import NO_SPAN, UNKNOWN_DEVICE, Nesting
from balloontrace.analysis.operations import Operations
from balloontrace.format.balloon_size import VMSTAT, BalloonSize, count_balloon_pages, kernel_page_in_pages
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.results.balloon import Balloon, BalloonState, GivenBack
from balloontrace.results.other_operation import OUT_OF_MEMORY
from balloontrace.results.recording_header import Header
from balloontrace.units import off_target_pages

SENDS = frozenset({Function.TELL_HOST, Function.SEND_RESP_DATA})
"""The functions of which one traced shows sends."""

DRIVER = "driver's num_pages"
LAST_READ = "last read by the driver"

REMOVED = "driver removed or frozen"
FAILED_COMPACTION = "compaction that failed"

_ENOENT = -2
_NOT_THERE = BalloonState(False, None, None, None, None)


@dataclass(frozen=True, slots=True)
class Moves:
    """The sends that change a balloon's size: when each ended, whose it is, and by how many pages.

    Compaction is none of them: it takes in one page for each that it gives back.
    """

    spans: Column  # their places among the spans
    end_ns: Column
    device: Column
    pages: Column  # positive inflates

    def sum_of(self, which: Mask) -> int:
        """Pages of some of them."""
        return int(self.pages[which].sum())


@dataclass(frozen=True, slots=True)
class Told:
    """What a recording says of its balloons at one end of it."""

    sizes: Mapping[str, BalloonSize]
    all_pages: int | None  # in all balloons, by /proc/vmstat

    @property
    def alone(self) -> str | None:
        """The only balloon there is."""
        present = [name for name, size in self.sizes.items() if size.present]
        return present[0] if len(present) == 1 else None


def find_moves(spans: Spans, nesting: Nesting, traced: Set[Function]) -> Moves | None:
    """The moves of a recording; None where some were not seen, or not which way or how far they went."""
    which = (nesting.send | spans.of(Function.SET_PAGE_BITMAP)) & spans.has(SpanFlag.PAGES)
    which &= nesting.migrate == NO_SPAN
    known = bool(SENDS & traced) and pages_of_sends_known(spans, nesting)
    if not known or not spans.has(SpanFlag.QUEUE)[which].all():
        return None
    signed = spans.directions * spans.int64("pages")
    return Moves(np.flatnonzero(which), spans.end_ns[which], nesting.device[which], signed[which])


def pages_of_sends_known(spans: Spans, nesting: Nesting) -> bool:
    """Whether sends, or what leads to them, say how many pages they name; not without type information."""
    counting = nesting.send | spans.of(Function.SET_PAGE_BITMAP)
    return bool(spans.has(SpanFlag.PAGES)[counting].any() or not nesting.send.any())


def tell_sizes(
    header: Header, recorded: Iterable[BalloonSize], vmstat: Mapping[str, int], before: Told | None = None
) -> Told:
    """What is known of each balloon at one end of a recording, `before` being its start.

    Recordings before 1.2 say nothing of their balloons but /proc/vmstat, and which there were at the start.
    """
    names = list(before.sizes) if before else [device.name for device in header.devices]
    sizes = {name: BalloonSize(name, present=True) for name in names}
    sizes |= {each.device: each for each in recorded}
    return Told(sizes, count_balloon_pages(vmstat, header.machine.page_size_bytes))


def sizes_without_doubt(told: Told, header: Header) -> Mapping[int, int]:
    """Size of each balloon at one end, by its index; none where the kernel counts other pages.

    It counts a page when the driver takes it, the device when the driver says so: they differ while a work
    item is under way.
    """
    pages = {name: size.size_pages for name, size in told.sizes.items() if size.present}
    if told.all_pages is None or told.all_pages != sum(each or 0 for each in pages.values()):
        return {}
    indices = {each.name: each.index for each in header.devices}
    found = [(_index_of(name, indices), each) for name, each in pages.items() if each is not None]
    # Of the only one there is, everything.
    return dict([*found, *((UNKNOWN_DEVICE, each) for _, each in found if len(pages) == 1)])


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of one balloon: the driver's calls for it, and its moves where all of them are known."""

    index: int
    unit_pages: int  # what its driver moves at least
    spans: Spans
    nesting: Nesting
    mine: Mask
    moves: Moves | None
    removals: Mask

    @property
    def moved(self) -> Mask | None:
        """Which moves are its own; None where it is not known."""
        if self.moves is None:
            return None
        mine: Mask = self.mine[self.moves.spans]
        return mine if mine.all() or not (self.moves.device == UNKNOWN_DEVICE).any() else None

    def size_after(self, start_pages: int | None, until_ns: int | None = None) -> int | None:
        """Its size at a time, by its size at the start and what moved since; None where that cannot be."""
        moved = self.moved
        if moved is None or self.moves is None or start_pages is None:
            return None
        if until_ns is not None:
            moved = moved & (self.moves.end_ns <= until_ns)
        pages = start_pages + self.moves.sum_of(moved)
        return pages if pages >= 0 else None

    def given_back(self, which: Mask) -> int | None:
        """Pages that some calls have given back; None where one does not say.

        By those of leak_balloon among them, which return it. Where there are none, sends tell.
        """
        spans = self.spans
        leaks = which & spans.of(Function.LEAK_BALLOON)
        counted = leaks if leaks.any() else which & self.nesting.send
        said = spans.has(SpanFlag.PAGES) | spans.has(SpanFlag.RESULT)
        if not said[counted].all():
            return None
        returned = np.maximum(spans.measured("result", SpanFlag.RESULT), 0)
        return int(np.where(spans.has(SpanFlag.PAGES), spans.int64("pages"), returned)[counted].sum())

    def last(self, name: str, flag: SpanFlag, until_ns: int | None = None) -> int | None:
        """What a field was in the call that returned last."""
        end_ns, which = self.spans.end_ns, self.mine & self.spans.has(flag)
        rows = np.flatnonzero(which if until_ns is None else which & (end_ns <= until_ns))
        return int(self.spans.int64(name)[rows[np.argmax(end_ns[rows])]]) if len(rows) else None


def watch(device: str, header: Header, told: Told, operations: Operations, moves: Moves | None) -> Watched:
    """What was seen of a balloon. Of the only one there is, everything."""
    indices = {each.name: each.index for each in header.devices}
    index = _index_of(device, indices)
    spans, nesting = operations.spans, operations.nesting
    mine: Mask = nesting.device == index
    alone = len(told.sizes) == 1
    unit_pages = kernel_page_in_pages(header.machine.page_size_bytes) or 1
    mine = np.ones_like(mine) if alone else mine
    return Watched(index, unit_pages, spans, nesting, mine, moves, operations.removals)


def _index_of(name: str, indices: Mapping[str, int | None]) -> int:
    index = indices.get(name)
    number = name.removeprefix("virtio")
    if index is None and number.isdecimal() and len(number) < 10:
        return int(number)
    return UNKNOWN_DEVICE - 1 if index is None else index


def describe_balloon(device: str, start: Told, end: Told, seen: Watched) -> Balloon:
    """One balloon that was there at the start or at the end."""
    at_start = independent_state(start, device)
    at_end = _by_driver(independent_state(end, device), seen)
    below_pages, above_pages = off_target_pages(at_end.size_pages, at_end.target_pages, seen.unit_pages)
    given_back = tuple(_given_back(size_to_count_from(at_start), seen))
    return Balloon(device, at_start, at_end, below_pages, above_pages, given_back)


def independent_state(told: Told, device: str) -> BalloonState:
    """A balloon at one end, by what the driver's own counts have no part in."""
    read = told.sizes.get(device)
    if read is None or not read.present:
        return _NOT_THERE
    size_pages, source = read.size_pages, read.source
    if size_pages is None and told.alone == device and told.all_pages is not None:
        size_pages, source = told.all_pages, VMSTAT
    return BalloonState(
        present=True,
        size_pages=size_pages,
        size_source=None if size_pages is None else source,
        target_pages=read.target_pages,
        target_source=None if read.target_pages is None else read.source,
    )


def size_to_count_from(at_start: BalloonState) -> int | None:
    """What moves add to; a balloon that came later began empty."""
    return 0 if at_start.present is False else at_start.size_pages


def _by_driver(state: BalloonState, seen: Watched) -> BalloonState:
    """What is still unknown at the end, by the last that the driver was seen to count or read."""
    if not state.present:
        return state
    size_pages, size_source = state.size_pages, state.size_source
    if size_pages is None:
        size_pages = seen.last("actual_pages", SpanFlag.ACTUAL)
        size_source = None if size_pages is None else DRIVER
    target_pages, target_source = state.target_pages, state.target_source
    if target_pages is None:
        target_pages = seen.last("target_pages", SpanFlag.TARGET)
        target_source = None if target_pages is None else LAST_READ
    return BalloonState(state.present, size_pages, size_source, target_pages, target_source)


def _given_back(start_pages: int | None, seen: Watched) -> Iterator[GivenBack]:
    """What left the balloon other than by a work item; kinds that did not occur are left out."""
    spans, nesting = seen.spans, seen.nesting
    removals = seen.removals
    # A compaction that cannot take its new page in has given the old one back all the same.
    failed = spans.measured("result", SpanFlag.RESULT) == _ENOENT
    kinds = (
        (OUT_OF_MEMORY, spans.of(Function.VIRTIO_BALLOON_OOM_NOTIFY), nesting.oom != NO_SPAN),
        (REMOVED, removals, removals),
        (FAILED_COMPACTION, spans.of(Function.VIRTBALLOON_MIGRATEPAGE) & failed, None),
    )
    for how, which, given in kinds:
        calls = which & seen.mine
        count = int(np.count_nonzero(calls))
        if not count:
            continue
        end_ns = int(spans.end_ns[calls].max())
        pages = count * seen.unit_pages if given is None else seen.given_back(given & seen.mine)
        size_pages = seen.size_after(start_pages, end_ns)
        target_pages = seen.last("target_pages", SpanFlag.TARGET, end_ns)
        below_pages, _ = off_target_pages(size_pages, target_pages, seen.unit_pages)
        yield GivenBack(how, count, pages, below_pages)

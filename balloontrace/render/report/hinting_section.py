# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page hinting for people: what the host was told of in each migration, and how pages came back."""

from __future__ import annotations

from collections.abc import Iterator

from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Line, Section, words
from balloontrace.results.page_hinting import DONE, HintOperation, PageHinting
from balloontrace.units import format_things

_LISTED = 8


def describe_hinting(hinting: PageHinting | None) -> Section:
    """A few lines an operation; nothing where hints were not traced."""
    return [] if hinting is None else list(_lines(hinting))


def _lines(hinting: PageHinting) -> Iterator[Line | Item]:
    if not hinting.operations:
        calls = words(" in {}", numbers.things(hinting.calls, "call")) if hinting.calls else ""
        yield Line(words("Page hinting: none{}", calls))
    for operation in hinting.operations[:_LISTED]:
        yield Line(
            words(
                "Page hinting {} of {}: {}, {} in {} ({}); {}",
                str(operation.number),
                operation.device,
                numbers.things(operation.blocks, "block"),
                numbers.pages(operation.pages),
                numbers.duration(operation.sending_ns),
                numbers.rate(operation.rate_bytes_per_s),
                "not done"
                if operation.wall_ns is None
                else words("done after {}", numbers.duration(operation.wall_ns)),
            )
        )
        yield from _details(operation)
    yield from _rest(len(hinting.operations), "operation")
    if hinting.unknown_calls:
        yield Line(words("what {} did is not known", numbers.things(hinting.unknown_calls, "call")))


def _details(operation: HintOperation) -> Iterator[Item]:
    for each in operation.rounds[:_LISTED]:
        yield Item(
            words(
                "command {}: {} in {}, until {}",
                str(each.command_id),
                numbers.pages(each.pages),
                numbers.duration(each.duration_ns),
                each.ended_by,
            )
        )
    yield from _rest(len(operation.rounds), "command")
    for back in operation.returns:
        yield Item(
            words(
                "given back {}: {} in {} ({}), {} after the first command",
                "when done" if back.why == DONE else "for want of memory",
                numbers.pages(back.pages),
                numbers.things(back.calls, "call"),
                numbers.duration(back.duration_ns),
                numbers.duration(back.started_ns - operation.started_ns),
            )
        )
    if operation.held_pages and operation.wall_ns is None:
        yield Item(words("still held: {}", numbers.pages(operation.held_pages)))


def _rest(count: int, one: str) -> Iterator[Item]:
    if count > _LISTED:
        yield Item(f"and {format_things(count - _LISTED, f'more {one}', f'more {one}s')}")

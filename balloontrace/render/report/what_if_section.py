# SPDX-License-Identifier: GPL-2.0-or-later
"""What the pages of an operation would have taken in other formats, as text."""

from __future__ import annotations

from collections.abc import Iterator

from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Section, Table, Text, Title, words
from balloontrace.results.operation import Operation
from balloontrace.results.what_if import FORMAT_NAMES, FormatEstimate, WhatIf

_NAMES = ("format", "sends", "records", "bytes", "host calls", "at least", "estimate", "at most")
_AS_SENT = "as it was"


def describe_what_if(operation: Operation) -> list[Section]:
    """A table with the operation itself first, then what was assumed; nothing where nothing is told."""
    if operation.what_if is None:
        return []
    what_if = operation.what_if
    title = f"Operation {operation.number} with its pages in other formats (counted and estimated)"
    rows = [_measured(operation), *(_row(each) for each in what_if.formats)]
    return [[Title(title), Table(_NAMES, rows, "lrrrrrrr"), *_remarks(what_if)]]


def _measured(operation: Operation) -> tuple[Text, ...]:
    payload, served = operation.payload, operation.served
    wall = numbers.duration(operation.wall_ns)
    return (
        _AS_SENT,
        numbers.count(operation.sends),
        numbers.count(payload.pages_named if payload else None),
        numbers.size(payload.bytes_sent if payload else None),
        numbers.count(served.calls if served else None),
        wall,
        wall,
        wall,
    )


def _row(each: FormatEstimate) -> tuple[Text, ...]:
    return (
        FORMAT_NAMES.get(each.format, each.format),
        numbers.count(each.sends),
        numbers.count(each.records),
        numbers.size(each.bytes_sent),
        numbers.count(each.host_calls),
        numbers.duration(each.least_ns),
        numbers.duration(each.estimate_ns),
        numbers.duration(each.most_ns),
    )


def _remarks(what_if: WhatIf) -> Iterator[Item]:
    yield Item(
        words(
            "of {} {} are in whole blocks of 2 MiB",
            numbers.things(what_if.pages, "page"),
            numbers.count(512 * what_if.whole_blocks),
        )
    )
    for sentence in what_if.assumptions:
        yield Item(f"assumed: {sentence}")
    for sentence in what_if.unknown:
        yield Item(f"not known: {sentence}")

# SPDX-License-Identifier: GPL-2.0-or-later
"""The rounds of a measurement for people: rates as they are published, then where the time went."""

from __future__ import annotations

from balloontrace.render import numbers
from balloontrace.render.blocks import Line, Number, Section, Table, Title, words
from balloontrace.results.measurement import Measurement, Move, Summary
from balloontrace.units import NOT_MEASURED, format_pages_as_bytes, format_share, format_things

_FEWEST = 6
_NAME_COLUMNS = 24


def describe_measurement(found: Measurement) -> list[Section]:
    """All of it; sections with nothing in them are those that do not apply."""
    return [
        [Title(headline(found)), *([Line(f"state: {found.state}")] if found.state else [])],
        [Line(f"WARNING: {warning}") for warning in found.warnings],
        [rate_table(found)] if any(move.rates for move in found.moves) else [],
        *([Title(title(move)), time_table(move), *notes(move)] for move in found.moves if _is_known(move)),
        [Line(f"left out: {each}") for each in found.left_out],
        [Line(f"{each.name}: {each.value}") for each in found.conditions],
    ]


def headline(found: Measurement) -> str:
    """Which VM, and how often."""
    return f"{found.vm or 'VM'}: {format_things(found.rounds, 'round')} in {found.folder}"


def title(move: Move) -> str:
    """`inflate of 7.00 GiB`."""
    return f"{move.kind} of {format_pages_as_bytes(move.pages)}"


def rate_table(found: Measurement) -> Table:
    """GiB/s, by the names under which others publish them."""
    rows = [(rate.label, str(rate.n), *_values(rate)) for move in found.moves for rate in move.rates]
    return Table(("rate", "n", "median", "95 % from", "to", "lowest", "highest"), rows, "lrrrrrr")


def time_table(move: Move) -> Table:
    """Wall time and stages."""
    driven = [] if move.driven is None else [move.driven]
    rows = [
        (row.label, str(row.n), *_values(row), Number(format_share(row.share), row.share))
        for row in (*move.times, *driven)
    ]
    names = ("stage", "n", "median", "95 % from", "to", "min", "max", "share")
    return Table(names, rows, "lrrrrrrr", {0: _NAME_COLUMNS})


def notes(move: Move) -> Section:
    """What there is to say of a table."""
    found = []
    if move.first_wall_ns is not None:
        found.append(Line(words("the round before the first took {}", numbers.duration(move.first_wall_ns))))
    counted = next((row.n for row in (*move.times, move.driven) if row is not None), 0)
    if counted < _FEWEST:
        found.append(Line(f"{counted} rounds give no interval of the median: take {_FEWEST} or more"))
    return found


def _is_known(move: Move) -> bool:
    return bool(move.times) or move.driven is not None


def _values(row: Summary) -> tuple[Number, ...]:
    shown = numbers.rate if row.unit == "B/s" else numbers.duration
    values = (row.median, row.low, row.high, row.minimum, row.maximum)
    return tuple(Number(NOT_MEASURED, None) if value is None else shown(value) for value in values)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Compaction that moved too many pages to write a span of each: its calls are known as sums alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from balloontrace.format.vocabulary import Function
from balloontrace.results.recorder import Loss
from balloontrace.results.report import Outside
from balloontrace.units import format_things

MIGRATIONS = "virtballoon_migratepage (page compaction)"
SENDS_OF_MIGRATIONS = "send of virtballoon_migratepage"

_SENDING = (Function.TELL_HOST.symbol, Function.SEND_RESP_DATA.symbol)


@dataclass(frozen=True, slots=True)
class Summed:
    """Calls without a span; `moved_pages` are those of migrations that succeeded, in 4 KiB units."""

    migrations: int = 0
    migrations_ns: int = 0
    moved_pages: int = 0
    sends: int = 0
    sends_ns: int = 0
    sent_pages: int = 0

    def __bool__(self) -> bool:
        return bool(self.migrations or self.sends)

    def warnings(self) -> list[str]:
        """What a reader has to know of them."""
        if not self:
            return []
        calls = format_things(self.migrations, "migration by compaction", "migrations by compaction")
        sums = f"{calls} with {format_things(self.sends, 'send')} are known as sums alone"
        return [f"{sums}: the buffer had no room for an event of each; a larger --buffer keeps more"]

    def added_to(self, outside: Sequence[Outside]) -> tuple[Outside, ...]:
        """The calls outside of operations, those without a span among them."""
        if not self:
            return tuple(outside)
        mine = (
            Outside(MIGRATIONS, self.migrations, None, self.migrations_ns),
            Outside(SENDS_OF_MIGRATIONS, self.sends, self.sent_pages or None, self.sends_ns),
        )
        known = {each.what: each for each in outside}
        sums = tuple(_sum(known.get(each.what), each) for each in mine if each.calls)
        names = {each.what for each in sums}
        return (*sums, *(each for each in outside if each.what not in names))


def find_summed(losses: Iterable[Loss]) -> Summed:
    """What the recorder says it summed up; recordings before format 1.4 have a span of each call."""
    by_name = {loss.function: loss for loss in losses}
    migrations = by_name.get(Function.VIRTBALLOON_MIGRATEPAGE.symbol, Loss(""))
    sends = [by_name[name] for name in _SENDING if name in by_name]
    return Summed(
        migrations.summed or 0,
        migrations.summed_ns or 0,
        migrations.summed_pages or 0,
        sum(loss.summed or 0 for loss in sends),
        sum(loss.summed_ns or 0 for loss in sends),
        sum(loss.summed_pages or 0 for loss in sends),
    )


def _sum(one: Outside | None, other: Outside) -> Outside:
    if one is None:
        return other
    pages = [each.pages for each in (one, other) if each.pages is not None]
    return replace(
        other,
        calls=one.calls + other.calls,
        pages=sum(pages) if pages else None,
        total_ns=one.total_ns + other.total_ns,
    )

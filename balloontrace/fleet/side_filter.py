# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person names as one side of a comparison: a week, a month, a day, or a kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from balloontrace.errors import UsageError
from balloontrace.units import NS_PER_S

if TYPE_CHECKING:
    import ibis.expr.types as ir

_WEEK = re.compile(r"(\d{4})-?W(\d{1,2})")
_MONTH = re.compile(r"(\d{4})-(\d{2})")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class SideFilter:
    """Operations from a moment until before another (ns since 1970, UTC), or of a kernel."""

    from_ns: int | None = None
    until_ns: int | None = None
    kernel: str | None = None

    def holds(self, table: ir.Table) -> ir.BooleanValue:
        """Of which rows it is true."""
        if self.kernel is not None:
            if self.kernel.endswith("*"):
                return table.kernel_release.startswith(self.kernel[:-1])
            return table.kernel_release == self.kernel
        return (table.started_at_ns >= self.from_ns) & (table.started_at_ns < self.until_ns)


def parse_side(text: str) -> SideFilter:
    """`2026-W48`, `2026-11`, `2026-11-29`; anything else is a kernel's release, `6.12*` any that begins so.

    UsageError for a day that no calendar has.
    """
    try:
        if match := _WEEK.fullmatch(text):
            first = date.fromisocalendar(int(match[1]), int(match[2]), 1)
            return _between(first, first + timedelta(days=7))
        if match := _MONTH.fullmatch(text):
            first = date(int(match[1]), int(match[2]), 1)
            return _between(first, (first + timedelta(days=31)).replace(day=1))
        if _DAY.fullmatch(text):
            first = date.fromisoformat(text)
            return _between(first, first + timedelta(days=1))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is in no calendar: {error}") from error
    if not text.strip("*"):
        raise UsageError("a side is a week (2026-W48), a month, a day, or a kernel's release")
    return SideFilter(kernel=text)


def _between(first: date, end: date) -> SideFilter:
    return SideFilter(_start_ns(first), _start_ns(end))


def _start_ns(day: date) -> int:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return int(midnight.timestamp()) * NS_PER_S

# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers as people read them, each with its exact value beside its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from balloontrace.render.blocks import Number, Text
from balloontrace.units import (
    NOT_MEASURED,
    format_bytes,
    format_count,
    format_duration_ns,
    format_pages_as_bytes,
    format_rate,
    format_share,
    name_of_many,
)


def _in_unit(unit: str, shown: Callable[[Any], str]) -> Callable[[float | None], Number]:
    return lambda value: Number(shown(value), value, unit)


def format_ratio(value: float | None) -> str:
    """Three digits, or all of those before the point."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.3g}" if abs(value) < 1000 else format_count(round(value))


count = _in_unit("", format_count)
pages = _in_unit("pages", format_pages_as_bytes)
size = _in_unit("B", format_bytes)
duration = _in_unit("ns", format_duration_ns)
rate = _in_unit("B/s", format_rate)
share = _in_unit("", format_share)
ratio = _in_unit("", format_ratio)


def things(number: int | None, one: str, many: str | None = None) -> Text:
    """How many of something, and its name for one or for many."""
    return count(number), f" {name_of_many(number, one, many)}"

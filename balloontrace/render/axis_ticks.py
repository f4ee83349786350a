# SPDX-License-Identifier: GPL-2.0-or-later
"""Round numbers for the axes of pictures."""

from __future__ import annotations

from balloontrace.units import GIB_BYTES, NS_PER_S, pages_to_bytes

_TIME_UNITS = ((NS_PER_S, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns"))
_PAGE_UNITS = ((GIB_BYTES, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def time_ticks(most_ns: int, count: int) -> list[tuple[int, str]]:
    """At most `count` + 1 round times from 0 to `most_ns`, and what to write there."""
    if most_ns <= 0:
        return [(0, "0 s")]
    step_ns = 1
    factors = (2, 2.5, 2)  # 1, 2, 5, 10, ...
    turn = 0
    while most_ns / step_ns > count:
        step_ns = round(step_ns * factors[turn % 3])
        turn += 1
    scale, unit = next((scale, unit) for scale, unit in _TIME_UNITS if step_ns >= scale or scale == 1)
    # 0.5 s rather than 500 ms where the axis goes on for seconds.
    scale, unit = next(
        ((larger, word) for larger, word in _TIME_UNITS if most_ns >= 2 * larger and step_ns * 10 >= larger),
        (scale, unit),
    )
    return [(at, f"{at / scale:g} {unit}") for at in range(0, most_ns + 1, step_ns)]


def size_ticks(most_pages: int, count: int) -> list[tuple[int, str]]:
    """At most `count` round sizes above 0 up to `most_pages`, in pages, and what to write there."""
    step_pages = 1
    while most_pages / step_pages > count:
        step_pages *= 2
    return [(pages, _round_size(pages)) for pages in range(step_pages, most_pages + 1, step_pages)]


def _round_size(pages: int) -> str:
    size_bytes = pages_to_bytes(pages)
    scale, unit = next((scale, unit) for scale, unit in _PAGE_UNITS if size_bytes % scale == 0)
    return f"{size_bytes // scale} {unit}"

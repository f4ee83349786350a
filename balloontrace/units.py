# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers into words for people: durations, sizes, rates, shares; None is always "-", never 0."""

from __future__ import annotations

import math

from balloontrace.format.vocabulary import BALLOON_PAGE_BYTES

NOT_MEASURED = "-"
ESTIMATED = "~"
NS_PER_S = 1_000_000_000
GIB_BYTES = 1 << 30

_DURATION_STEPS = ((NS_PER_S, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns"))
_SIZE_STEPS = ((1 << 40, "TiB"), (GIB_BYTES, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def pages_to_bytes(pages: int) -> int:
    """Bytes of a count of balloon pages, which are 4 KiB whatever the kernel's page size is."""
    return pages * BALLOON_PAGE_BYTES


def rate_bytes_per_s(pages: int | None, duration_ns: int | None) -> float | None:
    """Bytes a second for `pages` moved in `duration_ns`; None when either is unknown or no time passed."""
    if pages is None or not duration_ns:
        return None
    return pages_to_bytes(pages) * NS_PER_S / duration_ns


def format_duration_ns(duration_ns: float | None) -> str:
    """Three significant digits in the largest fitting unit: `590 ms`, `4.13 s`, `17.0 us`, `0 ns`."""
    return _format_scaled(duration_ns, _DURATION_STEPS)


def format_bytes(size_bytes: float | None) -> str:
    """Three significant digits in a binary unit: `7.00 GiB`, `32.0 KiB`, `17 B`."""
    return _format_scaled(size_bytes, _SIZE_STEPS)


def format_pages_as_bytes(pages: int | None) -> str:
    """A count of balloon pages as a size: 1 835 008 is `7.00 GiB`."""
    return NOT_MEASURED if pages is None else format_bytes(pages_to_bytes(pages))


def format_rate(bytes_per_s: float | None) -> str:
    """A rate in a binary unit a second: `1.70 GiB/s`."""
    return NOT_MEASURED if bytes_per_s is None else f"{format_bytes(bytes_per_s)}/s"


def format_count(count: int | None) -> str:
    """Digits in groups of three, ISO 80000 style: `1 835 008`."""
    return NOT_MEASURED if count is None else f"{count:,}".replace(",", " ")


def format_things(count: int | None, one: str, many: str | None = None) -> str:
    """How many of something, and its name for one or for many: `1 send`, `2 sends`, `- sends`."""
    return f"{format_count(count)} {name_of_many(count, one, many)}"


def name_of_many(count: int | None, one: str, many: str | None = None) -> str:
    """The name of one thing, or of as many as there are."""
    return one if count == 1 else many or f"{one}s"


def format_standing(size_pages: int | None, target_pages: int | None, unit_pages: int = 1) -> str:
    """A balloon's size and target: `421 MiB of target 724 MiB, 303 MiB below it`.

    `unit_pages` is what the driver moves at least: nearer to its target it cannot come.
    """
    size, target = format_pages_as_bytes(size_pages), format_pages_as_bytes(target_pages)
    below_pages, above_pages = off_target_pages(size_pages, target_pages, unit_pages)
    words = f"{size} of target {target}"
    if below_pages:
        return f"{words}, {format_pages_as_bytes(below_pages)} below it"
    return f"{words}, {format_pages_as_bytes(above_pages)} above it" if above_pages else words


def off_target_pages(
    size_pages: int | None, target_pages: int | None, unit_pages: int = 1
) -> tuple[int | None, int | None]:
    """How far a balloon is below its target, and above; None where it is not known.

    The driver takes its target up to whole pages of its kernel (towards_target in virtio_balloon.c).
    """
    if size_pages is None or target_pages is None:
        return None, None
    goal_pages = -(-target_pages // unit_pages) * unit_pages
    return max(0, goal_pages - size_pages), max(0, size_pages - goal_pages)


def format_share(share: float | None) -> str:
    """A fraction of one as a percentage with one decimal: `68.3 %`; tiny but real shares read `<0.1 %`."""
    if share is None:
        return NOT_MEASURED
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{share * 100:.1f} %"


def _format_scaled(value: float | None, steps: tuple[tuple[int, str], ...]) -> str:
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    size = abs(value)
    # A value that would round up to the next unit's first step is shown in that unit: 1.00 s, not 1000 ms.
    scale, unit = next(((scale, unit) for scale, unit in steps if size >= scale * 0.9995), steps[-1])
    scaled = value / scale
    if scale == 1:
        return f"{scaled:.0f} {unit}"
    decimals = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{decimals}f} {unit}"

# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that moved, by the kernel's own count, and how many of them a recording does not have.

Pages are balloon pages, of 4 KiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from balloontrace.units import format_count, name_of_many

Vmstat = Mapping[str, int]


@dataclass(frozen=True)
class Moved:
    """Pages that entered or left balloons between two looks at /proc/vmstat; None: it does not say."""

    inflated: int
    deflated: int
    migrated: int

    @property
    def pages(self) -> int:
        """Both ways together."""
        return self.inflated + self.deflated


def moved_between(before: Vmstat, after: Vmstat, unit_pages: int) -> Moved | None:
    """What moved, `unit_pages` in one page of the kernel; None where it does not count it."""
    names = ("balloon_inflate", "balloon_deflate")
    if any(name not in counts for name in names for counts in (before, after)):
        return None
    change = [
        max(0, after.get(name, 0) - before.get(name, 0)) * unit_pages for name in (*names, "balloon_migrate")
    ]
    return Moved(*change)


@dataclass(frozen=True)
class Unseen:
    """How many of `moved` pages are not in a recording, `under_way_pages` more or less.

    Those were moved by a call that had not returned yet; None: any number may have been. `pages` is None
    where it cannot be told.
    """

    moved: Moved
    pages: int | None
    under_way_pages: int | None


def find_unseen(
    moved: Moved | None, seen_pages: int | None, under_way_pages: int | None, *, migrations_failed: int = 0
) -> Unseen | None:
    """What is not in a recording that has `seen_pages`; None where nothing was counted independently.

    A migration that the balloon gave up counts as a deflated page (balloon_page_migrate, -ENOENT).
    """
    if moved is None:
        return None
    if moved.pages == 0:
        return Unseen(moved, 0, under_way_pages)
    if seen_pages is None or under_way_pages is None:
        return Unseen(moved, None, under_way_pages)
    explained = seen_pages + under_way_pages + min(migrations_failed, moved.deflated)
    return Unseen(moved, max(0, moved.pages - explained), under_way_pages)


def describe_unseen(unseen: Unseen, reason: str) -> str:
    """The sentence that says how many pages are not in the recording, and why."""
    least = "at least " if unseen.under_way_pages else ""
    moved = unseen.moved
    are = "is" if unseen.pages == 1 else "are"
    return (
        f"{least}{format_count(unseen.pages)} of {format_count(moved.pages)} "
        f"{name_of_many(moved.pages, 'page')} that moved by /proc/vmstat "
        f"({format_count(moved.inflated)} inflated, {format_count(moved.deflated)} deflated) "
        f"{are} not in this recording: {reason}"
    )

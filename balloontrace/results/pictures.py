# SPDX-License-Identifier: GPL-2.0-or-later
"""What pictures of a recording show, as plain numbers: time lines, histograms, maps of page numbers.

What is too fine for a picture is summed up in columns of equal time or cells of equally many pages. Each has
its lowest and highest value, so that no outlier is lost. None always means "not measured".
"""

from __future__ import annotations

from dataclasses import dataclass

BALLOON_SIZE = "size of the balloon as the driver counts it, after each work item"
PAGES_TOLD = "size of the balloon by the pages the host was told of, after each send"
PAGES_MOVED = "pages the host was told of since the operation began, after each send"


@dataclass(frozen=True, slots=True)
class Curve:
    """Pages against time: one of the sentences above, and a step function of `steps` steps in columns.

    `first_pages[i]` is what it is where column i begins, `low_pages[i]` and `high_pages[i]` what it has been
    in it at the least and the most; `last_pages` is where it ends.
    """

    what: str
    steps: int
    first_pages: tuple[int | None, ...]
    low_pages: tuple[int | None, ...]
    high_pages: tuple[int | None, ...]
    last_pages: int


@dataclass(frozen=True, slots=True)
class Target:
    """The size asked for, from a time after the operation's start on."""

    from_ns: int
    pages: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of an operation, in ns after its start; `count` things happened in it."""

    from_ns: int
    until_ns: int
    count: int


@dataclass(frozen=True, slots=True)
class Pause:
    """A time in which no page moved, in ns after the operation's start, and the stage most of it went to."""

    from_ns: int
    until_ns: int
    stage: str


@dataclass(frozen=True, slots=True)
class StageOverTime:
    """How much of each column of time went to a stage, in ns."""

    stage: str
    ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Available:
    """Memory that the guest had available at one reading, at a time after the operation's start."""

    at_ns: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TimeLine:
    """An operation as time passed. Columns are of equal width and reach from its start to its end.

    `waits` are work items which got fewer pages than they asked for, neighbours joined; `shortages_ns` are
    when the guest took pages back for want of memory. `pauses` are the longest times without progress:
    at least PAUSE_SHARE of the operation and PAUSE_MEDIANS times the median one; None where there were too
    few steps to tell. `moved_pages` is progress in each column of `stages`,
    below 0 where pages went the other way. `available` has the readings inside the operation, the last one
    before it, as of its start, and the first one behind, as of its end.
    """

    number: int
    wall_ns: int
    curve: Curve | None
    targets: tuple[Target, ...]
    waits: tuple[Stretch, ...]
    shortages_ns: tuple[int, ...]
    pauses: tuple[Pause, ...] | None
    stages: tuple[StageOverTime, ...]
    moved_pages: tuple[int | None, ...] | None
    available: tuple[Available, ...] = ()


PAUSE_SHARE = 0.01
PAUSE_MEDIANS = 10


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long the calls of a function took: `buckets[i]` of them 2^i to 2^(i+1) - 1 ns, the first also 0."""

    function: str
    calls: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PageMap:
    """Which page numbers an operation's sends named, cell by cell from `first_pfn` on, in rows.

    A cell stands for `cell_pages` page numbers, a power of two. `pages` is how many of them were named.
    `run_pages` is the mean length of the runs that these pages are in; None for an empty cell.
    """

    number: int
    first_pfn: int
    cell_pages: int
    row_cells: int
    pages: tuple[int, ...]
    run_pages: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Pictures:
    """What there is to draw of a recording, of its first operations only, beside what its report says."""

    time_lines: tuple[TimeLine, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    page_maps: tuple[PageMap, ...] = ()

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the pages of an operation would have taken in other formats; None means "cannot be told"."""

from __future__ import annotations

from dataclasses import dataclass

PAGE_BITMAPS = "page_bitmaps"
RANGES = "ranges"
BLOCKS = "blocks_of_2_mib"

FORMAT_NAMES = {PAGE_BITMAPS: "page bitmaps", RANGES: "ranges", BLOCKS: "2 MiB blocks"}
"""For people, by the name in JSON."""


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What a stage would take. `grows_with` is what its time is taken to follow: `pages`, `sends`, ...

    `estimate_ns` lies between the bounds. It is None where the recording cannot tell what the time follows.
    """

    stage: str
    grows_with: str
    least_ns: int
    estimate_ns: int | None
    most_ns: int


@dataclass(frozen=True, slots=True)
class FormatEstimate:
    """The same pages in another format: counts that follow from the format, and times that are estimates.

    `bytes_sent` has headers in it. `host_calls` are those of a host that makes its calls for each run of
    pages as it is named. The times add up those of `stages`; without stages they are None.
    """

    format: str
    sends: int
    records: int
    bytes_sent: int
    host_calls: int
    least_ns: int | None
    estimate_ns: int | None
    most_ns: int | None
    stages: tuple[StageEstimate, ...]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """An operation of page numbers in other formats, for the same pages, each named once.

    `whole_blocks` are aligned blocks of 2 MiB of which every page is among them. The estimates are as good as
    their `assumptions`, which are sentences; so are `unknown`, which say what the recording cannot tell.
    """

    pages: int
    whole_blocks: int
    formats: tuple[FormatEstimate, ...]
    assumptions: tuple[str, ...]
    unknown: tuple[str, ...]

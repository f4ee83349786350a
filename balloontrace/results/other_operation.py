# SPDX-License-Identifier: GPL-2.0-or-later
"""What a driver does besides its work items, as plain frozen data; None means "not measured"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OUT_OF_MEMORY = "out of memory"
COMPACTION = "compaction"
FREEZE = "freeze"
RESTORE = "restore"
REMOVAL = "removal"
FREEZE_OR_REMOVAL = "freeze or removal"


@dataclass(frozen=True, slots=True)
class OtherOperation:
    """Calls of `function` for one balloon, with less than a second between them; no host asked for them.

    Such an operation lasts from its first call to the return of its last one; `calls_ns` of that are inside
    calls. `pages` left the balloon; those of compaction moved and stayed in it, and `failed` calls moved
    none. A target is the one that the driver had read last.
    """

    what: str
    function: str
    device: str
    started_ns: int
    wall_ns: int
    calls: int
    calls_ns: int
    failed: int | None
    pages: int | None
    size_before_pages: int | None
    size_after_pages: int | None
    target_before_pages: int | None
    target_after_pages: int | None


def busiest(operations: Sequence[OtherOperation], most: int) -> list[OtherOperation]:
    """Those that took longest, at most so many, in their order: for where not all can be shown."""
    by_time = sorted(range(len(operations)), key=lambda row: operations[row].calls_ns, reverse=True)
    return [operations[row] for row in sorted(by_time[:most])]


@dataclass(frozen=True, slots=True)
class StatisticsQueue:
    """How often the host asked a balloon for statistics, and how long it waited for them.

    `polls` are requests, by the interrupt; `answers` are runs of the work item, which collects statistics in
    `collecting_ns` of all of them and queues them. Quantiles are of the time from a request to the end of its
    answer, which the host may see a little later. The last request came at `last_asked_ns`.
    """

    device: str
    polls: int | None
    answers: int | None
    collecting_ns: int | None
    answer_p50_ns: int | None
    answer_max_ns: int | None
    last_asked_ns: int | None
    last_answer_ns: int | None

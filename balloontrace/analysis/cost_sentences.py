# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operation did to its guest, in plain sentences, where there is something to say.

Thresholds: whom the out-of-memory killer ended is always said; swapping from 1 MiB on; direct reclaim and
compaction when a task had to do it; pressure from a tenth of the time on; steal from a twentieth on.
"""

from __future__ import annotations

from balloontrace.results.guest_cost import GuestCost, Killed
from balloontrace.units import (
    format_duration_ns,
    format_pages_as_bytes,
    format_share,
    format_things,
)

SWAPPED_PAGES = 256
PRESSURE_SHARE = 0.1
STEAL_SHARE = 0.05
_NAMED = 4


def explain_cost(cost: GuestCost, wall_ns: int) -> tuple[str, ...]:
    """Sentences for one operation that took `wall_ns`, the worst first."""
    when = _when(cost)
    sentences = [
        _killed(cost, when),
        _swapped(cost, when),
        _reclaimed(cost, when),
        _compacted(cost, when),
        _pressed(cost, when, wall_ns),
        _stolen(cost, when),
    ]
    return tuple(sentence for sentence in sentences if sentence is not None)


def name_troubles(cost: GuestCost) -> tuple[str, ...]:
    """What was bad for the guest in a word or two each, to compare operations by."""
    named = {
        "out-of-memory kills": cost.oom_kills,
        "swapping": _swaps(cost),
        "reclaim by tasks": cost.direct_reclaims,
        "compaction by tasks": cost.compactions,
        "steal": _is_stolen_from(cost),
    }
    return tuple(name for name, found in named.items() if found)


def _swaps(cost: GuestCost) -> bool:
    return max(cost.swapped_out_pages or 0, cost.swapped_in_pages or 0) >= SWAPPED_PAGES


def _is_stolen_from(cost: GuestCost) -> bool:
    stolen_ns, of_ns = cost.steal_ns, cost.processors_ns
    return bool(stolen_ns and of_ns and stolen_ns >= STEAL_SHARE * of_ns)


def _when(cost: GuestCost) -> str:
    """What lies between the readings of several operations may be of any of them."""
    if not cost.shared_with:
        return "meanwhile"
    others = ", ".join(map(str, cost.shared_with[:_NAMED]))
    more = "" if len(cost.shared_with) <= _NAMED else " and more"
    return f"meanwhile, or in operation{'s' * (len(cost.shared_with) > 1)} {others}{more}"


def _killed(cost: GuestCost, when: str) -> str | None:
    if cost.killed:
        named = ", ".join(map(_name, cost.killed[:_NAMED]))
        more = len(cost.killed) - _NAMED
        return f"the out-of-memory killer ended {named}{f' and {more} more' if more > 0 else ''} {when}"
    if cost.oom_kills:
        processes = format_things(cost.oom_kills, "process", "processes")
        return f"the out-of-memory killer ended {processes} {when}"
    return None


def _name(killed: Killed) -> str:
    pid = "" if killed.pid is None else f" (pid {killed.pid})"
    return f"{killed.name or 'a process'}{pid}"


def _swapped(cost: GuestCost, when: str) -> str | None:
    ways = (("out", cost.swapped_out_pages), ("in", cost.swapped_in_pages))
    told = [f"{format_pages_as_bytes(pages)} {way}" for way, pages in ways if (pages or 0) >= SWAPPED_PAGES]
    return f"the guest swapped {' and '.join(told)} {when}" if told else None


def _reclaimed(cost: GuestCost, when: str) -> str | None:
    if not cost.direct_reclaims:
        return None
    got = cost.reclaimed_directly_pages
    reclaimed = "" if got is None else f", for {format_pages_as_bytes(got)}"
    return (
        f"the guest's tasks had to reclaim memory themselves {_times(cost.direct_reclaims)}{reclaimed} {when}"
    )


def _compacted(cost: GuestCost, when: str) -> str | None:
    if not cost.compactions:
        return None
    return f"the guest's tasks had to compact memory themselves {_times(cost.compactions)} {when}"


def _times(count: int) -> str:
    return "once" if count == 1 else format_things(count, "time")


def _pressed(cost: GuestCost, when: str, wall_ns: int) -> str | None:
    waited_ns = cost.memory_pressure_some_ns
    if waited_ns is None or not waited_ns or waited_ns < PRESSURE_SHARE * wall_ns:
        return None
    return f"some task of the guest waited for memory for {format_duration_ns(waited_ns)} {when}"


def _stolen(cost: GuestCost, when: str) -> str | None:
    if not _is_stolen_from(cost):
        return None
    share = format_share((cost.steal_ns or 0) / (cost.processors_ns or 1))
    return f"the hypervisor took {share} of the guest's processors {when} (steal)"

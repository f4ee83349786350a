# SPDX-License-Identifier: GPL-2.0-or-later
"""Why an operation took as long as it did: plain sentences, each with the numbers behind it.

Thresholds: a stage that takes at least half of the wall time is named; time outside the stages is named
from 5 % on, waiting for a processor from 20 % on; waiting on allocation, notifications of memory shortage and
an unfinished end always.
"""

from __future__ import annotations

from collections.abc import Sequence

from balloontrace.analysis.allocation_words import explain_allocation
from balloontrace.analysis.operations import FoundOperation
from balloontrace.format.stages import BCD, BCD_RUNNING, BUILD, OTHER, RUNNING, A, B, C, D
from balloontrace.format.vocabulary import Kind, Side
from balloontrace.results.operation import (
    DRIVER_REMOVED,
    IN_PROGRESS,
    STALLED,
    SUPERSEDED,
    BitmapUse,
    StageRow,
)
from balloontrace.units import (
    format_count,
    format_duration_ns,
    format_pages_as_bytes,
    format_share,
    format_things,
)

DOMINANT_SHARE = 0.5
OTHER_SHARE = 0.05
RUN_DELAY_SHARE = 0.2

_DOING = {Kind.INFLATE: "allocating", Kind.DEFLATE: "releasing"}
_STALLED = {
    Kind.INFLATE: "stalled, waiting on allocation",
    Kind.DEFLATE: "stalled, nothing left to release",
}
_SHORT = {
    Kind.INFLATE: "waiting on allocation: {} got fewer pages than asked",
    Kind.DEFLATE: "{} found fewer pages to release than asked",
}


def explain(
    found: FoundOperation,
    rows: Sequence[StageRow],
    short_work_items: int,
    short_ns: int,
    bitmap: BitmapUse | None = None,
    *,
    run_delay_ns: int | None = None,
) -> tuple[str, ...]:
    """Sentences for one operation, the most telling first; empty when nothing stands out."""
    sentences = [
        _unfinished(found),
        _waiting(found.kind, short_work_items, short_ns),
        _short_of_processor(run_delay_ns, found.end_ns - found.start_ns),
        _dominant(found.kind, rows),
        explain_allocation(found.kind, rows),
        explain_other(rows),
        _mid_window(bitmap),
        _memory_shortage(found),
        _moved_target(found),
        "it was under way when the recording started" if found.started_before_recording else None,
    ]
    return tuple(sentence for sentence in sentences if sentence is not None)


def explain_other(rows: Sequence[StageRow]) -> str | None:
    """Names the largest part of the time outside the stages, if that time is above its threshold."""
    other = next((row for row in rows if row.stage == OTHER.code), None)
    if other is None or other.share is None or other.share <= OTHER_SHARE:
        return None
    parts = [row for row in rows if row.part_of == OTHER.code and row.total_ns is not None]
    largest = max(parts, key=lambda row: row.total_ns or 0)
    part = "most of it" if 2 * (largest.total_ns or 0) > (other.total_ns or 0) else "the largest part of it"
    return (
        f"{format_share(other.share)} is outside the stages, {part} {largest.name}: "
        f"{format_duration_ns(largest.total_ns)} ({format_share(largest.share)})"
    )


def _unfinished(found: FoundOperation) -> str | None:
    if found.outcome not in (STALLED, IN_PROGRESS, SUPERSEDED, DRIVER_REMOVED):
        return None
    where = f"at {format_pages_as_bytes(found.actual_after_pages)}"
    if found.targets_pages:
        where += f" of {format_pages_as_bytes(found.targets_pages[-1])}"
    how = {
        STALLED: _STALLED[found.kind],
        IN_PROGRESS: "the recording ended before the target was reached,",
        SUPERSEDED: "given up for the opposite direction",
        DRIVER_REMOVED: "the driver was removed or frozen",
    }[found.outcome]
    return f"{how} {where}"


def _waiting(kind: Kind, short_work_items: int, short_ns: int) -> str | None:
    if not short_work_items:
        return None
    items = f"{format_count(short_work_items)} work item{'s' if short_work_items != 1 else ''}"
    return f"{_SHORT[kind].format(items)}, {format_duration_ns(short_ns)}"


def _short_of_processor(run_delay_ns: int | None, wall_ns: int) -> str | None:
    """By the scheduler's own count; it holds of every stage, so it comes before them."""
    if run_delay_ns is None or not wall_ns or run_delay_ns < RUN_DELAY_SHARE * wall_ns:
        return None
    waited = f"{format_duration_ns(run_delay_ns)} ({format_share(run_delay_ns / wall_ns)})"
    return f"guest short of processor: the balloon's thread was ready to run and waited {waited}"


def _dominant(kind: Kind, rows: Sequence[StageRow]) -> str | None:
    """Names a side only where the data tell it: what passes until a guest goes on may be its own waiting.

    Where interrupts were traced, that waiting is known. Of an estimate its lower bound has to be large
    enough: few samples tell that the host took the time, and not which of its stages did. Then, and where
    none took half of it, both are named.
    """
    shares = {row.stage: row.share for row in rows if row.share is not None}
    sure = {row.stage: _sure_part(row) for row in rows}
    if B.code in shares:  # which building is a part of
        shares[B.code] -= shares.get(BUILD.code, 0.0)
    interrupts_known = False
    for whole, running in ((BCD.code, BCD_RUNNING.code), (B.code, RUNNING.code)):
        if whole in shares and running in shares:
            shares[whole] -= shares[running]
            interrupts_known = True
    waiting = "waiting for a processor after the host's answer"
    slow = {
        BCD_RUNNING.code: (Side.GUEST, waiting),
        RUNNING.code: (Side.GUEST, waiting),
        A.code: (Side.GUEST, f"{_DOING[kind]} pages"),
        BUILD.code: (Side.GUEST, "building bitmaps and records"),
        C.code: (Side.HOST, "in the VMM's translation"),
        D.code: (Side.HOST, "in madvise"),
    }
    for stage, (who, where) in slow.items():
        if shares.get(stage, 0.0) * sure.get(stage, 1.0) >= DOMINANT_SHARE:
            return f"{who} slow: {format_share(shares[stage])} of the time {where}"
    if (served := shares.get(C.code, 0.0) + shares.get(D.code, 0.0)) >= DOMINANT_SHARE:
        return f"{Side.HOST} slow: {format_share(served)} of the time in the VMM's translation and madvise"
    between = {
        BCD.code: "sending and the interrupt: host or transport",
        B.code: "guest and host: transport",
    }
    if not interrupts_known:
        between = {
            BCD.code: "sending and going on: host, transport or the guest's own scheduling",
            B.code: "guest and host: transport or the guest's own scheduling",
        }
    for stage, what in between.items():
        if shares.get(stage, 0.0) >= DOMINANT_SHARE:
            return f"{format_share(shares[stage])} of the time between {what}"
    return None


def _sure_part(row: StageRow) -> float:
    """Which part of its time a stage took at least: all of it, unless that is an estimate."""
    if row.error_ns is None or not row.total_ns:
        return 1.0
    return max(0.0, 1 - row.error_ns / row.total_ns)


def _mid_window(bitmap: BitmapUse | None) -> str | None:
    """A fault in the patch as posted: send_resp_data frees all bitmaps but the first (v4, 4/7)."""
    if bitmap is None or not bitmap.mid_window_sends:
        return None
    sends = f"{format_things(bitmap.mid_window_sends, 'send')}"
    if bitmap.bitmaps is not None and bitmap.bitmaps < 2:
        return f"{sends} in the middle of a window of one bitmap"
    return (
        f"{sends} in the middle of a window: the patch as posted in 2016 frees the window's bitmaps there "
        "and goes on reading them"
    )


def _memory_shortage(found: FoundOperation) -> str | None:
    if not found.oom_notifications:
        return None
    return (
        f"guest out of memory: {format_things(found.oom_notifications, 'notification')} took "
        f"{format_pages_as_bytes(found.oom_pages)} back"
    )


def _moved_target(found: FoundOperation) -> str | None:
    if len(found.targets_pages) < 2:
        return None
    shown = [format_pages_as_bytes(pages) for pages in found.targets_pages[:4]]
    more = f", and {len(found.targets_pages) - 4} more" if len(found.targets_pages) > 4 else ""
    return f"its target moved: {', '.join(shown)}{more}"

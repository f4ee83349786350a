# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions to probe: a table of candidates."""

from __future__ import annotations

from dataclasses import dataclass

from balloontrace.format.stages import BCD, BUILD, A, B
from balloontrace.format.vocabulary import (
    FREE_PAGE_HINT_BIT,
    REPORTING_BIT,
    STATS_BIT,
    Function,
    Kind,
)
from balloontrace.trace.mechanism import Mechanism


@dataclass(frozen=True)
class ProbePoint:
    """One row of the table: a function worth tracing."""

    function: Function
    candidates: tuple[str, ...]  # symbol names, all of them attached
    stage: str
    yields: str
    required: bool = False
    in_driver: bool = True  # in the driver's own object, not elsewhere in the kernel
    every_driver: bool = True  # exists in every driver's source: no symbol means inlined
    patched_only: bool = False  # a function of the page-bitmap patch; other drivers have no row for it
    returns: bool = True  # its return is probed too
    stand_in: Function | None = None  # what shows its time when it is inlined
    feature_bit: int | None = None  # a device without it never makes the driver call the function
    fexit_suffices: bool = False  # with fentry, the program on return needs none on entry
    tracepoint: str | None = None  # with its category; its symbols only show that a kernel has it

    @property
    def name(self) -> str:
        """What its programs are called after."""
        return self.function.symbol

    def ends(self, mechanism: Mechanism) -> tuple[bool, ...]:
        """Which ends of the function get a program, return (True) before entry (False)."""
        if mechanism is Mechanism.FENTRY and self.fexit_suffices:
            return (True,)
        return (True, False) if self.returns else (False,)


TABLE = (
    ProbePoint(
        Function.UPDATE_BALLOON_SIZE_FUNC, ("update_balloon_size_func",), "work item",
        "one span per work item: target, actual, and all time of the driver", required=True,
    ),
    ProbePoint(
        Function.FILL_BALLOON, ("fill_balloon",), A.of_kind[Kind.INFLATE].short,
        "pages taken from the guest's allocator", stand_in=Function.UPDATE_BALLOON_SIZE_FUNC,
    ),
    ProbePoint(
        Function.LEAK_BALLOON, ("leak_balloon",), A.of_kind[Kind.DEFLATE].short,
        "pages given back to the guest's allocator", stand_in=Function.UPDATE_BALLOON_SIZE_FUNC,
    ),
    ProbePoint(
        Function.TELL_HOST, ("tell_host",), BCD.code,
        "one span per send: queue, pages, and the time until the host has answered", required=True,
    ),
    ProbePoint(
        Function.SET_PAGE_BITMAP, ("set_page_bitmap",), f"{B.code} {BUILD.name}",
        "filling bitmaps and writing records: passes over the list of pages, bitmaps in use",
        patched_only=True, stand_in=Function.TELL_HOST,
    ),
    ProbePoint(
        Function.SEND_RESP_DATA, ("send_resp_data",), BCD.code,
        "one span per send of records: queue, bytes, and the time until the host has answered",
        patched_only=True, stand_in=Function.TELL_HOST,
    ),
    ProbePoint(
        Function.EXTEND_PAGE_BITMAP, ("extend_page_bitmap",), A.of_kind[Kind.INFLATE].short,
        "memory for the bitmaps", patched_only=True,
    ),
    ProbePoint(
        Function.VIRTBALLOON_CHANGED, ("virtballoon_changed",), "target",
        "the interrupt that says the target may have changed", returns=False,
    ),
    ProbePoint(
        Function.BALLOON_ACK, ("balloon_ack",), B.code,
        "the interrupt that says the host has answered: what follows is the guest's own scheduling",
        every_driver=False, returns=False,
    ),
    ProbePoint(
        Function.CONFIG_GET, ("vp_get", "vm_get"), "target",
        "the target each work item reads, and the time of reading it", in_driver=False, every_driver=False,
        fexit_suffices=True,
    ),
    ProbePoint(
        Function.CONFIG_SET, ("vp_set", "vm_set"), "actual",
        "the progress each work item writes", in_driver=False, every_driver=False, returns=False,
    ),
    ProbePoint(
        Function.VIRTIO_BALLOON_OOM_NOTIFY, ("virtio_balloon_oom_notify",), "out of memory",
        "the balloon shrinking because the guest ran out of memory", every_driver=False,
    ),
    ProbePoint(
        Function.VIRTBALLOON_MIGRATEPAGE, ("virtballoon_migratepage",), "migration",
        "compaction moving a page of the balloon", every_driver=False,
    ),
    ProbePoint(
        Function.VIRTBALLOON_FREEZE, ("virtballoon_freeze",), "freeze",
        "the balloon emptied before the machine sleeps", every_driver=False,
    ),
    ProbePoint(
        Function.VIRTBALLOON_RESTORE, ("virtballoon_restore",), "restore",
        "the driver taking its device back", every_driver=False,
    ),
    ProbePoint(
        Function.VIRTBALLOON_REMOVE, ("virtballoon_remove",), "removal",
        "the balloon emptied because the driver goes", every_driver=False,
    ),
    ProbePoint(
        Function.STATS_REQUEST, ("stats_request",), "statistics",
        "the interrupt by which the host asks for statistics", every_driver=False, returns=False,
        feature_bit=STATS_BIT,
    ),
    ProbePoint(
        Function.UPDATE_BALLOON_STATS_FUNC, ("update_balloon_stats_func",), "statistics",
        "collecting statistics and queueing them", every_driver=False, feature_bit=STATS_BIT,
    ),
    ProbePoint(
        Function.VIRTBALLOON_FREE_PAGE_REPORT, ("virtballoon_free_page_report",), "report",
        "free blocks told to the host, by order, and the time until it has answered", every_driver=False,
        feature_bit=REPORTING_BIT,
    ),
    ProbePoint(
        Function.PAGE_REPORTING_PROCESS, ("page_reporting_process",), "report",
        "the cycles in which free blocks are collected", in_driver=False, every_driver=False,
        feature_bit=REPORTING_BIT,
    ),
    ProbePoint(
        Function.REPORT_FREE_PAGE_FUNC, ("report_free_page_func",), "hint",
        "free blocks told to the host during a migration, under which id, and when they came back",
        every_driver=False, feature_bit=FREE_PAGE_HINT_BIT,
    ),
    ProbePoint(
        Function.VIRTIO_BALLOON_SHRINKER_SCAN, ("virtio_balloon_shrinker_scan",), "hint",
        "such blocks given back early, because memory is short", every_driver=False,
        feature_bit=FREE_PAGE_HINT_BIT,
    ),
)  # fmt: skip


def _tracepoint(function: Function, category: str, yields: str) -> ProbePoint:
    symbols = tuple(f"{prefix}{function.symbol}" for prefix in ("__traceiter_", "__bpf_trace_"))
    return ProbePoint(
        function, symbols, A.of_kind[Kind.INFLATE].short, yields, in_driver=False, every_driver=False,
        returns=False, tracepoint=f"{category}:{function.symbol}",
    )  # fmt: skip


ALLOCATION = (
    _tracepoint(Function.SCHED_SWITCH, "sched", "when it is off the processor, and asleep for a page"),
    _tracepoint(Function.MM_VMSCAN_DIRECT_RECLAIM_BEGIN, "vmscan", "reclaim that an allocation does itself"),
    _tracepoint(Function.MM_VMSCAN_DIRECT_RECLAIM_END, "vmscan", "its end"),
    _tracepoint(Function.MM_COMPACTION_BEGIN, "compaction", "compaction that an allocation does itself"),
    _tracepoint(Function.MM_COMPACTION_END, "compaction", "its end"),
    _tracepoint(Function.CONTENTION_BEGIN, "lock", "locks that it waits for"),
    _tracepoint(Function.CONTENTION_END, "lock", "its end"),
)
"""Rows of `record --split-allocation`, which others have none of."""

SYMBOL_NAMES = tuple(name for point in TABLE for name in point.candidates)
ALLOCATION_SYMBOL_NAMES = tuple(name for point in ALLOCATION for name in point.candidates)

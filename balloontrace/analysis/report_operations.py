# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations of a report, each with its numbers and words, and all of one kind together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from balloontrace.analysis.balloon_sizes import SENDS
from balloontrace.analysis.explanations import explain
from balloontrace.analysis.group_statistics import sums
from balloontrace.analysis.nesting import UNKNOWN_DEVICE
from balloontrace.analysis.operations import NO_OPERATION, FoundOperation, Operations
from balloontrace.analysis.payloads_of_operations import Carried
from balloontrace.analysis.work_items import NOT_MEASURED
from balloontrace.format.vocabulary import Function, Kind
from balloontrace.results.operation import BitmapUse, Operation, StageRow, Total
from balloontrace.results.recording_header import Header
from balloontrace.units import rate_bytes_per_s


def describe_operations(
    operations: Operations,
    tables: Sequence[tuple[StageRow, ...]],
    bitmaps: Sequence[BitmapUse | None],
    carried: Carried,
    header: Header,
    traced: frozenset[Function],
) -> tuple[Operation, ...]:
    """The found operations with everything that is summed up over their work items."""
    items, count = operations.items, len(operations.found)
    rows = np.flatnonzero(operations.item_operation != NO_OPERATION)
    operation = operations.item_operation[rows]
    waited_ns = items.end_ns - items.start_ns - items.send_ns - items.config_ns
    columns = (
        np.bincount(operation, minlength=count),
        sums(items.pages[rows], operation, count),
        sums(items.pages_known[rows].astype(np.int64), operation, count),
        sums(items.untold[rows].astype(np.int64), operation, count),
        sums(items.sends[rows], operation, count),
        sums(items.short[rows].astype(np.int64), operation, count),
        sums(np.where(items.short, waited_ns, 0)[rows], operation, count),
        sums(np.maximum(items.run_delay_ns, 0)[rows], operation, count),
        sums((items.run_delay_ns == NOT_MEASURED)[rows].astype(np.int64), operation, count),
    )
    names = {device.index: device.name for device in header.devices if device.index is not None}
    if len(header.devices) == 1:
        names[UNKNOWN_DEVICE] = header.devices[0].name
    summed = zip(*(column.tolist() for column in columns), strict=True)
    shown = (
        _operation(number, found, table, bitmap, names, traced, each)
        for number, (found, table, bitmap, each) in enumerate(
            zip(operations.found, tables, bitmaps, summed, strict=True), start=1
        )
    )
    return tuple(
        replace(operation, payload=statistics, payload_sends=sends)
        for operation, statistics, sends in zip(shown, carried.statistics, carried.sends, strict=True)
    )


def _operation(
    number: int,
    found: FoundOperation,
    rows: tuple[StageRow, ...],
    bitmap: BitmapUse | None,
    names: Mapping[int, str],
    traced: frozenset[Function],
    summed: tuple[int, ...],
) -> Operation:
    work_items, known_pages, items_known, items_untold, sends, short_work_items, short_ns = summed[:7]
    run_delay_ns = None if summed[8] else summed[7]
    pages = known_pages if items_known and not items_untold else None
    ooms_traced = Function.VIRTIO_BALLOON_OOM_NOTIFY in traced
    wall_ns = found.end_ns - found.start_ns
    return Operation(
        number=number,
        device=device_name(found.device, names),
        kind=found.kind,
        outcome=found.outcome,
        started_ns=found.start_ns,
        wall_ns=wall_ns,
        pages=pages,
        target_pages=found.targets_pages[-1] if found.targets_pages else None,
        targets_pages=found.targets_pages,
        actual_before_pages=found.actual_before_pages,
        actual_after_pages=found.actual_after_pages,
        rate_bytes_per_s=rate_bytes_per_s(pages, wall_ns),
        sends=sends if SENDS & traced else None,
        work_items=work_items,
        starts_at="interrupt" if found.interrupt_ns is not None else "work item",
        started_before_recording=found.started_before_recording,
        short_work_items=short_work_items,
        short_ns=short_ns,
        oom_notifications=found.oom_notifications if ooms_traced else None,
        oom_pages=found.oom_pages if ooms_traced else None,
        verdict=explain(found, rows, short_work_items, short_ns, bitmap, run_delay_ns=run_delay_ns),
        stages=rows,
        bitmap=bitmap,
        run_delay_ns=run_delay_ns,
    )


def device_name(index: int, names: Mapping[int, str]) -> str:
    """What the kernel calls the device of this index."""
    return names.get(index, "unknown device" if index == UNKNOWN_DEVICE else f"virtio{index}")


def sum_up(
    shown: Sequence[Operation], rows_of_kind: Mapping[Kind, tuple[StageRow, ...]]
) -> tuple[Total, ...]:
    """The operations of each kind that occurred, summed up."""
    return tuple(
        _total(kind, [operation for operation in shown if operation.kind == kind], rows_of_kind[kind])
        for kind in Kind
        if kind in rows_of_kind
    )


def _total(kind: Kind, chosen: Sequence[Operation], rows: tuple[StageRow, ...]) -> Total:
    counts = [operation.pages for operation in chosen]
    # Of some of them only: the rate would be of fewer pages than the time.
    pages = None if None in counts else sum(count or 0 for count in counts)
    wall_ns = sum(operation.wall_ns for operation in chosen)
    sends = [operation.sends for operation in chosen]
    return Total(
        kind=kind,
        operations=len(chosen),
        pages=pages,
        wall_ns=wall_ns,
        rate_bytes_per_s=rate_bytes_per_s(pages, wall_ns),
        sends=None if None in sends else sum(count or 0 for count in sends),
        stages=rows,
    )

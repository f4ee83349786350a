# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of free pages among the spans: which ones they are, and what blocks they have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.columns import Column, Mask, Spans
from balloontrace.format.vocabulary import Function, SpanFlag


def reported(spans: Spans) -> Mask:
    """Which spans are reports that reached the host."""
    failed = spans.measured("result", SpanFlag.RESULT) != 0
    answered: Mask = spans.of(Function.VIRTBALLOON_FREE_PAGE_REPORT) & ~failed
    return answered


def blocks_of(spans: Spans) -> Column:
    """Blocks of each report; 0 where they are not known, and for all other spans."""
    is_report = spans.of(Function.VIRTBALLOON_FREE_PAGE_REPORT)
    return np.where(is_report, spans.int64("passes"), 0)


def blocks_by_order(spans: Spans, which: Mask | NDArray[np.intp]) -> Column:
    """A row for each of these reports: how many blocks of each order from 0 on.

    A byte an order, in place of three fields that no report has (`struct bt_span`).
    """
    names = ("target_pages", "actual_pages", "config_ns")
    parts = [np.ascontiguousarray(spans.columns[name][which]) for name in names]
    rows = [
        part.astype(part.dtype.newbyteorder("<")).view(np.uint8).reshape(len(part), part.itemsize)
        for part in parts
    ]
    return np.concatenate(rows, axis=1).astype(np.int64)

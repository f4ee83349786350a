# SPDX-License-Identifier: GPL-2.0-or-later
"""How the patched driver went through an operation's pages: passes over its list, windows, sends inside them.

A window is what one set of bitmaps spans, at most 32 GiB of guest; the list of pages is walked once for each,
and `tell_host` is called for those that hold a page. A send before the last one of a window is in its middle;
a window may be without any, where the patch as posted loses its only page.
"""

from __future__ import annotations

import numpy as np

from balloontrace.analysis.columns import Spans
from balloontrace.analysis.group_statistics import sums
from balloontrace.analysis.nesting import NO_SPAN
from balloontrace.analysis.operations import NO_OPERATION, Operations, operation_of_spans
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.results.operation import BitmapUse

_NONE = 1 << 62


def measure_bitmap_use(spans: Spans, operations: Operations) -> list[BitmapUse | None]:
    """One entry an operation, in the order of `Operations.found`; None for one that used no bitmaps."""
    count = len(operations.found)
    operation = operation_of_spans(spans, operations)
    inside = operation != NO_OPERATION
    nesting = operations.nesting
    own = np.arange(len(spans))
    windows = np.flatnonzero(inside & (nesting.window == own))
    whole = np.flatnonzero(inside & spans.of(Function.SET_PAGE_BITMAP))
    sends = np.flatnonzero(inside & spans.of(Function.SEND_RESP_DATA))
    in_window = sends[nesting.window[sends] != NO_SPAN]
    counted = whole[spans.int64("bitmaps")[whole] > 0]
    sized = sends[spans.has(SpanFlag.BYTES)[sends]]
    windows_of = np.bincount(operation[windows], minlength=count)
    sends_in_windows = np.bincount(operation[in_window], minlength=count)
    last_sends = np.bincount(operation[np.unique(nesting.window[in_window])], minlength=count)
    passes = sums(spans.int64("passes")[counted], operation[counted], count)
    passes_known = np.bincount(operation[counted], minlength=count) == np.bincount(
        operation[whole], minlength=count
    )
    bytes_sent = sums(spans.int64("bytes")[sized], operation[sized], count)
    bytes_known = np.bincount(operation[sized], minlength=count) == np.bincount(
        operation[sends], minlength=count
    )
    uses: list[BitmapUse | None] = [None] * count
    fewest = np.full(count, _NONE, dtype=np.int64)
    np.minimum.at(fewest, operation[counted], spans.int64("bitmaps")[counted])
    for index in np.unique(operation[np.concatenate([whole, windows, sends])]).tolist():
        some = fewest[index] != _NONE
        uses[index] = BitmapUse(
            windows=int(windows_of[index]) or None,
            passes=int(passes[index]) if passes_known[index] and some else None,
            bitmaps=int(fewest[index]) if some else None,
            mid_window_sends=(
                int(sends_in_windows[index] - last_sends[index]) if windows_of[index] else None
            ),
            bytes_sent=int(bytes_sent[index]) if bytes_known[index] else None,
        )
    return uses

# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of what work items do while they allocate, as `record --split-allocation` leaves them."""

from __future__ import annotations

from flows import Flow, Span

from balloontrace.format.vocabulary import Function, Part


def hold_up(flow: Flow, part: Part, duration_ns: int, times: int = 1, item: int = -1) -> None:
    """A work item of the flow had this part; its own times stay as they are."""
    items = [span for span in flow.spans if span.function == Function.UPDATE_BALLOON_SIZE_FUNC]
    flow.spans.append(
        Span(
            start_ns=items[item].start_ns,
            duration_ns=duration_ns,
            tid=items[item].tid,
            function=int(Function.ALLOCATION_PARTS),
            flags=0,
            queue=int(part),
            pages=times,
        )
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a driver does besides its work items, as spans of a flow with known times."""

from __future__ import annotations

from flows import Flow

from balloontrace.format.vocabulary import Function, SpanFlag

ANSWER_NS, COLLECT_NS = 40_000, 15_000


def empty(flow: Flow, function: Function, *, tid: int = 79) -> None:
    """virtballoon_freeze or virtballoon_remove gives all pages back."""
    start_ns = flow.now
    flow.remove_driver(tid=tid)
    flow.now += 500
    flow.span(
        function, start_ns, tid=tid, **({} if function is Function.VIRTBALLOON_REMOVE else {"result": 0})
    )


def restore(flow: Flow, *, tid: int = 79) -> None:
    start_ns = flow.now
    flow.now += 7_000
    flow.span(Function.VIRTBALLOON_RESTORE, start_ns, tid=tid, result=0)


def poll(flow: Flow, *, answered: bool = True, tid: int = 60) -> None:
    """The host asks for statistics, and a work item answers ANSWER_NS later."""
    flow.span(Function.STATS_REQUEST, flow.now, tid=0)
    if answered:
        start_ns = flow.now + ANSWER_NS - COLLECT_NS
        flow.now += ANSWER_NS
        flow.span(Function.UPDATE_BALLOON_STATS_FUNC, start_ns, tid=tid)


def fail_to_migrate(flow: Flow, *, tid: int = 77) -> None:
    """The lock was taken: -EAGAIN."""
    start_ns = flow.now
    flow.now += 300
    flow.span(Function.VIRTBALLOON_MIGRATEPAGE, start_ns, tid=tid, result=-11)


def count_in_sends(flow: Flow, before_pages: int) -> None:
    """Sends say how many pages the driver counts, as recorders since format 1.5 have them."""
    pages = before_pages
    for place, span in enumerate(flow.spans):
        if span.function == Function.TELL_HOST:
            pages += span.pages * (1 if span.queue == 0 else -1)
            flow.spans[place] = span._replace(actual_pages=pages, flags=span.flags | SpanFlag.ACTUAL)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Lost spans of the calls that leak_balloon runs inside: what it was is not known then, and never made up."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import synthetic
from flows import Flow, Span
from people import render_table
from record_changes import change_records
from report_checks import report_of

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Function
from balloontrace.results.operation import DRIVER_REMOVED
from balloontrace.results.other_operation import FREEZE_OR_REMOVAL, OUT_OF_MEMORY
from balloontrace.results.report import Report

E1 = Path(__file__).parents[1] / "data" / "cases" / "e1-deflate-on-oom.bt"


def without(lost: Callable[[int, int], bool]) -> Report:
    """The report of a guest out of memory without some of its spans, chosen by number and function."""
    data = change_records(
        E1.read_bytes(),
        lambda spans: [each for place, each in enumerate(spans) if not lost(place, each["function"])],
    )
    return analyse(read_recording(io.BytesIO(data)))


def test_lost_notifications_are_no_removal_of_the_driver() -> None:
    oom = Function.VIRTIO_BALLOON_OOM_NOTIFY
    report = without(lambda place, function: function == oom and place % 3 > 0)
    assert report.spans_missing
    assert FREEZE_OR_REMOVAL not in {each.what for each in report.other_operations}
    assert [each.outcome for each in report.operations] == ["reached"]
    assert DRIVER_REMOVED not in render_table(report)
    assert "removed or frozen" not in render_table(report)


def test_work_items_that_were_lost_are_none_either() -> None:
    work = Function.UPDATE_BALLOON_SIZE_FUNC
    report = without(lambda _place, function: function == work)
    assert "removed or frozen" not in render_table(report)


def test_without_leak_balloon_sends_tell_what_was_given_back() -> None:
    report = without(lambda _place, function: function == Function.LEAK_BALLOON)
    found = [each for each in report.other_operations if each.what == OUT_OF_MEMORY]
    assert sum(each.pages or 0 for each in found) == 77_568
    (balloon,) = report.balloons
    assert [(each.how, each.pages) for each in balloon.given_back] == [(OUT_OF_MEMORY, 77_568)]


def test_a_driver_that_goes_is_still_seen() -> None:
    flow = Flow()
    flow.resize(2048)
    flow.remove_driver()
    report = report_of(flow)
    assert [each.what for each in report.other_operations] == [FREEZE_OR_REMOVAL]


def test_a_notification_inside_an_operation_took_what_its_sends_did() -> None:
    flow = Flow()
    flow.resize(7 * 256, moves={3: 5 * 256})
    flow.oom()
    spans: list[Span] = [span for span in flow.spans if span.function != Function.LEAK_BALLOON]
    flow.spans = spans
    report = analyse(synthetic.recording(flow))
    (found,) = [each for each in report.other_operations if each.what == OUT_OF_MEMORY]
    assert found.pages

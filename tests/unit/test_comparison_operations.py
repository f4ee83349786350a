# SPDX-License-Identifier: GPL-2.0-or-later
"""Which operations of recordings count in a comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import synthetic
from comparisons import only_group
from flows import Expected, Flow
from runs import Setup, make_run, make_runs, scatter, side

from balloontrace.analysis.make_report import analyse
from balloontrace.compare.make_comparison import ComparisonError, compare
from balloontrace.compare.recordings import Recordings
from balloontrace.format.vocabulary import Kind
from balloontrace.results.report import Report


def test_each_kind_and_size_is_a_group_of_its_own() -> None:
    before = make_runs(Setup(deflate=True), scatter(3)) + make_runs(Setup(mib=32), scatter(2))
    after = make_runs(Setup(deflate=True), scatter(2), (5, 6)) + make_runs(Setup(mib=8), scatter(1))
    comparison = compare(side("before", before), side("after", after))
    assert [(each.kind, each.pages, len(each.before), len(each.after)) for each in comparison.groups] == [
        ("inflate", 4096, 3, 2),
        ("deflate", 4096, 3, 2),
    ]
    assert [(each.side, each.recording, each.operations, each.reason) for each in comparison.left_out] == [
        ("before", "before-3-guest.bt", (1,), "the other side has none of its kind and size"),
        ("before", "before-4-guest.bt", (1,), "the other side has none of its kind and size"),
        ("after", "after-2-guest.bt", (1,), "the other side has none of its kind and size"),
    ]
    assert comparison.before.operations == 6
    alone = compare(side("before", before), side("after", after), (Kind.DEFLATE,))
    assert [each.kind for each in alone.groups] == ["deflate"]
    assert alone.left_out == ()


def spoilt_report(spoil: Callable[[Flow], None]) -> Report:
    flow = Flow()
    spoil(flow)
    return analyse(synthetic.recording(flow))


def stall(flow: Flow) -> None:
    flow.interrupt(4096)
    expected = Expected(0, "inflate", flow.now)
    flow.work(expected, granted=[256, 0], max_items=2)


def turn_round(flow: Flow) -> None:
    flow.resize(8192, max_items=3)
    flow.resize(256)


def move_target(flow: Flow) -> None:
    flow.resize(2048, moves={3: 4096})


def begin_before(flow: Flow) -> None:
    flow.target = 4096
    flow.work(Expected(0, "inflate", flow.now))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (stall, "it did not reach its target: stalled"),
        (turn_round, "it did not reach its target: superseded"),
        (move_target, "its target moved"),
        (begin_before, "it began before the recording"),
    ],
)
def test_what_is_no_whole_operation_is_left_out(spoil: Callable[[Flow], None], reason: str) -> None:
    good, other = (make_run(Setup(), number=number).report("good") for number in range(2))
    comparison = compare(Recordings("before", (good, spoilt_report(spoil))), Recordings("after", (other,)))
    assert (comparison.left_out[0].side, comparison.left_out[0].reason) == ("before", reason)
    assert len(only_group(comparison).before) == 1
    with pytest.raises(ComparisonError, match=f"^bad holds no complete inflate to compare: {reason}"):
        compare(Recordings("bad", (spoilt_report(spoil),)), Recordings("after", (good,)), (Kind.INFLATE,))


def test_a_target_that_was_not_seen() -> None:
    flow = Flow(config_traced=False)
    flow.resize(4096)
    report = analyse(synthetic.recording(flow))
    with pytest.raises(ComparisonError, match="whether it reached its target is not known"):
        compare(Recordings("before", (report,)), Recordings("after", (report,)))


def test_a_recording_with_a_part_missing_does_not_count() -> None:
    good = make_run(Setup()).report("good")
    with pytest.raises(ComparisonError, match="a part of its recording is missing"):
        compare(Recordings("before", (replace(good, spans_missing=3),)), Recordings("after", (good,)))

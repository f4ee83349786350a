# SPDX-License-Identifier: GPL-2.0-or-later
"""Compaction in a storm, known mostly as sums: all counts stay, nothing counts as lost."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import synthetic
from flows import Flow, Span, Times
from patched_flows import PatchedFlow
from synthetic_both import guest_recording
from synthetic_host import batches, host_recording

from balloontrace.analysis.make_report import analyse
from balloontrace.errors import RecordingError
from balloontrace.format.guest_layout import FUNCTION_COUNTERS
from balloontrace.format.recording import Recording
from balloontrace.format.vocabulary import Function
from balloontrace.render.report.recording_section import loss_table
from balloontrace.results.report import Report

MIGRATIONS, WITH_SPANS = 300, 20
MIB_PAGES = 256
ROW = [name for name, _, _ in FUNCTION_COUNTERS.fields]


def storm(flow: Flow | None = None) -> tuple[Flow, list[Span]]:
    """An inflate, a storm, a deflate; and the spans of those of its migrations that were summed up."""
    flow = flow or Flow(times=Times(send=1_500_000))
    flow.resize(100 * MIB_PAGES)
    for _ in range(WITH_SPANS):
        flow.migrate()
    first = len(flow.spans)
    for _ in range(MIGRATIONS - WITH_SPANS):
        flow.migrate()
    summed = flow.spans[first:]
    flow.now += 3_000_000_000
    flow.resize(0)
    return flow, summed


def sums_of(flow: Flow, summed: list[Span]) -> Mapping[Function, Mapping[str, int]]:
    """What the programs count of each function; `flow` still has all its spans."""
    counts: dict[Function, dict[str, int]] = {}
    for span in flow.spans:
        row = counts.setdefault(Function(span.function), dict.fromkeys(ROW, 0))
        row["entries"] += 1
        row["returns"] += 1
        row["duration_ns"] += span.duration_ns
        row["pages"] += span.pages
        if span in summed:
            row["summed"] += 1
            row["summed_ns"] += span.duration_ns
            row["summed_pages"] += 1 if span.function == Function.VIRTBALLOON_MIGRATEPAGE else span.pages
    return counts


def recordings(flow: Flow, summed: list[Span]) -> tuple[Recording, Recording]:
    """With a span of each call, and with sums."""
    whole, counts = guest_recording(flow), sums_of(flow, summed)
    short = copy.copy(flow)
    short.spans = [span for span in flow.spans if span not in summed]
    recording = guest_recording(short)
    losses = {
        function.symbol: {
            **{name: row[name] for name in ROW if name not in ("duration_ns", "pages")}, "missed": 0
        }
        for function, row in counts.items()
    }  # fmt: skip
    raw = bytearray(recording.counters or b"")
    for function, row in counts.items():
        start = function * FUNCTION_COUNTERS.size_bytes
        raw[start : start + FUNCTION_COUNTERS.size_bytes] = FUNCTION_COUNTERS.decoder.pack(*row.values())
    end = {**(recording.end or {}), "losses": losses}
    return whole, replace(recording, end=end, counters=bytes(raw))


def assert_the_same(one: Report, other: Report) -> None:
    assert {each.what: each for each in one.outside} == {each.what: each for each in other.outside}
    assert one.operations == other.operations
    assert one.checks == other.checks
    assert (other.events_lost, other.spans_missing) == (0, 0)


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("ended", [True, False])
def test_sums_stand_in_for_spans(*, patched: bool, ended: bool) -> None:
    flow, summed = storm(PatchedFlow() if patched else None)
    whole, short = recordings(flow, summed)
    if not ended:
        whole, short = replace(whole, end=None), replace(short, end=None)
    report = analyse(short)
    assert_the_same(analyse(whole), report)
    (said,) = [each for each in report.warnings if "sums alone" in each]
    assert said.startswith("280 migrations by compaction with 560 sends are known as sums alone: ")


def test_the_table_of_probes_says_how_many() -> None:
    whole, short = (analyse(each) for each in recordings(*storm()))
    assert "summed up" not in loss_table(whole.losses).names
    table = loss_table(short.losses)
    assert table.names[-1] == "summed up"
    assert [loss.summed for loss in short.losses if loss.summed] == [560, 280]


def test_both_sides_are_matched_by_what_is_left() -> None:
    flow, summed = storm()
    whole, short = recordings(flow, summed)
    host = host_recording(batches(flow))
    report, known = analyse(short, host), analyse(whole, host)
    assert [each.served for each in report.operations] == [each.served for each in known.operations]
    for mine, theirs in zip(report.operations, known.operations, strict=True):
        # The two ways of b depend on how well the clocks are known, by fewer pairs.
        apart = [[row for row in each.stages if row.part_of != "b"] for each in (mine, theirs)]
        assert apart[0] == apart[1]
    assert report.host is not None
    assert report.host.pairing is not None
    assert report.host.pairing.pairs == 200
    assert "no buffer was looked for of compaction's sends: 560 are sums alone" in report.host.pairing.notes


def test_what_cannot_be_matched_says_that_sends_are_unknown() -> None:
    flow, summed = storm()
    _, short = recordings(flow, summed)
    found = batches(flow)
    for each in range(0, len(found), 3):
        found[each] = replace(found[each], pages=77)
    with pytest.raises(RecordingError, match="560 sends by compaction are known as sums alone"):
        analyse(short, host_recording(found))


def test_old_recordings_sum_nothing_up() -> None:
    flow, _ = storm()
    report = analyse(synthetic.recording(flow))
    assert {loss.summed for loss in report.losses} == {None}
    assert not [each for each in report.warnings if "sums alone" in each]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Free page hinting: calls become an operation for each migration, and nothing of it is in an inflate."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
import synthetic
from flows import Flow, Span, typical_flow
from page_hinting import (
    BLOCK_PAGES,
    CALL_NS,
    DONE,
    FIRST,
    SECOND,
    SETTINGS,
    STOP,
    TID,
    hint_span,
    migration_spans,
    shrink_span,
)
from report_checks import assert_adds_up, report_of
from sound_reports import assert_sound

from balloontrace.analysis.make_report import analyse, examine
from balloontrace.export.event_rows import described_events
from balloontrace.export.make_time_line import build_timeline
from balloontrace.format.vocabulary import Function, SpanFlag
from balloontrace.render import blocks_text
from balloontrace.render.json import render_json
from balloontrace.render.report.csv import render_csv
from balloontrace.render.report.sections import describe_report
from balloontrace.results.page_hinting import (
    ANOTHER_COMMAND,
    NO_BLOCK_LEFT,
    SHRINKER,
    STOPPED,
    HintOperation,
    PageHinting,
)
from balloontrace.results.page_hinting import DONE as WHEN_DONE

MS = 10**6
START_NS = 10**9


def hinting_of(*spans: Span, **changes: object) -> PageHinting:
    flow = Flow()
    flow.spans += spans
    found = analyse(synthetic.recording(flow, changes={"page_hinting": SETTINGS, **changes})).page_hinting
    assert found is not None
    return found


def only(*spans: Span, **changes: object) -> HintOperation:
    (operation,) = hinting_of(*spans, **changes).operations
    return operation


def text_of(flow: Flow) -> str:
    shown = blocks_text.text_of(describe_report(report_of(flow, page_hinting=SETTINGS)))
    assert max(map(len, shown.splitlines())) <= 80
    return " ".join(shown.split())


def test_a_migration_is_one_operation() -> None:
    found = hinting_of(*migration_spans(START_NS))
    assert (found.calls, found.calls_ns, found.unknown_calls, found.order) == (4, 4 * CALL_NS, 0, 10)
    (operation,) = found.operations
    assert (operation.number, operation.started_ns, operation.wall_ns) == (1, START_NS, 9 * MS + CALL_NS)
    assert (operation.blocks, operation.pages, operation.held_pages) == (103, 103 * BLOCK_PAGES, 0)
    assert operation.sending_ns == 2 * CALL_NS
    assert operation.rate_bytes_per_s == pytest.approx(103 * BLOCK_PAGES * 4096 / (2 * CALL_NS / 1e9))
    assert [(each.command_id, each.blocks, each.ended_by) for each in operation.rounds] == [
        (FIRST, 100, NO_BLOCK_LEFT),
        (SECOND, 3, STOPPED),
    ]
    assert [(each.why, each.calls, each.blocks, each.duration_ns) for each in operation.returns] == [
        (SHRINKER, 2, 40, 14_000),
        (WHEN_DONE, 1, 63, CALL_NS),
    ]
    assert operation.returns[0].started_ns == START_NS + 3 * MS


def test_each_migration_is_an_operation_of_its_own() -> None:
    found = hinting_of(*migration_spans(START_NS), *migration_spans(2 * START_NS))
    assert [(each.number, each.blocks) for each in found.operations] == [(1, 103), (2, 103)]


def test_a_recording_that_ends_before_all_is_back() -> None:
    operation = only(*migration_spans(START_NS)[:4])
    assert (operation.wall_ns, operation.held_pages) == (None, 64 * BLOCK_PAGES)
    assert [each.why for each in operation.returns] == [SHRINKER]


def test_a_recording_that_begins_in_the_middle_gives_back_more_than_it_saw() -> None:
    operation = only(*migration_spans(START_NS)[2:])
    assert (operation.blocks, operation.returns[1].blocks, operation.held_pages) == (3, 63, 0)


def test_a_shrinker_that_returns_before_the_round_does() -> None:
    operation = only(
        hint_span(START_NS, FIRST, FIRST, blocks=7, held=5), shrink_span(START_NS + 10, 2, duration_ns=20)
    )
    assert (operation.started_ns, operation.blocks, operation.held_pages) == (START_NS, 7, 5 * BLOCK_PAGES)


def test_calls_that_found_nothing_to_do_are_no_operation() -> None:
    found = hinting_of(
        hint_span(START_NS, 0, STOP), hint_span(2 * START_NS, 0, DONE), shrink_span(3 * START_NS, 0)
    )
    assert (found.calls, found.operations) == (2, ())


def test_two_balloons_have_their_own() -> None:
    found = hinting_of(
        hint_span(START_NS, FIRST, SECOND, blocks=2, held=2),
        hint_span(START_NS + MS, FIRST, FIRST, blocks=5, held=5, device=4),
        hint_span(START_NS + 2 * MS, 0, DONE, returned=2),
    )
    first, second = found.operations
    assert (first.device, first.blocks, first.wall_ns) == ("virtio0", 2, 2 * MS + CALL_NS)
    assert first.rounds[0].ended_by == ANOTHER_COMMAND
    assert (second.device, second.blocks, second.wall_ns) == ("virtio4", 5, None)


def test_what_was_not_measured_is_empty() -> None:
    """No type information: times alone. No order: pages, but no blocks."""
    silent = hint_span(START_NS, 0, 0)._replace(flags=SpanFlag(0))
    found = hinting_of(silent)
    assert (found.calls, found.unknown_calls, found.operations) == (1, 1, ())
    operation = only(*migration_spans(START_NS), page_hinting=None)
    assert (operation.blocks, operation.pages, operation.held_pages) == (None, 103 * BLOCK_PAGES, None)
    assert {each.blocks for each in operation.rounds} == {each.blocks for each in operation.returns} == {None}


def test_hints_during_an_inflate_are_none_of_it() -> None:
    alone, both = typical_flow(), typical_flow()
    both.spans += migration_spans(both.spans[0].start_ns)
    before, after = report_of(alone), report_of(both)
    assert (before.page_hinting, after.page_hinting is None) == (None, False)
    for name in ("operations", "totals", "outside", "checks", "balloons", "pages_moved", "pages_unseen"):
        assert getattr(after, name) == getattr(before, name), name
    assert_adds_up(after)


def test_a_report_says_it_in_words() -> None:
    flow = Flow()
    flow.spans += migration_spans(START_NS)
    shown = text_of(flow)
    assert "Page hinting 1 of virtio0: 103 blocks, 412 MiB in 100 us" in shown
    assert f"command {FIRST}: 400 MiB in 50.0 us, until no free block left" in shown
    assert f"command {SECOND}: 12.0 MiB in 50.0 us, until stopped by the device" in shown
    assert "given back for want of memory: 160 MiB in 2 calls (14.0 us), 3.00 ms after" in shown
    assert "given back when done: 252 MiB in 1 call (50.0 us), 9.00 ms after the first command" in shown


def test_a_report_says_what_is_still_held_and_what_is_not_known() -> None:
    flow = Flow()
    flow.spans += [
        *migration_spans(START_NS)[:1],
        hint_span(2 * START_NS, 0, 0)._replace(flags=SpanFlag.DEVICE),
    ]
    shown = text_of(flow)
    assert "not done" in shown
    assert "still held: 400 MiB" in shown
    assert "what 1 call did is not known" in shown


def test_only_the_first_of_many_are_shown() -> None:
    flow = Flow()
    for number in range(30):
        flow.spans += migration_spans(START_NS + number * 10 * MS)
    assert "Page hinting 9" not in text_of(flow)
    assert "and 22 more operations" in text_of(flow)


def test_nothing_is_said_where_it_was_not_traced() -> None:
    assert "Page hinting" not in text_of(typical_flow())


def test_feature_is_said_to_be_untraced_only_where_it_is() -> None:
    flow, without = Flow(), Flow()
    flow.spans += migration_spans(START_NS)
    device = [{"name": "virtio0", "index": 0, "features": ["FREE_PAGE_HINT"], "feature_bits": [3]}]
    for each, expected in ((flow, False), (without, True)):
        said = report_of(each, devices=device).not_measured
        assert any("free page hinting" in sentence for sentence in said) is expected


def test_every_format_has_it() -> None:
    flow = Flow()
    flow.spans += migration_spans(START_NS)
    examined = examine(synthetic.recording(flow, changes={"page_hinting": SETTINGS}))
    fields = json.loads(render_json(examined.report))["page_hinting"]
    assert fields == json.loads(json.dumps(dataclasses.asdict(examined.report.page_hinting)))  # type: ignore[arg-type]
    table = list(csv.DictReader(io.StringIO(render_csv(examined.report))))
    told = [
        (each["level"], each["kind"], each["pages"], each["value"], each["count"])
        for each in table
        if each["level"].startswith("hint")
    ]
    assert told == [
        ("hint", "", str(103 * BLOCK_PAGES), "", "2"),
        ("hint_command", "", str(100 * BLOCK_PAGES), str(FIRST), ""),
        ("hint_command", "", str(3 * BLOCK_PAGES), str(SECOND), ""),
        ("hint_return", SHRINKER, str(40 * BLOCK_PAGES), "", "2"),
        ("hint_return", WHEN_DONE, str(63 * BLOCK_PAGES), "", "1"),
    ]
    rows = [each for each in described_events(examined) if each["type"] == "span"]
    names = ("command_id", "received_id", "returned_pages", "held_blocks", "pages", "target_pages")
    assert [tuple(row[name] for name in names) for row in rows if row["tid"] == TID] == [
        (FIRST, FIRST, 0, 100, 100 * BLOCK_PAGES, None),
        (None, STOP, 0, 100, 0, None),
        (SECOND, STOP, 0, 103, 3 * BLOCK_PAGES, None),
        (None, DONE, 63 * BLOCK_PAGES, 0, 0, None),
    ]
    assert {row["held_blocks"] for row in rows if row["tid"] != TID} == {None}
    (guest,) = build_timeline(examined).processes
    names_of_tracks = {track.name: [each.name for each in track.slices] for track in guest.tracks}
    assert names_of_tracks[f"page hinting (thread {TID})"] == [Function.REPORT_FREE_PAGE_FUNC.symbol] * 4


@pytest.mark.parametrize("order", [10, 0, 63, -1, None])
def test_whatever_a_recording_says_nothing_negative_comes_out(order: int | None) -> None:
    """The shrinker gave back more than there was, and before it was hinted; ids and numbers are all bits."""
    most = 2**32 - 1
    flow = Flow()
    flow.spans += [
        shrink_span(START_NS + MS - 10, 2000),
        hint_span(START_NS, most, most, blocks=1, held=3)._replace(config_ns=2**64 - 1),
        hint_span(START_NS + MS, 0, DONE)._replace(config_ns=2**64 - 1, pages=most),
        shrink_span(START_NS + 2 * MS, 5, duration_ns=0),
        hint_span(START_NS + 3 * MS, FIRST, STOP, blocks=1, held=1)._replace(duration_ns=0),
    ]
    report = assert_sound(synthetic.recording(flow, changes={"page_hinting": {"order": order}}))
    assert report.page_hinting is not None
    assert len(report.page_hinting.operations) == 2

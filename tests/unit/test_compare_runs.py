# SPDX-License-Identifier: GPL-2.0-or-later
"""What recordings have besides inflates and deflates: reports, hints, out of memory, statistics."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from compare_folders import said
from html_tree import assert_sound
from other_runs import ALL, Others, make_other_run, other_recording, other_side, scattered, with_others
from other_work import ANSWER_NS
from page_hinting import BLOCK_PAGES, CALL_NS
from page_reporting import TRANSPORT_NS, WORK_NS, pages_in
from people import render_comparison, render_comparison_markdown
from runs import in_turn
from schemas import hold, validator

from balloontrace.commands.compare import hold_to
from balloontrace.compare.make_comparison import ComparisonError, compare
from balloontrace.compare.recordings import Recordings
from balloontrace.errors import BalloontraceError
from balloontrace.format.vocabulary import Function, Kind
from balloontrace.render.blocks_text import WIDTH_COLUMNS
from balloontrace.render.comparison.csv import render_comparison_csv
from balloontrace.render.comparison.html import render_comparison_html
from balloontrace.render.comparison.sections import describe_comparison
from balloontrace.render.json import render_comparison_json
from balloontrace.results.comparison import Comparison, Row, RunGroup

REPORTS = Others(({9: 3, 10: 29}, {9: 7}))
PAGES = pages_in({9: 10, 10: 29})
GIB_PAGES = 1 << 18


def group_of(comparison: Comparison, what: str) -> RunGroup:
    (found,) = [group for group in comparison.run_groups if group.what == what]
    return found


def row_of(group: RunGroup, name: str) -> Row:
    (found,) = [row for row in (*group.times, *group.counts) if row.name == name]
    return found


def compared(before: Sequence[Others], after: Sequence[Others]) -> Comparison:
    count = len(before)
    numbers = in_turn(count) if len(after) == count else (range(count), range(count, count + len(after)))
    return compare(other_side("before", before, numbers[0]), other_side("after", after, numbers[1]))


def test_each_sort_is_summed_up_over_a_recording() -> None:
    (values,) = [
        {group.what: dict(group.before[0].values) for group in each.run_groups}
        for each in [compared([ALL], [ALL])]
    ]
    report = values["report"]
    assert (report["reports"], report["cycles"], report["failed"]) == (2, 3, 0)
    assert (report["pages"], report["bytes"], report["blocks"]) == (PAGES, PAGES * 4096, 39)
    orders = {name: value for name, value in report.items() if name.startswith("blocks.order_") and value}
    assert orders == {"blocks.order_9": 10, "blocks.order_10": 29}
    assert (report["worker_ns"], report["transport_ns"]) == (5 * WORK_NS, 2 * TRANSPORT_NS)
    assert report["transport_ns_per_gib"] == pytest.approx(2 * TRANSPORT_NS * GIB_PAGES / PAGES)
    minutes = report["recorded_ns"] / 60e9
    assert report["bytes_per_minute"] == pytest.approx(PAGES * 4096 / minutes)
    assert "host_d_ns" not in report
    hint = values["hint"]
    assert (hint["migrations"], hint["commands"], hint["blocks"]) == (1, 2, 103)
    assert (hint["pages"], hint["sending_ns"]) == (103 * BLOCK_PAGES, 2 * CALL_NS)
    assert hint["bytes_per_s"] == pytest.approx(hint["bytes"] / (hint["sending_ns"] / 1e9))
    assert hint["pages_taken_early"] == 40 * BLOCK_PAGES
    oom = values["oom"]
    assert (oom["operations"], oom["calls"], oom["pages"]) == (1, 2, 512)
    assert oom["calls_ns_per_gib"] == pytest.approx(oom["calls_ns"] * GIB_PAGES / 512)
    statistics = values["statistics"]
    assert (statistics["polls"], statistics["answers"]) == (3, 3)
    assert statistics["answer_p50_ns"] == ANSWER_NS


def test_more_reported_is_more_and_cheaper_for_each_gib() -> None:
    group = group_of(with_others(), "report")
    assert (group.order, group.design) == ("pairs", "paired")
    pages, per_gib = row_of(group, "pages"), row_of(group, "transport_ns_per_gib")
    assert pages.verdict == "more"
    assert pages.ratio == pytest.approx(row_of(group, "bytes").ratio)
    assert (per_gib.verdict, per_gib.unit) == ("faster", "ns/GiB")
    assert per_gib.ratio == pytest.approx(1 / (pages.ratio or 1))
    assert row_of(group, "transport_ns").verdict == "same"
    assert row_of(group, "blocks.order_9").verdict is None
    assert row_of(group, "recorded_ns").verdict is None
    assert {row.verdict for row in group_of(with_others(), "hint").counts} == {"same", None}


def test_the_same_on_both_sides_is_no_difference() -> None:
    comparison = compared(scattered(8), scattered(8))
    verdicts = {
        row.verdict for group in comparison.run_groups for row in (*group.times, *group.counts)
    }  # fmt: skip
    assert verdicts <= {"same", "~", None}


def test_times_for_each_gib_are_shown_where_amounts_differ() -> None:
    names = {row.name for row in group_of(compared([REPORTS] * 2, [REPORTS] * 2), "report").times}
    assert names == {"recorded_ns", "worker_ns", "transport_ns"}
    other = Others(({9: 8},))
    names = {row.name for row in group_of(compared([REPORTS] * 2, [other] * 2), "report").times}
    assert {"worker_ns_per_gib", "transport_ns_per_gib"} <= names


def test_there_is_nothing_where_neither_side_has_any() -> None:
    plain = Others(inflates=True)
    assert compared([plain] * 2, [plain] * 2).run_groups == ()
    found = compared([plain] * 2, [replace(REPORTS, inflates=True)] * 2)
    (group,) = found.run_groups
    assert (group.what, len(group.before), len(group.after)) == ("report", 0, 2)
    assert "not measured before" in group.notes
    assert row_of(group, "pages").before.n == 0


def test_one_kind_alone_leaves_them_out() -> None:
    sides = [other_side(name, scattered(2), (at, at + 1)) for name, at in (("before", 0), ("after", 2))]
    comparison = compare(sides[0], sides[1], (Kind.INFLATE,), ())
    assert comparison.groups
    assert comparison.run_groups == ()
    comparison = compare(sides[0], sides[1], (), ("oom",))
    assert [group.what for group in comparison.run_groups] == ["oom"]
    assert comparison.groups == ()
    plain = other_side("plain", [Others(inflates=True)], [5])
    with pytest.raises(ComparisonError, match="before and plain do not both have what is to be compared"):
        compare(sides[0], plain, (), ("report",))


@pytest.mark.parametrize(("kind", "title"), [("hint", "Page hinting: "), ("inflate", "Inflate of ")])
def test_the_command_takes_each_sort_as_a_kind(
    kind: str, title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("before.bt", "after.bt")):
        (tmp_path / name).write_bytes(other_recording(ALL, number))
    done = said(capsys, tmp_path / "before.bt", tmp_path / "after.bt", "--kind", kind)
    assert done.status == 0
    titles = ("Page hinting: ", "Inflate of ", "Page reporting: ", "Out of memory: ", "Statistics queue: ")
    assert [each for each in titles if f"\n{each}" in done.stdout] == [title]


def test_recordings_without_any_inflate_are_compared_too() -> None:
    comparison = compared([REPORTS] * 2, [REPORTS] * 2)
    assert (comparison.groups, comparison.warnings) == ((), ())
    assert [group.what for group in comparison.run_groups] == ["report"]
    with pytest.raises(BalloontraceError, match="no inflate or deflate of the same size is on both sides"):
        hold_to(5, comparison)
    with pytest.raises(ComparisonError):
        compared([Others()] * 2, [REPORTS] * 2)


def test_inflates_of_other_sizes_are_said_beside_what_is_compared() -> None:
    before = other_side("before", [replace(REPORTS, inflates=True)], [0])
    comparison = compare(before, other_side("after", [REPORTS], [1]))
    assert any("holds no complete operation to compare" in each for each in comparison.warnings)


def test_a_recording_counts_once_and_whole() -> None:
    first, second = make_other_run(REPORTS, 0), make_other_run(REPORTS, 1)
    cut = replace(make_other_run(REPORTS, 2), spans_missing=1)
    after = make_other_run(REPORTS, 3)
    found = compare(Recordings("b", (first, first, second, cut)), Recordings("a", (after,)))
    group = group_of(found, "report")
    assert [run.recording for run in group.before] == ["run-0.bt", "run-1.bt"]
    assert "left out of before: 1 recording with a part missing" in group.notes
    assert "left out of before: 1 recording that is a copy" in group.notes
    thrice = group_of(compare(Recordings("b", (first,) * 3), Recordings("a", (after,))), "report")
    assert "left out of before: 2 recordings that are copies" in thrice.notes


def test_a_recording_on_both_sides_proves_nothing() -> None:
    mine = [make_other_run(REPORTS, number) for number in range(4)]
    found = compare(Recordings("b", tuple(mine[:3])), Recordings("a", tuple(mine[2:])))
    group = group_of(found, "report")
    assert ([run.recording for run in group.before], len(group.after)) == (["run-0.bt", "run-1.bt"], 1)
    assert "left out of after: 1 recording that is on both sides" in group.notes
    same = group_of(compare(Recordings("b", tuple(mine)), Recordings("a", tuple(mine))), "report")
    assert "the same recordings are on both sides, which proves nothing" in same.notes
    assert {row.verdict for row in (*same.times, *same.counts)} == {None}
    assert {row.ratio for row in same.counts if row.before.median} == {1.0}


def test_what_was_not_traced_is_empty_and_what_did_not_happen_is_zero() -> None:
    attached = [
        {"function": function.symbol, "status": "attached"}
        for function in (Function.VIRTBALLOON_FREE_PAGE_REPORT, Function.VIRTIO_BALLOON_OOM_NOTIFY)
    ]
    quiet = [make_other_run(Others(), number, probes=attached) for number in range(2)]
    busy = [make_other_run(ALL, number) for number in range(2, 4)]
    found = compare(Recordings("b", tuple(quiet)), Recordings("a", tuple(busy)))
    report, oom = group_of(found, "report"), group_of(found, "oom")
    assert (row_of(report, "pages").before.median, row_of(report, "pages").ratio) == (0, None)
    assert row_of(report, "cycles").before.n == 0
    assert (row_of(oom, "calls").before.median, row_of(oom, "calls").after.median) == (0, 2)
    assert "not measured before" in group_of(found, "hint").notes


def test_every_format_has_them() -> None:
    comparison = with_others()
    told = json.loads(render_comparison_json(comparison))
    hold(validator("compare"), told)
    groups = {group["what"]: group for group in told["run_groups"]}
    assert list(groups) == ["report", "hint", "oom", "statistics"]
    text, markdown = render_comparison(comparison), render_comparison_markdown(comparison)
    assert max(map(len, text.splitlines())) <= WIDTH_COLUMNS
    for words in (text, markdown):
        assert "Page reporting: 6 recordings before, 6 after" in words
        assert "Statistics queue: 6 recordings before, 6 after" in words
    rows = list(csv.DictReader(io.StringIO(render_comparison_csv(comparison))))
    for what, group in groups.items():
        mine = [row for row in rows if row["kind"] == what]
        for level, field in (("time", "times"), ("count", "counts")):
            shown = [row for row in mine if row["level"] == level]
            assert [row["name"] for row in shown] == [row["name"] for row in group[field]]
            assert [row["unit"] for row in shown] == [row["unit"] for row in group[field]]
            assert [row["verdict"] or None for row in shown] == [row["verdict"] for row in group[field]]
        values = [row for row in mine if row["level"] == "replicate"]
        assert len(values) == sum(len(run["values"]) for side in ("before", "after") for run in group[side])
        assert {row["operation"] for row in values} == {""}


def test_the_page_has_their_numbers() -> None:
    tree = assert_sound(render_comparison_html(with_others()))
    for group in with_others().run_groups:
        section = tree.by_id(f"runs-of-{group.what}")
        rows = [row.attributes["data-row"] for row in section.all("tr") if "data-row" in row.attributes]
        assert rows == [row.name for row in (*group.times, *group.counts)]
        for note in group.notes:
            assert note in [item.text for item in section.all("li")]


def test_a_page_of_such_runs_alone() -> None:
    page = render_comparison_html(compared([REPORTS] * 2, [REPORTS] * 2))
    assert_sound(page)
    assert "Page reporting: 2 recordings before, 2 after" in page
    assert describe_comparison(compared([REPORTS] * 2, [REPORTS] * 2))
